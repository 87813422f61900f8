"""What a pass may have to know that is not in the Workflow: it asks, and is made again with it.

``plan`` reads nothing. Where it needs a value that lies elsewhere it notes the need, leaves that
step as it is, and goes on with the others; whoever called it fetches what was noted and plans
again, before anything is written.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ArtifactNeed:
    """A stored value; the fact is the JSON value."""

    run_id: str
    sha256: str
    size: int


@dataclass(frozen=True)
class MemoNeed:
    """An earlier result; the fact is a ``Memo``, or None where there is none."""

    key: str


@dataclass(frozen=True)
class ConfigMapNeed:
    """A key of a ConfigMap; the fact is its text, or None where there is none."""

    name: str
    key: str


Need = ArtifactNeed | MemoNeed | ConfigMapNeed


@dataclass(frozen=True)
class Memo:
    """An earlier result."""

    output: Any
    at: float
    """When it was made, in seconds since the epoch."""


@dataclass(frozen=True)
class Lost:
    """A stored value that is not there any more; a sentence says so."""

    message: str


class NotYetKnownError(Exception):
    """A need was noted; what asked for it is to be left as it is."""


@dataclass
class Facts:
    """What is known, and what was asked for in vain."""

    known: dict[Need, Any] = field(default_factory=dict)
    needs: set[Need] = field(default_factory=set)

    def get(self, need: Need) -> Any:
        """The fact.

        Raises:
            NotYetKnownError: it is not known yet, and noted.
        """
        if need in self.known:
            return self.known[need]
        self.needs.add(need)
        raise NotYetKnownError(need)
