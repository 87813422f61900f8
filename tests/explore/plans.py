"""What happens to the operator's calls in one exploration.

A plan is text: ``kill-before@17``, ``kill-after@17,kill-before@31``, ``watch-shuffled@3``. Calls
are numbered from 1, over all operators of the exploration, without those for the Lease.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens to one call, or at it."""

    KILL_BEFORE = "kill-before"
    """The operator is killed, and the call never leaves."""
    KILL_AFTER = "kill-after"
    """The call has its effect, and the operator is killed before it hears of it."""
    REPLY_LOST = "reply-lost"
    """The call has its effect, and the operator sees a broken connection."""
    CONFLICT = "conflict"
    """The API server answers 409, and nothing has changed."""
    ERROR = "error"
    """The API server answers 500, and nothing has changed."""
    THROTTLED = "throttled"
    """The API server answers 429 with Retry-After, and nothing has changed."""
    WORKER_KILLED = "worker-killed"
    """The worker that is called is killed as the call arrives, or another if none is called."""
    WORKER_KILLED_LATER = "worker-killed-later"
    """The same, in the middle of what it then does."""


class Watching(StrEnum):
    """What happens to everything that watches tell."""

    LATE = "watch-late"
    """It comes that many seconds late."""
    SHUFFLED = "watch-shuffled"
    """It comes in another order, and some of it twice; the number is a seed."""


KILLS = (Fault.KILL_BEFORE, Fault.KILL_AFTER)
WORKER_KILLS = (Fault.WORKER_KILLED, Fault.WORKER_KILLED_LATER)


@dataclass(frozen=True)
class Call:
    """One call of an operator."""

    verb: str
    """An HTTP method."""
    target: str
    """Whom it goes to, and what about."""
    to_worker: bool = False
    optional: bool = False
    """Whether the operator does not care what becomes of it: an Event, a token."""

    @property
    def writes(self) -> bool:
        """Whether it changes an object in the API server."""
        return not self.to_worker and self.verb != "GET" and not self.target.endswith("/token")

    def faults(self) -> Iterator[Fault]:
        """What can happen to such a call that would not be the same as another fault."""
        yield Fault.KILL_BEFORE
        if self.verb == "GET":
            yield from (Fault.WORKER_KILLED,) if self.to_worker else (Fault.ERROR,)
            return
        yield from (Fault.KILL_AFTER, Fault.REPLY_LOST)
        if self.to_worker:
            yield from (Fault.WORKER_KILLED, Fault.WORKER_KILLED_LATER)
        elif self.writes and not self.optional:
            yield from (Fault.ERROR, Fault.THROTTLED, Fault.CONFLICT, Fault.WORKER_KILLED)
        else:
            yield Fault.ERROR


@dataclass(frozen=True)
class Plan:
    """Faults by the number of the call, and what watches do."""

    faults: tuple[tuple[int, Fault], ...] = ()
    watching: tuple[Watching, int] | None = None

    def __str__(self) -> str:
        if self.watching is not None:
            return f"{self.watching[0]}@{self.watching[1]}"
        return ",".join(f"{fault}@{number}" for number, fault in self.faults) or "none"

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """The inverse of ``str``.

        Raises:
            ValueError: it is no plan.
        """
        if text == "none":
            return cls()
        parts = [part.partition("@") for part in text.split(",")]
        if parts[0][0] in list(Watching):
            return cls(watching=(Watching(parts[0][0]), int(parts[0][2])))
        return cls(tuple((int(number), Fault(fault)) for fault, _, number in parts))

    @property
    def kind(self) -> str:
        """What reports count it as."""
        if self.watching is not None:
            return str(self.watching[0])
        if len(self.faults) == 1:
            return str(self.faults[0][1])
        return "both killed" if self.kills_worker else "two kills"

    @property
    def kills_worker(self) -> bool:
        """Whether attempts are lost with a worker, and made again."""
        return any(fault in WORKER_KILLS for _, fault in self.faults)

    @property
    def kills_operator(self) -> bool:
        """Whether another operator has to go on."""
        return any(fault in KILLS for _, fault in self.faults)

    def at(self, number: int) -> Fault | None:
        """What happens to the call of that number."""
        return next((fault for at, fault in self.faults if at == number), None)


PAIRS = 40
"""Pairs of kills that are drawn for a scenario."""
WATCHINGS = [(Watching.LATE, seconds) for seconds in (1, 3, 10)] + [
    (Watching.SHUFFLED, seed) for seed in range(1, 13)
]


def plans(calls: Mapping[int, Call], seed: int = 1) -> list[Plan]:
    """Every single fault of every call, pairs of kills, and ways in which watches tell.

    Args:
        calls: those of the run without a fault, by number.
    """
    single = [Plan(((number, fault),)) for number, call in calls.items() for fault in call.faults()]
    pairs = [*_pairs(list(calls), seed), *_both(calls)]
    return [*single, *pairs, *(Plan(watching=one) for one in WATCHINGS)]


def _both(calls: Mapping[int, Call]) -> Iterator[Plan]:
    """After each write the operator is killed, and a worker before the next one hears of it."""
    for number, call in calls.items():
        if call.writes and not call.to_worker and not call.optional:
            yield Plan(((number, Fault.KILL_AFTER), (number + 1, Fault.WORKER_KILLED)))


def _pairs(numbers: Sequence[int], seed: int) -> Iterator[Plan]:
    draw = random.Random(seed)
    seen = set()
    while len(seen) < PAIRS:
        first = draw.choice(numbers)
        # What the next operator does: its lists and inventories, then what was left to do.
        second = first + draw.randint(1, max(40, len(numbers) // 2))
        pair = ((first, draw.choice(KILLS)), (second, draw.choice(KILLS)))
        if pair not in seen:
            seen.add(pair)
            yield Plan(pair)
