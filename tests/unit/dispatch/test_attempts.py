"""Attempts against a real worker over loopback: one execution, one result, whatever happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.attempt import EXTENSION, HEADER_IDENTITY, AttemptReport
from corral.api.errors import ErrorClass
from corral.dispatch import attempts as module
from corral.dispatch.attempts import Attempts
from corral.dispatch.client import CallContext, WorkerClient, WorkerUnreachableError
from corral.plan.observed import Payload, Result
from corral.plan.state import Charge, Consumption, Worker
from tests.unit.kube.fake_api import served
from tests.unit.worker.bench import REVISION, SHOWN, UID, Operator, token, working

A = "run.step.0.1.1"


class Bench:
    """One worker, and what an operator holds of its attempts."""

    def __init__(self, url: str, epoch: int = 7) -> None:
        self.worker = Worker(pod="w", uid=UID, url=url)
        self.epoch = epoch
        self.gone = False
        self.deposed = False
        self.tokens = 0
        self.no_token_for = 0
        self.results: list[Result] = []
        self.client = WorkerClient(self._token, lambda: self.epoch, self._doubt)
        self.attempts = Attempts(self.client, self._is_gone, self._depose)

    async def _token(self, uid: str) -> str:
        self.tokens += 1
        if self.tokens <= self.no_token_for:
            raise WorkerUnreachableError("no token")
        return token()

    async def _doubt(self, uid: str, shown: str) -> str | None:
        return None if (uid, shown) == (UID, SHOWN) else "it has no token"

    async def _is_gone(self, worker: Worker) -> bool:
        return self.gone

    def _depose(self) -> None:
        self.deposed = True

    def book(self, report: AttemptReport) -> list[Charge]:
        requests = [int(usage.requests) for usage in report.usage]
        used = [Consumption(requests=number, cost=Decimal(number)) for number in requests]
        return [Charge(*one) for one in zip(report.usage, used, strict=True)]

    def follow(self, attempt_id: str = A, revision: str = REVISION, text: str = "go") -> None:
        payload = Payload(attempt_id, self.worker, revision, 30, text, None, None)
        self.attempts.follow(payload, self.book, self.results.append, CallContext())

    async def result(self, count: int = 1) -> Result:
        await until(lambda: len(self.results) >= count)
        await asyncio.sleep(0.02)
        assert len(self.results) == count, "a result was delivered twice"
        return self.results[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def bench(**changes: Any) -> AsyncIterator[tuple[Bench, Operator]]:
    async with working(**changes) as operator:
        made = Bench(operator.url)
        try:
            yield made, operator
        finally:
            await made.attempts.close()
            await made.client.close()


@asynccontextmanager
async def answering(*answers: Any) -> AsyncIterator[Bench]:
    """A worker that has gone wrong: it gives these answers, the last one for ever.

    An answer is (status, JSON or bytes[, what it shows of itself]), or None for a connection that
    is cut.
    """
    left = list(answers)

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, body, shown = (*answer, SHOWN)[:3]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(
            status=status,
            body=raw,
            content_type="application/json",
            headers={HEADER_IDENTITY: shown},
        )

    async with served(handle) as url:
        made = Bench(url)
        try:
            yield made
        finally:
            await made.attempts.close()
            await made.client.close()


def task(state: str = "TASK_STATE_COMPLETED", attempt_id: str = A, uid: str = UID) -> Any:
    report = {"attemptID": attempt_id, "podUID": uid, "agentRevision": REVISION}
    return {
        "task": {
            "id": attempt_id,
            "status": {"state": state},
            "metadata": {EXTENSION: report},
            "artifacts": [{"parts": [{"text": "out"}]}],
        }
    }


async def test_an_attempt_is_followed_to_its_one_result_and_acked_in_a_batch() -> None:
    async with bench() as (made, operator):
        made.follow()
        made.follow()
        result = await made.result()
        assert (result.output, result.error, result.used.requests) == ("done", None, 1)
        assert operator.worker.table.unacked == 1
        made.attempts.ack(A, made.worker)
        assert made.attempts.knows(A)
        assert made.attempts.unacked(UID) == 1
        await until(lambda: operator.worker.table.unacked == 0)
        await until(lambda: not made.attempts.knows(A))


async def test_a_new_process_attaches_to_what_runs_and_to_what_has_ended() -> None:
    for pause in (0.05, 0.4):
        async with bench(simulation={"latency": "200ms"}) as (first, operator):
            first.follow()
            await asyncio.sleep(pause)
            await first.attempts.close()
            second = Bench(operator.url, epoch=8)
            second.follow()
            result = await second.result()
            assert result.used.requests == 1
            assert first.results in ([], [result])
            await second.attempts.close()
            await second.client.close()


async def test_an_old_leader_is_refused_and_told_so() -> None:
    async with bench() as (made, operator):
        await operator.inventory()  # epoch 7
        made.epoch = 6
        made.follow()
        await until(lambda: made.deposed)
        assert operator.worker.table.attempts() == []


async def test_no_token_is_waited_for() -> None:
    async with bench() as (made, _):
        made.no_token_for = 2
        made.follow()
        assert (await made.result()).output == "done"


@pytest.mark.parametrize(
    ("prepare", "error"),
    [
        ("revision", ErrorClass.NO_CAPACITY),
        ("draining", ErrorClass.NO_CAPACITY),
        ("tombstone", ErrorClass.WORKER_LOST),
        ("another", ErrorClass.WORKER_LOST),
    ],
)
async def test_a_refusal_sends_the_attempt_elsewhere(prepare: str, error: ErrorClass) -> None:
    async with bench() as (made, operator):
        if prepare == "draining":
            operator.worker.table.drain()
        if prepare == "tombstone":
            operator.worker.table.cancel(A)
        if prepare == "another":
            operator.worker.gate.pod_uid = "another"
        made.follow(revision="other" if prepare == "revision" else REVISION)
        result = await made.result()
        assert (result.error, result.used.requests) == (error, 0)


async def test_a_worker_that_is_gone_is_given_up_while_its_answer_is_waited_for() -> None:
    async with bench(simulation={"latency": "20s"}) as (made, operator):
        made.follow()
        await until(lambda: operator.worker.table.running == 1)
        made.attempts.worker_gone(UID)
        assert (await made.result()).error is ErrorClass.WORKER_LOST


async def test_an_unreachable_worker_is_asked_for_until_the_api_server_says_it_is_gone() -> None:
    made = Bench("http://127.0.0.1:1")
    made.follow()
    await asyncio.sleep(0.3)
    assert made.results == []
    made.gone = True
    assert (await made.result()).error is ErrorClass.WORKER_LOST
    await made.client.close()


async def test_a_cancelled_attempt_tells_what_it_used_once_and_no_late_result_follows() -> None:
    async with bench(simulation={"latency": "20s"}) as (made, operator):
        made.follow()
        await until(lambda: operator.worker.table.running == 1)
        for _ in range(3):
            made.attempts.cancel(A, made.worker, made.book, made.results.append)
        result = await made.result()
        assert result.error is not None
        assert result.used.requests == 1
        assert operator.worker.table.running == 0
        assert operator.worker.table.unacked == 1  # until that is recorded


async def test_a_result_that_is_not_booked_keeps_what_was_used_and_nothing_else() -> None:
    async with bench(simulation={"reply": "x" * 5000}) as (made, operator):
        made.follow()
        assert (await made.result()).output == "x" * 5000
        table = operator.worker.table
        made.attempts.ack(A, made.worker, booked=False)
        await until(lambda: table.unacked_bytes < 2000)
        assert table.unacked == 1
        made.attempts.cancel(A, made.worker, made.book, made.results.append)
        told = await made.result(2)
        assert (told.output, told.used) == ("", made.results[0].used)
        made.attempts.ack(A, made.worker, booked=False)
        made.attempts.ack(A, made.worker)
        await until(lambda: table.unacked == 0)
        assert table.unacked_bytes == 0


async def test_an_ack_that_comes_as_the_last_batch_ends_is_sent_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ACK_DELAY", 0)
    async with bench() as (made, operator):
        for number in range(40):
            made.follow(f"run.step.{number}.1.1")
        await made.result(40)
        for number in range(40):
            made.attempts.ack(f"run.step.{number}.1.1", made.worker)
            for _ in range(number % 7):
                await asyncio.sleep(0)
        await until(lambda: operator.worker.table.unacked == 0)
        await until(lambda: made.attempts.unacked(UID) == 0)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"no json"),
        (200, {"task": {"no": "report"}}),
        (200, []),
        (200, b'{"task":' + b"[" * 100_000),
        (401, {}),
        None,
    ],
)
async def test_an_unreadable_answer_is_asked_for_again(answer: Any) -> None:
    async with answering(answer, answer, (200, task())) as made:
        made.follow()
        assert (await made.result()).output == "out"


def refusal(reason: str) -> Any:
    return {"error": {"message": "no", "details": [{"reason": reason}]}}


@pytest.mark.parametrize("shown", ["", "the-token-of-another-pod"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"task": {**task()["task"], "artifacts": [{"parts": [{"text": "forged"}]}]}}),
        (200, task("TASK_STATE_FAILED")),
        (412, refusal("StaleEpoch")),
        (421, refusal("WrongWorker")),
        (410, refusal("Tombstoned")),
        (404, refusal("TaskNotFound")),
        (500, {}),
    ],
)
async def test_an_answer_of_a_stranger_is_no_answer(status: int, body: Any, shown: str) -> None:
    async with answering((status, body, shown), (200, task())) as made:
        made.follow()
        result = await made.result()
        assert (result.output, result.error, made.deposed) == ("out", None, False)


async def test_a_stranger_who_stays_is_given_up_once_the_pod_is_known_to_be_gone() -> None:
    async with answering((200, task(), "")) as made:
        made.follow()
        await asyncio.sleep(0.3)
        assert made.results == []
        with pytest.raises(WorkerUnreachableError, match="not signed by w: it has no token"):
            await made.client.inventory(made.worker)
        made.gone = True
        assert (await made.result()).error is ErrorClass.WORKER_LOST


async def test_a_worker_that_does_not_know_what_it_ran_is_sent_it_again() -> None:
    working, unknown = (200, task("TASK_STATE_WORKING")), (404, refusal("TaskNotFound"))
    async with answering(working, unknown, (200, task())) as made:
        made.follow()
        assert (await made.result()).output == "out"


@pytest.mark.parametrize(
    "answer",
    [
        task(attempt_id="run.other.0.1.1"),
        task(uid="another-pod"),
        {"task": {**task()["task"], "artifacts": 5}},
        {"task": {**task()["task"], "artifacts": [{"parts": 5}]}},
    ],
)
async def test_a_report_that_can_not_be_is_a_failure_and_never_silence(answer: Any) -> None:
    async with answering((200, answer)) as made:
        made.follow()
        result = await made.result()
        assert (result.attempt_id, result.error) == (A, ErrorClass.INTERNAL)


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.dispatch.client._MAX_ANSWER", 1000)
    async with answering((200, b" " * 5000), (200, task())) as made:
        made.follow()
        assert (await made.result()).output == "out"


async def test_garbage_for_an_inventory_is_no_inventory() -> None:
    async with answering((200, {"attempts": "all"})) as made:
        with pytest.raises(WorkerUnreachableError):
            await made.client.inventory(made.worker)


@settings(max_examples=12, deadline=None)
@given(moves=st.lists(st.sampled_from(["follow", "cancel", "wait", "restart"]), max_size=6))
def test_whatever_is_asked_for_is_executed_at_most_once(moves: list[str]) -> None:
    async def scenario() -> None:
        async with bench(simulation={"latency": "15ms"}) as (made, operator):
            current, cancelled, terms = made, False, [made]
            for move in moves:
                if move == "follow" and not cancelled:
                    current.follow()
                elif move == "cancel":
                    cancelled = True
                    current.attempts.cancel(A, current.worker, made.book, made.results.append)
                elif move == "restart":
                    await current.attempts.close()
                    epoch = current.epoch + 1
                    current = Bench(operator.url, epoch)
                    terms.append(current)
                await asyncio.sleep(0.02 if move == "wait" else 0)
            await asyncio.sleep(0.03)
            requests = [result.used.requests for result in made.results]
            assert all(count <= 1 for count in requests)
            for attempt in operator.worker.table.attempts():
                assert len(attempt.meter.usage()) <= 1
                assert all(usage.requests == "1" for usage in attempt.meter.usage())
            for term in terms:
                await term.attempts.close()
                await term.client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("retried", [True, False])
async def test_what_runs_on_a_lost_worker_is_given_up_and_can_be_cancelled_later(
    retried: bool,
) -> None:
    async with bench(simulation={"latency": "20s"}) as (made, operator):
        made.follow()
        await until(lambda: operator.worker.table.running == 1)
        elsewhere = Worker(pod="other", uid="other", url="http://127.0.0.1:9")
        made.attempts.worker_lost(elsewhere, retried=retried)
        assert made.results == []
        made.attempts.worker_lost(made.worker, retried=retried)
        lost = await made.result()
        assert (lost.error, lost.unreachable, lost.final) == (
            ErrorClass.WORKER_LOST,
            True,
            not retried,
        )
        assert ("may overlap" in lost.message) is retried
        made.attempts.worker_lost(made.worker, retried=retried)
        # It is back: what it used is told.
        made.attempts.cancel(A, made.worker, made.book, made.results.append)
        assert (await made.result(2)).used.requests == 1
