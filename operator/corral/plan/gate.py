"""What stands before a Model: its circuit, its limits, and the line of runs that wait for it.

Who has waited longest is let in as soon as its next attempt fits, and goes to the end of the line
with what it still wants; runs of a higher priority stand before the others. Somebody else gets
what fits besides the next attempts of those who stand before it, up to its fair share of the
limit, and beyond that what those who wait lack nothing of:

    fair = limit / (runs that have something of it, or wait)

So a wide fan-out can't starve its neighbours, an attempt that needs much gets its turn as well as
many small ones, and nothing is left unused while somebody could use it.
"""

from dataclasses import dataclass
from typing import Literal

from corral.api.model import Limits, ModelSpec
from corral.plan.breaker import Circuit, breaker_of
from corral.plan.keys import WorkflowKey
from corral.plan.limits import Limit, Load, Meter

Obstacle = Limit | Literal["circuitBreaker", "retryAfter"]
"""What keeps an attempt from starting."""
PATIENCE = 15.0
"""Seconds for which room is kept for a run that was called and does not ask."""


@dataclass
class _Waiting:
    since: float
    number: int
    need: Load
    """Of its next attempt."""
    count: int
    """Attempts that wait."""
    priority: int
    obstacle: Obstacle
    called: float | None = None
    """When it was told that it may start something, unless it has asked since then."""

    @property
    def place(self) -> tuple[int, float, int]:
        return (-self.priority, self.since, self.number)

    def wants_before(self, priority: int) -> Load:
        """What it is to get before a run of that priority that stands behind it."""
        return self.need.times(self.count if self.priority > priority else 1)

    def is_late(self, now: float) -> bool:
        """Whether it was called and does not come: nothing is kept for it any more."""
        return self.called is not None and now - self.called > PATIENCE


class Gate:
    """One Model's. ``now`` is in seconds of a clock that never goes back."""

    def __init__(self, used_up_at: float | None = None) -> None:
        self.circuit = Circuit()
        self.meter = Meter() if used_up_at is None else Meter(used_up_at=used_up_at)
        self._line: dict[WorkflowKey, _Waiting] = {}
        self._number = 0
        self._seen: dict[str, int] = {}

    def adopt(self, spec: ModelSpec) -> None:
        """Minds what the Model says of limits and its breaker from now on."""
        self.meter.limits = spec.limits or Limits()
        self.circuit.breaker = breaker_of(spec)
        if self.circuit.breaker is None:
            self.circuit.close()

    @property
    def idle(self) -> bool:
        """Whether nothing counts, and nobody waits."""
        return self.meter.idle and not self._line

    def closed_to(self, now: float) -> Obstacle | None:
        """Why the Model itself is not to be asked now, whatever its limits say."""
        if self.circuit.lets_start(now):
            return None
        return "circuitBreaker" if self.circuit.opened else "retryAfter"

    def admit(
        self, run: WorkflowKey, attempt: str, load: Load, now: float, priority: int = 0
    ) -> Obstacle | None:
        """Lets an attempt start, and reserves its load; or tells what is in the way."""
        found = self._obstacle(run, self.meter.clamped(load), now, priority)
        if found is None:
            self.meter.reserve(attempt, run, load)
            self.circuit.begin(attempt)
            if (waiting := self._line.get(run)) is not None:  # it has had its turn
                self._number += 1
                waiting.since, waiting.number = now, self._number
        return found

    def _obstacle(self, run: WorkflowKey, load: Load, now: float, priority: int) -> Obstacle | None:
        if (closed := self.closed_to(now)) is not None:
            return closed
        if (full := self.meter.refuses(load, now)) is not None:
            return full
        own = self._line.get(run)
        place = own.place if own else (-priority, now, self._number + 1)
        others = [
            (key, one)
            for key, one in self._line.items()
            if key != run and one.priority >= priority and not one.is_late(now)
        ]
        before = [one for _, one in others if one.place < place]
        if before and self.circuit.opened:
            return "circuitBreaker"  # the probe is theirs
        theirs = sum((one.wants_before(priority) for one in before), Load())
        if (full := self.meter.refuses(load + theirs, now)) is not None:
            return full
        if not others or (own is not None and not before):
            return None
        fair = 1 / len(self.meter.runs() | self._line.keys() | {run})
        if self.meter.share(run, load) <= fair:
            return None
        for key, one in others:
            held = self.meter.share(key, Load())
            part = self.meter.share(key, one.need) - held
            lacks = one.count if part <= 0 else min(one.count, int((fair - held) / part))
            if one.place > place:
                theirs += one.need.times(max(0, lacks))
        return self.meter.refuses(load + theirs, now)

    def wait(
        self,
        run: WorkflowKey,
        need: Load,
        count: int,
        obstacle: Obstacle,
        now: float,
        priority: int = 0,
    ) -> None:
        """A run wants so many attempts more, the next of which needs that."""
        known = self._line.get(run)
        if known is None:
            self._number += 1
            known = _Waiting(now, self._number, need, count, priority, obstacle)
            self._line[run] = known
        known.need, known.count = self.meter.clamped(need), count
        known.priority, known.obstacle, known.called = priority, obstacle, None

    def leave(self, run: WorkflowKey) -> None:
        """A run waits no more."""
        self._line.pop(run, None)

    def resize(self, run: WorkflowKey, attempt: str, load: Load, now: float) -> Obstacle | None:
        """An attempt that was let in needs another amount; what is in the way, if it can't start.

        Its turn was judged when it was let in.
        """
        self.meter.drop(attempt)
        found = self.meter.refuses(self.meter.clamped(load), now)
        if found is None:
            self.meter.reserve(attempt, run, load)
        else:
            self.circuit.end(attempt, now, answered=False, failures=0)
        return found

    def held_back(self) -> dict[str, int]:
        """Attempts that wait, by what for; 0 where none does any more."""
        self._seen = dict.fromkeys(self._seen, 0)
        for one in self._line.values():
            self._seen[one.obstacle] = self._seen.get(one.obstacle, 0) + one.count
        return self._seen

    def call(self, now: float) -> list[WorkflowKey]:
        """The runs that may start something now, in their order; they are expected to ask."""
        if self.closed_to(now) is not None:
            return []
        for run in [run for run, one in self._line.items() if one.is_late(now)]:
            self.leave(run)
        called: list[WorkflowKey] = []
        needed = Load()
        line = sorted(self._line.items(), key=lambda pair: pair[1].place)
        for run, one in line:
            needed += one.need
            if self.meter.refuses(needed, now) is not None:
                break
            if self._obstacle(run, one.need, now, one.priority) is None:
                called.append(run)
                one.called = now if one.called is None else one.called
        return called

    def next_call(self, now: float) -> float | None:
        """When somebody may start something by time alone; None if nobody waits for that."""
        if not self._line or (self.circuit.opened and self.circuit.probes):
            return None
        first = min(self._line.values(), key=lambda one: one.place)
        at = self.meter.fits_at(first.need, max(now, self.circuit.retry_at))
        return None if at is None else max(at, self.circuit.retry_at)
