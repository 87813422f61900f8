"""A work queue: coalescing, one pass at a time per key, delays, backoff on errors, fairness.

Of what is due, urgent keys come first, and among as urgent ones every group (a namespace, for the
operator) has its turn: one tenant's thousands don't keep another's single object waiting.
"""

import asyncio
import heapq
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0

Key = TypeVar("Key", bound=Hashable)


class RetryLaterError(Exception):
    """Raised by a pass that could not be finished: it is made again after a backoff."""

    def __init__(self, message: str, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


class _Line(Generic[Key]):
    """Keys that are due: groups take turns, and within a group who came first is first."""

    def __init__(self, group: Callable[[Key], Hashable]) -> None:
        self._group = group
        self._groups: OrderedDict[Hashable, dict[Key, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def push(self, key: Key) -> None:
        self._groups.setdefault(self._group(key), {})[key] = None

    def remove(self, key: Key) -> None:
        group = self._group(key)
        del self._groups[group][key]
        if not self._groups[group]:
            del self._groups[group]

    def pop(self) -> Key:
        group, keys = next(iter(self._groups.items()))
        key = next(iter(keys))
        self._groups.move_to_end(group)
        self.remove(key)
        return key


class WorkQueue(Generic[Key]):
    """Calls ``work(key)`` for every key that was added, at least once after its last ``add``.

    Args:
        group: what takes turns; by default all keys are of one group.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Key], Awaitable[None]],
        parallelism: int = 16,
        group: Callable[[Key], Hashable] = lambda _: None,
    ) -> None:
        self.name = name
        self.errors = 0
        """Passes that ended in an exception that nobody expected."""
        self._work = work
        self._parallelism = parallelism
        self._due = {True: _Line(group), False: _Line(group)}
        """By whether they are urgent."""
        self._urgent: dict[Key, bool] = {}
        """Of all that is due, whether it is."""
        self._later: dict[Key, tuple[float, bool]] = {}
        """When it is due, and whether it is urgent then."""
        self._heap: list[tuple[float, int, Key]] = []
        self._running: set[Key] = set()
        self._again: dict[Key, tuple[float, bool]] = {}
        """What ``add`` was told during a key's pass."""
        self._failures: dict[Key, int] = {}
        self._count = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        now = monotonic()
        late = sum(due <= now for due, _ in self._later.values())
        return len(self._urgent) + late + len(self._again)

    def add(self, key: Key, delay: float = 0, *, urgent: bool = False) -> None:
        """Asks for a pass in ``delay`` seconds, or earlier if one is asked for already.

        ``urgent``: something runs that waits for it, while others merely have to be looked at.
        """
        due = monotonic() + delay
        if key in self._running:
            before = self._again.get(key, (due, False))
            self._again[key] = (min(due, before[0]), urgent or before[1])
        else:
            self._put(key, due, urgent)

    def _put(self, key: Key, due: float, urgent: bool) -> None:
        if key in self._urgent:
            if urgent and not self._urgent[key]:
                self._due[False].remove(key)
                self._enter(key, urgent)
            return
        known = self._later.get(key)
        if known is not None:
            urgent = urgent or known[1]
            if known[0] <= due:
                self._later[key] = (known[0], urgent)
                return
        if due <= monotonic():
            self._later.pop(key, None)
            self._enter(key, urgent)
        else:
            self._later[key] = (due, urgent)
            heapq.heappush(self._heap, (due, next(self._count), key))
        self._wake.set()

    def _enter(self, key: Key, urgent: bool) -> None:
        self._urgent[key] = urgent
        self._due[urgent].push(key)

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                wait = self._until_next()
                while self._urgent and len(self._running) < self._parallelism:
                    key = (self._due[True] or self._due[False]).pop()
                    del self._urgent[key]
                    self._running.add(key)
                    group.create_task(self._pass(key), name=f"{self.name} {key}")
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _until_next(self) -> float | None:
        """Lets in what is due now; the seconds until something else is."""
        now = monotonic()
        while self._heap:
            due, _, key = self._heap[0]
            if key in self._later and self._later[key][0] == due:
                if due > now:
                    return due - now
                self._enter(key, self._later.pop(key)[1])
            heapq.heappop(self._heap)
        return None

    async def _pass(self, key: Key) -> None:
        delay: float | None = None
        try:
            await self._work(key)
            self._failures.pop(key, None)
        except RetryLaterError as error:
            delay = max(error.after, self._backoff(key))
            log.warning("%s %s: %s; again in %.1f s", self.name, key, error, delay)
        except Exception:
            delay = self._backoff(key)
            self.errors += 1
            log.exception("%s %s failed; again in %.1f s", self.name, key, delay)
        finally:
            self._running.discard(key)
            again = self._again.pop(key, None)
            if delay is not None:
                self.add(key, delay)
            elif again is not None:
                self._put(key, *again)
            self._wake.set()

    def _backoff(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return float(min(FIRST_BACKOFF * 2 ** min(failures - 1, 20), LONGEST_BACKOFF))
