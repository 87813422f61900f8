"""What is told of runs and attempts, by whom, and what is not told twice or without a parent."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corral.api.attempt import AttemptReport, ModelUsage
from corral.api.errors import ErrorClass
from corral.api.trace import SpanRef, span_id
from corral.handlers import main
from corral.ledger.errors import LedgerError
from corral.ledger.rows import Origin
from corral.plan.names import ANNOTATION_TRACEPARENT
from corral.plan.observed import Result
from corral.plan.state import Charge, priced, total
from corral.reconcile import traces
from corral.reconcile.store import Store
from corral.reconcile.traces import Traces
from corral.reconcile.world import World
from corral.tracing import genai
from corral.tracing.parcel import Parcel
from corral.tracing.span import Span
from corral.tracing.tracer import Tracer
from tests.unit.plan.driver import NAME, NAMESPACE, RUN_ID, T0, Simulation, fails, ok, run

CALLER = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TEXT = """
steps:
- {name: plan, agentRef: {name: planner}}
- {name: write, dependsOn: [plan], agentRef: {name: writer}, retryStrategy: {limit: 3}}
"""


class Desk:
    """Traces, with the Workflows that there are, and what the ledger was given."""

    def __init__(self, *workflows: dict[str, Any], on: bool = True) -> None:
        self.parcels: dict[str, Parcel] = {}
        self.there: set[str] = set()
        self.away = 0
        store = Store()
        for obj in workflows:
            store.see(obj)
        world = SimpleNamespace(
            workflows=store,
            tracer=Tracer((lambda _, caller: caller is None or caller.sampled) if on else None),
            kube=SimpleNamespace(now=lambda: T0 + 100),
            ledger=SimpleNamespace(book=self._book, known=self._known),
            price=lambda _: lambda _: Decimal(1),
        )
        self.traces = Traces(cast("World", world))

    def _book(self, key: str, entries: Any, written: Any, *, parcels: Sequence[Parcel]) -> None:
        self.parcels |= {one.key: one for one in parcels}

    async def _known(self, keys: Any) -> set[str]:
        if self.away:
            self.away -= 1
            raise LedgerError("locked")
        return set(keys) & self.there

    def names(self) -> dict[str, list[str]]:
        return {key: [span.name for span in one.spans] for key, one in self.parcels.items()}

    def settled(self, result: Result, name: str | None = NAME, agent: str = "writer") -> list[Span]:
        origin = Origin(NAMESPACE, result.attempt_id.split(".")[0], name)
        found = self.traces.of_attempt(result, origin, agent, None, None, T0 + 50)
        assert len({one.key for one in found}) == len(found)
        return [span for one in found for span in one.spans]


def workflow(sim: Simulation, trace_id: str | None = "c" * 32, **meta: Any) -> dict[str, Any]:
    """As the API server has it."""
    sim.status.trace_id = trace_id
    known = {"name": NAME, "namespace": NAMESPACE, "uid": RUN_ID, "resourceVersion": "1"}
    return {
        "metadata": known | meta,
        "spec": sim.spec.to_json(),
        "status": sim.status.to_json(),
    }


def ended() -> Simulation:
    return run(TEXT, {"write#1": fails("WorkerLost", "gone"), "write": ok()})


def told(attempt_id: str, traceparent: str | None = None, **more: Any) -> Result:
    """What a worker tells of an attempt with one call."""
    usage = ModelUsage(model_ref="m", provider="p", model="gpt", requests="1", input_tokens="1")
    charge = Charge(usage, priced(usage, Decimal(1)), "Model")
    report = AttemptReport(
        attempt_id=attempt_id, pod_uid="w", agent_revision="r", traceparent=traceparent
    )
    used = total([charge])
    return Result(attempt_id, "w", used, charges=(charge,), report=report, worked=2.0, **more)


def test_a_run_that_has_ended_is_told_of_with_the_attempts_that_no_worker_tells_of() -> None:
    desk = Desk()
    desk.traces.ended(workflow(ended()))
    assert desk.names() == {
        RUN_ID: ["invoke_workflow report", "step plan", "step write"],
        f"{RUN_ID}.write.0.1.1": ["invoke_agent writer"],
    }


@pytest.mark.parametrize("trace_id", [None, "d" * 32])
def test_what_is_not_traced_or_not_sampled_is_not_told_of(trace_id: str | None) -> None:
    unsampled = SpanRef("d" * 32, CALLER.span_id, sampled=False).traceparent
    annotations = {ANNOTATION_TRACEPARENT: unsampled}
    obj = workflow(ended(), trace_id, annotations=annotations)
    desk = Desk(obj)
    desk.traces.ended(obj)
    desk.traces.gone(obj)
    assert desk.parcels == {}
    assert desk.settled(told(f"{RUN_ID}.plan.0.1.1")) == []
    assert desk.traces.attempts(obj, ended().run_state, ["x.plan.0.1.1"]) == {}


def test_where_tracing_is_off_nothing_is_told() -> None:
    obj = workflow(ended())
    desk = Desk(obj, on=False)
    desk.traces.ended(obj)
    own = CALLER.child("u9.plan.0.1.1").traceparent
    assert desk.settled(told("u9.plan.0.1.1", own), None) == []
    assert desk.parcels == {}


def test_a_run_that_is_deleted_has_the_spans_that_it_has_by_then() -> None:
    obj = workflow(Simulation(TEXT, {"plan": ok(takes=999)}).to(30))
    desk = Desk()
    desk.traces.gone(obj)
    root, step = desk.parcels[RUN_ID].spans
    assert (root.error, root.ended_at) == ("the Workflow was deleted", T0 + 100)
    assert (step.name, step.error) == ("step plan", None)
    desk.parcels.clear()
    desk.traces.gone(workflow(ended()))
    assert desk.parcels == {}  # it was told of when it ended
    desk.traces.gone({})


def test_what_a_run_knows_of_an_attempt_is_taken_before_it_goes_on() -> None:
    sim = Simulation(TEXT, {"write#1": fails("ToolFailed"), "write": ok(takes=60)}).to(20)
    obj = workflow(sim)
    desk = Desk(obj)
    identity = f"{RUN_ID}.write.0.1.2"
    about = desk.traces.attempts(obj, sim.run_state, [identity])[identity]
    assert (about.agent, about.follows) == ("writer", "ToolFailed")
    assert about.started is not None
    assert T0 < about.started < T0 + 20


def test_an_attempt_that_the_sweep_finds_is_told_of_as_the_run_knows_it() -> None:
    desk = Desk(workflow(ended()))
    own, chat = desk.settled(told(f"{RUN_ID}.write.0.1.2"))
    assert (own.name, own.parent_id) == ("invoke_agent writer", span_id(RUN_ID, "write"))
    assert own.links[0].attributes == {genai.RETRY_REASON: "WorkerLost"}
    assert (chat.parent_id, chat.attributes[genai.COST]) == (own.span_id, 1.0)
    assert {own.trace_id, chat.trace_id} == {"c" * 32}


def test_of_a_run_that_nobody_knows_its_worker_tells_the_trace() -> None:
    desk = Desk()
    identity = "u9.plan.0.1.1"
    own, chat = desk.settled(told(identity, CALLER.child(identity).traceparent), None)
    assert (own.trace_id, own.parent_id) == (CALLER.trace_id, span_id("u9", "plan"))
    assert chat.trace_id == CALLER.trace_id


@pytest.mark.parametrize(
    "claimed",
    [
        None,
        "nonsense",
        CALLER.traceparent,
        SpanRef(CALLER.trace_id, span_id("u9.plan.0.1.1"), sampled=False).traceparent,
    ],
)
def test_without_a_trace_of_its_own_it_is_not_told_of(claimed: str | None) -> None:
    assert Desk().settled(told("u9.plan.0.1.1", claimed), None) == []


def test_what_is_known_of_a_loss_and_what_the_lost_worker_tells_later_do_not_overlap() -> None:
    desk = Desk(workflow(ended()))
    identity = f"{RUN_ID}.write.0.1.1"
    lost = Result(identity, "w", total(()), error=ErrorClass.WORKER_LOST, message="gone")
    origin = Origin(NAMESPACE, RUN_ID, NAME)
    first = desk.traces.of_attempt(lost, origin, "writer", None, None, T0)
    later = desk.traces.of_attempt(told(identity), origin, "writer", None, None, T0)
    assert [one.key for one in first] == [identity]
    assert [one.key for one in later] == [identity, f"{identity}/calls"]
    assert later[1].spans[0].parent_id == first[0].spans[0].span_id


def test_what_can_not_be_told_stands_in_nobodys_way(caplog: pytest.LogCaptureFixture) -> None:
    obj = workflow(ended())
    desk = Desk(obj)
    desk.traces._world.price = None  # type: ignore[method-assign, assignment]
    assert desk.settled(told(f"{RUN_ID}.write.0.1.2")) == []
    obj["status"]["steps"] = [{}]
    desk.traces.ended(obj)
    desk.traces.gone(obj | {"status": {**obj["status"], "finishedAt": None}})
    assert desk.parcels == {}
    assert caplog.text.count("can't be made") == 3


async def test_a_new_leader_tells_of_runs_that_the_one_before_it_did_not_come_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "LATER", 0.01)
    old = workflow(ended(), uid="old", name="old")
    old["status"]["finishedAt"] = "2020-01-01T00:00:00Z"
    desk = Desk(
        workflow(ended(), uid="a", name="a"),
        workflow(ended(), uid="b", name="b"),
        workflow(ended(), None, uid="untraced", name="untraced"),
        workflow(Simulation(TEXT, {"plan": ok(takes=999)}).to(3), uid="runs", name="runs"),
        old,
    )
    desk.there, desk.away = {"b"}, 1
    task = asyncio.create_task(desk.traces.take_up())
    try:
        async with asyncio.timeout(5):
            while "a" not in desk.parcels:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert {"a", "b", "untraced", "runs", "old"} & desk.parcels.keys() == {"a"}


def test_an_operator_without_a_ledger_can_not_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main._exporter(None) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_ENDPOINT: spans wait in the ledger"):
        main._exporter(None)
