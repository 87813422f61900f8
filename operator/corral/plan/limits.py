"""A Model's limits: what is in flight, what the last minute has seen, and what still fits.

A request counts from the moment in which its attempt is sent until 60 s after the attempt has
ended; what counts is never more than the limit, so no 60 s see more than that. What an attempt
may need at the most is reserved when it starts, and replaced by what it used when it has ended;
of one that was lost the reservation stays. An attempt that alone may need more than a limit
reserves all of it, so it starts when nothing else counts, and passes the limit by what it makes
beyond it.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

from corral.api.model import Limits
from corral.plan.keys import WorkflowKey

WINDOW = 60.0
"""Seconds for which an ended request counts."""
_GRAIN = 0.25
"""Seconds within which ends share an entry, and count as long as the last of them."""

Limit = Literal["maxInFlight", "requestsPerMinute", "tokensPerMinute"]


@dataclass(frozen=True)
class Load:
    """What attempts need of a Model."""

    attempts: int = 0
    requests: int = 0
    tokens: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.attempts + other.attempts,
            self.requests + other.requests,
            self.tokens + other.tokens,
        )

    def times(self, count: int) -> "Load":
        """So many of them."""
        return Load(self.attempts * count, self.requests * count, self.tokens * count)


@dataclass
class _Ended:
    expires: float
    run: WorkflowKey
    requests: int
    tokens: int


class Meter:
    """What counts against one Model's limits.

    Args:
        limits: None is without any; may be replaced.
        used_up_at: since when the window is taken as used up, as nobody knows what was sent
            before; it frees itself evenly over 60 s.
    """

    def __init__(self, limits: Limits | None = None, used_up_at: float = -math.inf) -> None:
        self.limits = limits or Limits()
        self._used_up_at = used_up_at
        self._flying: dict[str, tuple[WorkflowKey, Load]] = {}
        self._ended: deque[_Ended] = deque()
        self._requests = 0
        self._tokens = 0
        self._of_run: dict[WorkflowKey, Counter[str]] = {}

    def __contains__(self, attempt: str) -> bool:
        return attempt in self._flying

    @property
    def in_flight(self) -> int:
        """Attempts that were sent and have not ended."""
        return len(self._flying)

    @property
    def idle(self) -> bool:
        """Whether nothing counts any more."""
        return not self._flying and not self._ended

    def reserve(self, attempt: str, run: WorkflowKey, load: Load) -> None:
        """An attempt starts, or needs another amount than was thought."""
        load = self.clamped(load)
        self.drop(attempt)
        self._flying[attempt] = (run, load)
        self._count(run, load.requests, load.tokens, flying=1)

    def drop(self, attempt: str) -> None:
        """An attempt was never sent."""
        if (known := self._flying.pop(attempt, None)) is not None:
            run, load = known
            self._count(run, -load.requests, -load.tokens, flying=-1)

    def end(self, attempt: str, now: float, used: Load | None) -> None:
        """An attempt is over, having used that; None: nobody knows, so what it reserved."""
        if (known := self._flying.get(attempt)) is not None:
            self.drop(attempt)
            self.add(known[0], now, known[1] if used is None else used)

    def add(self, run: WorkflowKey, now: float, used: Load) -> None:
        """Something was used that had not been reserved."""
        if not used.requests and not used.tokens:
            return
        expires = (math.floor((now + WINDOW) / _GRAIN) + 1) * _GRAIN
        last = self._ended[-1] if self._ended else None
        if last is not None and last.run == run and last.expires >= expires:
            last.requests += used.requests
            last.tokens += used.tokens
        else:
            expires = max(expires, last.expires) if last else expires
            self._ended.append(_Ended(expires, run, used.requests, used.tokens))
        self._count(run, used.requests, used.tokens)

    def clamped(self, load: Load) -> Load:
        """A load that fits at least where nothing else counts."""
        requests, tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        return Load(
            load.attempts,
            load.requests if requests is None else min(load.requests, requests),
            load.tokens if tokens is None else min(load.tokens, tokens),
        )

    def refuses(self, load: Load, now: float) -> Limit | None:
        """The limit that a load would pass now; None if it fits."""
        self._forget(now)
        limits = self.limits
        if self._too_many(load):
            return "maxInFlight"
        if limits.requests_per_minute is not None:
            debt = self._debt(limits.requests_per_minute, now)
            if self._requests + debt + load.requests > limits.requests_per_minute:
                return "requestsPerMinute"
        if limits.tokens_per_minute is not None:
            debt = self._debt(limits.tokens_per_minute, now)
            if self._tokens + debt + load.tokens > limits.tokens_per_minute:
                return "tokensPerMinute"
        return None

    def fits_at(self, load: Load, now: float) -> float | None:
        """When a load fits by time alone; None if something in flight has to end first."""
        self._forget(now)
        if self._too_many(load):
            return None
        limits, requests, tokens, at = self.limits, self._requests, self._tokens, now
        for ended in (*self._ended, None):
            found = max(
                at,
                self._paid_at(limits.requests_per_minute, requests + load.requests),
                self._paid_at(limits.tokens_per_minute, tokens + load.tokens),
            )
            if found < (math.inf if ended is None else ended.expires):
                return found
            if ended is not None:
                requests, tokens = requests - ended.requests, tokens - ended.tokens
                at = ended.expires
        return None

    def share(self, run: WorkflowKey, more: Load) -> float:
        """The part of the tightest limit that counts for a run, from 0 to 1, with ``more``."""
        own = self._of_run.get(run, Counter())
        parts = [0.0]
        for limit, held, added in (
            (self.limits.max_in_flight, own["flying"], more.attempts),
            (self.limits.requests_per_minute, own["requests"], more.requests),
            (self.limits.tokens_per_minute, own["tokens"], more.tokens),
        ):
            if limit is not None:
                parts.append((held + added) / limit)
        return max(parts)

    def runs(self) -> set[WorkflowKey]:
        """The runs that something counts for."""
        return set(self._of_run)

    def _too_many(self, load: Load) -> bool:
        most = self.limits.max_in_flight
        return most is not None and self.in_flight + load.attempts > most

    def _debt(self, limit: int, now: float) -> int:
        left = 1 - (now - self._used_up_at) / WINDOW
        return math.ceil(limit * min(left, 1.0)) if left > 0 else 0

    def _paid_at(self, limit: int | None, needed: int) -> float:
        """When what the window is taken to have used leaves room for so much."""
        if limit is None:
            return -math.inf
        if needed > limit:
            return math.inf
        if self._used_up_at == -math.inf:
            return -math.inf
        # A little later: rounding must not make it a moment too early.
        return self._used_up_at + WINDOW * needed / limit + 1e-3

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0].expires <= now:
            old = self._ended.popleft()
            self._count(old.run, -old.requests, -old.tokens)

    def _count(self, run: WorkflowKey, requests: int, tokens: int, flying: int = 0) -> None:
        self._requests += requests
        self._tokens += tokens
        own = self._of_run.setdefault(run, Counter())
        own["requests"] += requests
        own["tokens"] += tokens
        own["flying"] += flying
        if not any(own.values()):
            del self._of_run[run]
