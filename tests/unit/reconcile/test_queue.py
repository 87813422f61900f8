"""The work queue: every wish is followed by a pass, and never two of a key at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from corral.reconcile import queue as module
from corral.reconcile.queue import RetryLaterError, WorkQueue


@asynccontextmanager
async def running(
    work: Callable[[str], Awaitable[None]], parallelism: int = 16
) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue("test", work, parallelism)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_wishes_for_one_key_are_one_pass_and_one_more_for_those_during_it() -> None:
    passes: Counter[str] = Counter()
    go = asyncio.Event()

    async def work(key: str) -> None:
        passes[key] += 1
        await go.wait()

    async with running(work) as queue:
        for _ in range(5):
            queue.add("a")
        await until(lambda: passes["a"] == 1)
        for _ in range(5):
            queue.add("a")
        go.set()
        await until(lambda: passes["a"] == 2)
        await asyncio.sleep(0.05)
        assert passes == {"a": 2}


async def test_the_earliest_wish_counts_and_a_later_one_is_not_lost() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    async with running(work) as queue:
        queue.add("late", 60)
        queue.add("late", 0.01)
        queue.add("later", 0.05)
        await until(lambda: seen == ["late", "later"])
        assert len(queue) == 0


async def test_a_wish_during_a_pass_keeps_its_delay() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> None:
        times.append(loop.time())
        if len(times) == 1:
            queue.add("a", 0.1)

    async with running(work) as queue:
        queue.add("a")
        await until(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.09


async def test_a_pass_that_fails_is_made_again_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.005)
    monkeypatch.setattr(module, "LONGEST_BACKOFF", 0.02)
    passes: Counter[str] = Counter()
    times: list[float] = []

    async def work(key: str) -> None:
        passes[key] += 1
        if key == "broken":
            raise ValueError
        times.append(asyncio.get_running_loop().time())
        if passes[key] < 6:
            raise RetryLaterError("not now")

    async with running(work) as queue:
        queue.add("slow")
        queue.add("broken")
        await until(lambda: passes["slow"] == 6 and passes["broken"] > 3)
        assert queue.errors >= passes["broken"] - 1
        await asyncio.sleep(0.05)
        assert passes["slow"] == 6
    pauses = [after - before for before, after in pairwise(times)]
    for pause, least in zip(pauses, (0.005, 0.01, 0.02, 0.02, 0.02), strict=True):
        assert pause > 0.9 * least, pauses


async def test_what_the_api_server_asks_for_is_waited() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def work(_: str) -> None:
        times.append(loop.time())
        if len(times) == 1:
            raise RetryLaterError("429", 0.25)

    async with running(work) as queue:
        queue.add("a")
        await until(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.24


async def test_never_more_than_so_many_passes_and_never_two_of_a_key() -> None:
    now: Counter[str] = Counter()
    most = 0
    done: Counter[str] = Counter()

    async def work(key: str) -> None:
        nonlocal most
        now[key] += 1
        assert now[key] == 1
        most = max(most, sum(now.values()))
        await asyncio.sleep(0.001)
        now[key] -= 1
        done[key] += 1

    async with running(work, parallelism=3) as queue:
        for n in range(60):
            queue.add(f"k{n % 20}")
            if n % 7 == 0:
                await asyncio.sleep(0.001)
        await until(lambda: len(done) == 20)
        assert most == 3
        assert queue.errors == 0


async def order_of(queue: WorkQueue[str], seen: list[str], count: int) -> list[str]:
    task = asyncio.create_task(queue.run())
    await until(lambda: len(seen) == count)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return seen


async def test_what_is_urgent_comes_before_what_was_due_earlier() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)
        if seen == ["urgent"]:
            queue.add("urgent", urgent=True)  # during its own pass

    queue = WorkQueue("test", work, parallelism=1)
    for key in ("a", "b", "urgent"):
        queue.add(key)
    queue.add("urgent", 0.01, urgent=True)
    assert await order_of(queue, seen, 4) == ["urgent", "urgent", "a", "b"]


async def test_groups_take_turns() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = WorkQueue("test", work, parallelism=1, group=lambda key: key[0])
    for key in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        queue.add(key)
    assert await order_of(queue, seen, 7) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_urgency_of_a_later_wish_is_kept() -> None:
    seen: list[str] = []

    async def work(key: str) -> None:
        seen.append(key)

    queue = WorkQueue("test", work, parallelism=1)
    queue.add("later", 0.02, urgent=True)
    queue.add("later", 0.04)
    await asyncio.sleep(0.03)
    queue.add("now")
    assert await order_of(queue, seen, 2) == ["later", "now"]
    assert len(queue) == 0
