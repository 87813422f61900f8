"""The table of attempts against a model of it: whatever happens, each attempt runs at most once."""

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from corral.api.attempt import AttemptError
from corral.api.errors import ErrorClass
from corral.worker.attempt import RefusedError, State
from corral.worker.attempts import TOMBSTONE_SECONDS, AttemptTable
from corral.worker.outcome import AttemptOutcome, ModelCall, UsageMeter

IDS = [f"run.a.{n}.1.1" for n in range(6)]
LOST = AttemptError(error_class=ErrorClass.WORKER_LOST, message="The operator is gone.")


class AttemptTableMachine(RuleBasedStateMachine):
    """Sends, ends, cancels and acks in any order, with the event loop run in between or not."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.executions: Counter[str] = Counter()
        self.futures: dict[str, asyncio.Future[AttemptOutcome]] = {}
        self.buried: set[str] = set()
        self.obstacle: str | None = None

    @initialize(concurrency=st.integers(1, 3))
    def make(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.table = AttemptTable(
            concurrency, obstacle=lambda: self.obstacle, max_unacked_bytes=5000
        )

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.call(lambda: self.table.stop_all(LOST))
            self.settle()
        self.loop.close()

    def call(self, function: Any) -> Any:
        async def inside() -> Any:
            return function()

        return self.loop.run_until_complete(inside())

    @rule()
    def settle(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule(attempt_id=st.sampled_from(IDS))
    def send(self, attempt_id: str) -> None:
        async def job(meter: UsageMeter) -> AttemptOutcome:
            self.executions[attempt_id] += 1
            meter.add(ModelCall("fast", "simulated", "s"))
            future = asyncio.get_running_loop().create_future()
            self.futures[attempt_id] = future
            outcome: AttemptOutcome = await future
            return outcome

        def start() -> None:
            # Inside, since running the loop at all may end attempts that were cancelled.
            known = self.table.find(attempt_id)
            expected = self._refusal(attempt_id)
            try:
                attempt = self.table.start(attempt_id, job)
            except RefusedError as refused:
                assert refused.reason == expected
            else:
                assert expected is None
                assert known is None or attempt is known

        self.call(start)

    def _refusal(self, attempt_id: str) -> str | None:
        held = self.table.running + self.table.waiting
        if attempt_id in self.buried:
            return "Tombstoned"
        if self.table.find(attempt_id) is not None:
            return None
        if self.table.draining:
            return "Draining"
        full = held >= 2 * self.concurrency or self.table.unacked_bytes > 5000
        return "NoCapacity" if self.obstacle or full else None

    @precondition(lambda self: any(not f.done() for f in self.futures.values()))
    @rule(data=st.data(), error=st.booleans(), crash=st.booleans())
    def end(self, data: st.DataObject, error: bool, crash: bool) -> None:
        open_ids = sorted(i for i, f in self.futures.items() if not f.done())
        future = self.futures[data.draw(st.sampled_from(open_ids))]
        if crash:
            self.call(lambda: future.set_exception(RuntimeError("boom")))
        else:
            outcome = AttemptOutcome(output="x" * 10, error=LOST if error else None)
            self.call(lambda: future.set_result(outcome))
        self.settle()

    @rule(attempt_id=st.sampled_from(IDS))
    def cancel(self, attempt_id: str) -> None:
        attempt = self.call(lambda: self.table.cancel(attempt_id))
        if attempt is None:
            self.buried.add(attempt_id)

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=4))
    def ack(self, ids: list[str]) -> None:
        def ack() -> None:
            gone = {i for i in ids if (a := self.table.find(i)) is not None and a.finished}
            self.table.ack(ids)
            self.buried |= gone

        self.call(ack)

    @precondition(lambda self: not self.table.draining and len(self.executions) > 3)
    @rule()
    def drain(self) -> None:
        self.table.drain()

    @rule(obstacle=st.sampled_from([None, None, "A key is missing."]))
    def obstruct(self, obstacle: str | None) -> None:
        self.obstacle = obstacle

    @rule()
    def lose_the_operator(self) -> None:
        self.call(lambda: self.table.stop_all(LOST))

    @invariant()
    def nothing_runs_twice_or_beyond_its_share(self) -> None:
        if not hasattr(self, "table"):
            return
        assert all(count == 1 for count in self.executions.values())
        held = self.table.attempts()
        working = [a for a in held if a.state is State.WORKING]
        assert len(working) == self.table.running <= self.concurrency
        assert self.table.waiting <= self.concurrency
        assert not self.table.waiting or self.table.running == self.concurrency
        assert self.table.unacked_bytes == sum(a.size for a in held)
        assert not {a.attempt_id for a in held} & self.buried
        assert all(a.finished == a.ended.is_set() == (a.outcome is not None) for a in held)
        assert self.table.free <= self.concurrency - self.table.running


def test_whatever_happens_each_attempt_runs_at_most_once_and_its_result_is_kept() -> None:
    gc.collect()
    run_state_machine_as_test(
        AttemptTableMachine,
        settings=settings(max_examples=100, stateful_step_count=40, deadline=None),
    )


class Clock:
    """Time that tests move."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _forever(meter: UsageMeter) -> AttemptOutcome:
    await asyncio.Event().wait()
    raise AssertionError


async def _at_once(meter: UsageMeter) -> AttemptOutcome:
    return AttemptOutcome(output="done")


async def test_an_attempt_cancelled_before_its_first_step_still_ends() -> None:
    table = AttemptTable(1)
    attempt = table.start("a", _forever)
    table.cancel("a")
    await attempt.ended.wait()
    assert attempt.state is State.CANCELED
    assert table.running == 0


async def test_a_waiting_attempts_time_begins_when_it_works() -> None:
    clock = Clock()
    table = AttemptTable(1, clock=clock)
    first, second = table.start("a", _forever), table.start("b", _forever)
    clock.now += 10
    assert [entry.elapsed_seconds for entry in table.inventory()] == [10.0, 0.0]
    table.cancel("a")
    await first.ended.wait()
    clock.now += 5
    assert second.state is State.WORKING
    assert second.elapsed(clock.now) == 5.0
    table.cancel("b")
    await second.ended.wait()


async def test_tombstones_are_forgotten_after_a_day_and_beyond_their_number() -> None:
    clock = Clock()
    table = AttemptTable(1, clock=clock, max_tombstones=2)
    for attempt_id in ("a", "b", "c"):
        table.cancel(attempt_id)
    await table.start("a", _at_once).ended.wait()
    with pytest.raises(RefusedError, match="b has ended"):
        table.start("b", _at_once)
    clock.now += TOMBSTONE_SECONDS + 1
    await table.start("b", _at_once).ended.wait()


async def test_unacked_results_are_kept_and_too_many_bytes_refuse_starts() -> None:
    table = AttemptTable(1, max_unacked_bytes=2000)
    await table.start("a", _at_once).ended.wait()
    with pytest.raises(RefusedError, match="not acked") as refused:
        table.start("b", _at_once)
    assert refused.value.reason == "NoCapacity"
    assert table.find("a") is not None
    table.ack(["a"])
    await table.start("b", _at_once).ended.wait()


async def test_results_of_clients_that_do_not_ack_go_after_a_while() -> None:
    table = AttemptTable(1)
    await table.start("a", _at_once, forget_after=0.0).ended.wait()
    assert table.idle
    await asyncio.sleep(0.001)
    assert table.find("a") is None


async def test_a_job_that_breaks_is_an_internal_failure_with_the_usage_until_then() -> None:
    async def job(meter: UsageMeter) -> AttemptOutcome:
        meter.add(ModelCall("fast", "openai", "gpt", input_tokens=3))
        raise RuntimeError("secret detail")

    attempt = AttemptTable(1).start("a", job)
    await attempt.ended.wait()
    assert attempt.outcome is not None
    assert attempt.outcome.error is not None
    assert attempt.outcome.error.error_class is ErrorClass.INTERNAL
    assert "secret" not in attempt.outcome.error.message
    assert attempt.outcome.usage[0].input_tokens == "3"


async def test_a_cancel_that_comes_after_the_work_keeps_the_result() -> None:
    release = asyncio.Event()

    async def job(meter: UsageMeter) -> AttemptOutcome:
        await release.wait()
        return AttemptOutcome(output="done")

    table = AttemptTable(1)
    attempt = table.start("a", job)
    release.set()
    while attempt.task is not None and not attempt.task.done():
        await asyncio.sleep(0)
    table.cancel("a")
    await attempt.ended.wait()
    assert attempt.state is State.COMPLETED
