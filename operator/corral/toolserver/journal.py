"""What was called: for demos to show and for tests to ask."""

import hashlib
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from corral.api.attempt import META_ATTEMPT_ID, META_CORRELATION_ID, META_EFFECT_KEY
from corral.api.trace import TRACEPARENT
from corral.api.types import Resource

_LENGTH = 20_000
_TEXT_LENGTH = 2000
_OF_HTTP = frozenset({"accept", "accept-encoding", "connection", "content-length", "content-type"})


class JournalEntry(Resource):
    """One call of a tool. Headers are kept as digests: some are secrets."""

    time: str
    tool: str
    arguments: dict[str, object]
    outcome: str
    """``Answered``, ``Failed``, or ``Repeated``: an effect that its key says has been before."""
    effect_key: str | None = None
    attempt_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    """Of the call's ``_meta``: the span that the caller said the call is."""
    header_digests: dict[str, str] = Field(default_factory=dict)
    """By the header's name in lower case: the first 12 digits of its value's SHA-256."""


class Journal:
    """Calls, oldest first; the oldest go when it is full."""

    def __init__(self) -> None:
        self._entries: deque[JournalEntry] = deque(maxlen=_LENGTH)

    def record(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        outcome: str,
        meta: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        """Adds a call."""
        self._entries.append(
            JournalEntry(
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                tool=tool,
                arguments={
                    name: value[:_TEXT_LENGTH] if isinstance(value, str) else value
                    for name, value in arguments.items()
                },
                outcome=outcome,
                effect_key=meta.get(META_EFFECT_KEY),
                attempt_id=meta.get(META_ATTEMPT_ID),
                correlation_id=meta.get(META_CORRELATION_ID),
                traceparent=meta.get(TRACEPARENT),
                header_digests={
                    name.lower(): digest(value)
                    for name, value in headers.items()
                    if name.lower() not in _OF_HTTP
                },
            )
        )

    def entries(self, filters: Mapping[str, str]) -> list[dict[str, object]]:
        """Entries whose fields equal the filters (tool=…, outcome=…, effectKey=…)."""
        entries = (entry.to_json() for entry in self._entries)
        return [
            entry
            for entry in entries
            if all(str(entry.get(name, "")) == value for name, value in filters.items())
        ]

    def clear(self) -> None:
        """Forgets all calls."""
        self._entries.clear()


def digest(value: str) -> str:
    """Tells values apart without showing them."""
    return hashlib.sha256(value.encode()).hexdigest()[:12]
