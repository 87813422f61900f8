"""The explorer itself, and a small sample of what it explores."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from corral.api.attempt import INVENTORY_PATH
from corral.dispatch.attempts import Attempts, WorkerGoneError
from corral.dispatch.client import WorkerUnreachableError
from corral.kube import lease
from corral.kube.client import PODS, WORKFLOWS, ApiError
from corral.ledger.writer import Ledger
from corral.reconcile.controller import Controller
from corral.reconcile.following import Following, worker_of
from corral.reconcile.recount import Recount
from corral.reconcile.traces import Traces
from corral.worker.attempts import AttemptTable
from tests.explore import campaign
from tests.explore.api_server import ApiServer
from tests.explore.clock import VirtualLoop, monotonic, virtual_clocks
from tests.explore.exploration import explore
from tests.explore.plans import Call, Fault, Plan, Watching
from tests.explore.scenarios import SCENARIOS

SAMPLE = 3
"""Plans of every scenario."""


def number_of(scenario: str, verb: str, part: str, which: int = 0) -> int:
    """The number of a call of the run without a fault, by what it is."""
    calls = campaign.undisturbed(scenario).calls
    return [n for n, one in calls.items() if one.verb == verb and part in one.target][which]


def problems(scenario: str, *faults: tuple[int, Fault]) -> tuple[str, ...]:
    return campaign.judge(scenario, Plan(faults)).problems


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sample_of_plans_ends_as_the_run_without_a_fault(scenario: str) -> None:
    draw = random.Random(scenario)
    for name, plan in draw.sample(campaign.all_plans([scenario]), SAMPLE):
        finding = campaign.judge(name, plan)
        assert not finding.problems, finding.command


def test_a_run_again_makes_the_same_calls() -> None:
    """Else the number of a call would say nothing."""
    first, again = (explore(SCENARIOS["fan-out"], Plan()) for _ in range(2))
    assert list(first.calls.items()) == list(again.calls.items())


WORKFLOW, AGENT, APPROVAL = "workflows/", "agents/worker/status", "/approvalrequests"
ONCE_FOUND = [
    ("chain", "PUT", AGENT, -1, Fault.REPLY_LOST, "usage was booked twice"),
    ("chain", "PUT", WORKFLOW, -1, Fault.REPLY_LOST, "the last usage was never booked"),
    ("approval", "POST", APPROVAL, 0, Fault.CONFLICT, "the Workflow was taken for deleted"),
    ("stop", "PUT", WORKFLOW, 1, Fault.REPLY_LOST, "the run's spans were never told"),
]


@pytest.mark.parametrize(("scenario", "verb", "part", "which", "fault", "was"), ONCE_FOUND)
def test_what_was_found_once_is_not_found_again(
    scenario: str, verb: str, part: str, which: int, fault: Fault, was: str
) -> None:
    assert not problems(scenario, (number_of(scenario, verb, part, which), fault)), was


async def _nothing(*_: Any) -> None: ...


def _executes_what_it_knows(start: Callable[..., Any]) -> Callable[..., Any]:
    def again(self: AttemptTable, attempt_id: str, *more: Any, **options: Any) -> Any:
        self._attempts.pop(attempt_id, None)
        return start(self, attempt_id, *more, **options)

    return again


def _gives_up_at_once(persist: Callable[..., Any]) -> Callable[..., Any]:
    async def once(self: Attempts, worker: Any, call: Callable[[], Any]) -> Any:
        try:
            return await self._while_alive(worker, call)
        except WorkerUnreachableError:
            raise WorkerGoneError from None

    return once


def _acknowledges_before_it_commits(inbox: Callable[..., Any]) -> Callable[..., Any]:
    def hasty(self: Following, key: Any, record: Any) -> Any:
        deliver = inbox(self, key, record)

        def deliver_and_acknowledge(result: Any) -> None:
            deliver(result)
            pod = self._world.pods.by_uid(result.worker_uid)
            self._world.attempts.ack(result.attempt_id, worker_of(pod))

        return deliver_and_acknowledge

    return hasty


def _books_after_it_acknowledges(book: Callable[..., None]) -> Callable[..., None]:
    def hasty(self: Ledger, attempt_id: str, entries: Any, written: Any, *_: Any) -> None:
        written()
        later = asyncio.get_running_loop().call_later
        later(1, book, self, attempt_id, entries, lambda: None, lambda: None)

    return hasty


def _drops_spans(book: Callable[..., None]) -> Callable[..., None]:
    def forgetful(self: Ledger, *args: Any, **_: Any) -> None:
        book(self, *args[:4])

    return forgetful


async def _never(*_: Any) -> None:
    await asyncio.Event().wait()


SEND = ("POST", "message:send", 0)
RECORD = ("PUT", WORKFLOW, 2)
"""The write that records the first step's result."""
MUTATIONS: list[tuple[Any, str, Callable[..., Any], Any, list[tuple[int, Fault]], str]] = [
    (Controller, "_sweep", lambda _: _nothing, RECORD, [(0, Fault.KILL_AFTER)], "still holds"),
    (
        AttemptTable,
        "start",
        _executes_what_it_knows,
        SEND,
        [(0, Fault.REPLY_LOST)],
        "duplicate effect",
    ),
    (Attempts, "_persist", _gives_up_at_once, SEND, [(0, Fault.REPLY_LOST)], "duplicate effect"),
    (
        Following,
        "_inbox",
        _acknowledges_before_it_commits,
        RECORD,
        [(1, Fault.THROTTLED), (3, Fault.KILL_BEFORE)],
        "duplicate effect",
    ),
    (
        Ledger,
        "book",
        _books_after_it_acknowledges,
        ("PUT", WORKFLOW, 3),
        [(0, Fault.KILL_AFTER)],
        "ledger: ",
    ),
    (
        Following,
        "_book_again",
        lambda _: lambda *_: None,
        RECORD,
        [(0, Fault.KILL_AFTER), (1, Fault.WORKER_KILLED)],
        "ledger: ",
    ),
    (Recount, "_count", lambda _: _nothing, RECORD, [(0, Fault.KILL_AFTER)], "books: agent"),
    (
        Traces,
        "take_up",
        lambda _: _never,
        ("PUT", WORKFLOW, -1),
        [(0, Fault.KILL_AFTER)],
        "spans: there is none",
    ),
    (
        Ledger,
        "book",
        _drops_spans,
        RECORD,
        [(0, Fault.KILL_AFTER)],
        "spans: there is none of attempt",
    ),
]


@pytest.mark.parametrize(
    ("owner", "name", "mutate", "where", "faults", "found"),
    MUTATIONS,
    ids=[name for _, name, *_ in MUTATIONS],
)
def test_an_operator_or_worker_without_one_of_its_protections_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    mutate: Callable[..., Any],
    where: tuple[str, str, int],
    faults: list[tuple[int, Fault]],
    found: str,
) -> None:
    first = number_of("chain", *where)
    plan = [(first + later, fault) for later, fault in faults]
    assert not problems("chain", *plan)
    monkeypatch.setattr(owner, name, mutate(getattr(owner, name)))
    assert any(found in one for one in problems("chain", *plan))


def test_a_new_leader_calls_every_worker_before_it_sends_anything() -> None:
    """So no worker listens to the leader before any more, who may only have been frozen."""
    killed = number_of("chain", *RECORD)
    calls = explore(SCENARIOS["chain"], Plan(((killed, Fault.KILL_BEFORE),))).calls
    first = next(one for number, one in calls.items() if number > killed and one.to_worker)
    assert (first.verb, first.target.endswith(INVENTORY_PATH)) == ("GET", True)


def test_a_plan_is_read_as_it_is_written() -> None:
    for text in ("none", "kill-after@17,kill-before@31", "watch-shuffled@3", "conflict@4"):
        assert str(Plan.parse(text)) == text
    assert Plan.parse("watch-late@3").watching == (Watching.LATE, 3)
    with pytest.raises(ValueError, match="explode"):
        Plan.parse("explode@3")


def test_every_call_is_killed_at_and_only_writes_conflict() -> None:
    read, write = Call("GET", "/pods"), Call("PUT", "/workflows/w/status")
    event, send = Call("POST", "/events", optional=True), Call("POST", "w/send", to_worker=True)
    for call in (read, write, event, send):
        assert Fault.KILL_BEFORE in call.faults()
    assert [Fault.CONFLICT in call.faults() for call in (read, write, event, send)] == [
        *(False, True, False, False)
    ]


def test_hours_pass_in_no_time_for_all_that_reads_a_clock() -> None:
    async def sleeps() -> tuple[float, float]:
        before = lease.time.monotonic(), monotonic()
        await asyncio.sleep(3600)
        return lease.time.monotonic() - before[0], monotonic() - before[1]

    real = time.monotonic()
    with virtual_clocks(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(sleeps()) == (3600, 3600)
    assert time.monotonic() - real < 60
    assert lease.time is time


def _in_virtual_time(work: Callable[[ApiServer], Any]) -> None:
    async def run() -> None:
        await work(ApiServer())

    with virtual_clocks(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def _workflow(name: str, **meta: Any) -> Any:
    spec = {"steps": [{"name": "a", "transform": "x"}]}
    return {"metadata": {"name": name, "namespace": "ns", **meta}, "spec": spec}


def test_the_api_server_refuses_what_is_outdated_and_bumps_generations() -> None:
    async def work(server: ApiServer) -> None:
        made = server.apply(WORKFLOWS, _workflow("w"))
        assert made["status"]["observedGeneration"] == -1
        assert made["metadata"]["generation"] == 1
        path = WORKFLOWS.path("ns", "w", "/status")
        new = server.call("PUT", path, made | {"status": {"phase": "Running"}, "spec": {}})
        assert new["spec"] == made["spec"]
        assert new["metadata"]["generation"] == 1
        with pytest.raises(ApiError) as refused:
            server.call("PUT", path, made | {"status": {"phase": "Failed"}})
        assert refused.value.conflict
        same = server.call("PUT", path, new)
        assert same["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]
        assert (
            server.change(WORKFLOWS, "ns", "w", {"spec": {"suspend": True}})["metadata"][
                "generation"
            ]
            == 2
        )
        with pytest.raises(ApiError) as taken:
            server.apply(WORKFLOWS, _workflow("w"))
        assert taken.value.reason == "AlreadyExists"

    _in_virtual_time(work)


def test_the_api_server_collects_what_has_lost_its_owner_and_lets_pods_end() -> None:
    async def work(server: ApiServer) -> None:
        owner = server.apply(WORKFLOWS, _workflow("owner"))
        refs = [{"uid": owner["metadata"]["uid"], "controller": True}]
        server.apply(WORKFLOWS, _workflow("owned", ownerReferences=refs))
        pod = {"metadata": {"name": "p", "namespace": "ns", "ownerReferences": refs}, "spec": {}}
        server.apply(PODS, pod)
        events: list[tuple[str, str]] = []
        server.watch(lambda plural, event, obj: events.append((event, obj["metadata"]["name"])))
        server.call("DELETE", WORKFLOWS.path("ns", "owner"))
        await asyncio.sleep(1)
        assert events == [("DELETED", "owner"), ("DELETED", "owned"), ("MODIFIED", "p")]
        left = server.get(PODS, "ns", "p")
        assert left is not None
        assert left["metadata"]["deletionTimestamp"]

    _in_virtual_time(work)
