"""What tells one tool call from another, and a repetition from a new one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corral.api.attempt import META_ATTEMPT_ID, META_CORRELATION_ID, META_EFFECT_KEY
from corral.worker.schema import compact_json


@dataclass(frozen=True)
class Identity:
    """What every tool call of an attempt carries."""

    attempt_id: str
    effect_key: str
    correlation_id: str | None = None

    def meta(self, tool: str, arguments: Mapping[str, Any], ordinal: int) -> dict[str, str]:
        """The ``_meta`` of a call.

        Args:
            ordinal: from 1, the how-manieth call with this tool and these arguments it is.
        """
        key = f"{self.effect_key}/{tool}/{digest(arguments)}/{ordinal}"
        meta = {META_EFFECT_KEY: key, META_ATTEMPT_ID: self.attempt_id}
        if self.correlation_id:
            meta[META_CORRELATION_ID] = self.correlation_id
        return meta


def digest(arguments: Mapping[str, Any]) -> str:
    """A hash of a tool's arguments, whatever the order of their keys."""
    return hashlib.sha256(compact_json(arguments).encode(errors="replace")).hexdigest()[:16]
