"""A work queue: coalescing, one pass at a time per key, delays, backoff on errors.

Keys are of lanes, such as namespaces, which take turns: who has thousands of keys that are due
delays nobody else's. Within a lane the key that is due earliest comes first.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0
FIRST = -86_400.0
"""A delay: before everything else that is due."""

Key = TypeVar("Key", bound=Hashable)


class RetryLaterError(Exception):
    """Raised by a pass that could not be finished: it is made again after a backoff."""

    def __init__(self, message: str, after: float = 0) -> None:
        super().__init__(message)
        self.after = after


class WorkQueue(Generic[Key]):
    """Calls ``work(key)`` for every key that was added, at least once after its last ``add``."""

    def __init__(
        self,
        name: str,
        work: Callable[[Key], Awaitable[None]],
        parallelism: int = 16,
        lane: Callable[[Key], Hashable] = lambda _: None,
    ) -> None:
        self.name = name
        self.errors = 0
        """Passes that ended in an exception that nobody expected."""
        self._work = work
        self._parallelism = parallelism
        self._lane = lane
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._lanes: dict[Hashable, list[tuple[float, int, Key]]] = {}
        """What is due, as heaps; the first lane is the next to have its turn."""
        self._running: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._count = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        now = monotonic()
        return sum(due <= now for due in self._due.values()) + len(self._again)

    def add(self, key: Key, delay: float = 0) -> None:
        """Asks for a pass in ``delay`` seconds, or earlier if one is asked for already.

        ``FIRST`` puts it before all that only has to be looked at.
        """
        due = monotonic() + delay
        if key in self._running:
            self._again[key] = min(due, self._again.get(key, due))
            return
        if self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._count), key))
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now = monotonic()
                while len(self._running) < self._parallelism:
                    key = self._next(now)
                    if key is None:
                        break
                    self._running.add(key)
                    group.create_task(self._pass(key), name=f"{self.name} {key}")
                full = len(self._running) >= self._parallelism
                timeout = None if full or not self._heap else max(0.0, self._heap[0][0] - now)
                try:
                    async with asyncio.timeout(timeout):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _next(self, now: float) -> Key | None:
        """Takes the key whose turn it is, if one is due."""
        while self._heap and self._heap[0][0] <= now:
            wish = heapq.heappop(self._heap)
            heapq.heappush(self._lanes.setdefault(self._lane(wish[2]), []), wish)
        while self._lanes:
            lane = next(iter(self._lanes))
            wishes = self._lanes.pop(lane)
            due, _, key = heapq.heappop(wishes)
            if wishes:
                self._lanes[lane] = wishes
            if self._due.get(key) == due:  # else an earlier wish has taken its place
                del self._due[key]
                return key
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
                self.add(key, again - monotonic())
            self._wake.set()

    def _backoff(self, key: Key) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return float(min(FIRST_BACKOFF * 2 ** min(failures - 1, 20), LONGEST_BACKOFF))
