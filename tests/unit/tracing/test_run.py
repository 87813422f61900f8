"""The spans of a run, as its Workflow tells them."""

from typing import Any

import pytest

from corral.api.trace import SpanRef, span_id
from corral.plan.names import ANNOTATION_TRACEPARENT
from corral.plan.state import Run, to_journal
from corral.plan.takeover import take_over
from corral.tracing import genai
from corral.tracing.run import root_of, spans_of, trace_id_of
from corral.tracing.span import Span
from tests.unit.plan.driver import (
    NAME,
    NAMESPACE,
    RUN_ID,
    T0,
    Script,
    Simulation,
    fails,
    ok,
    run,
)

CALLER = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
CHAIN = """
failFast: false
steps:
- {name: plan, agentRef: {name: planner}}
- name: write
  dependsOn: [plan]
  agentRef: {name: writer}
  retryStrategy: {limit: 3, backoff: {duration: 1s}}
- {name: never, dependsOn: [write], when: "false", agentRef: {name: writer}}
"""


def workflow(sim: Simulation, run_id: str = RUN_ID, **annotations: str) -> dict[str, Any]:
    """As the API server has it."""
    return {
        "metadata": {
            "name": NAME,
            "namespace": NAMESPACE,
            "uid": run_id,
            "annotations": annotations,
        },
        "spec": sim.spec.to_json(),
        "status": sim.status.to_json(),
    }


def spans(sim: Simulation, **annotations: str) -> dict[str, Span]:
    """By name, and for attempts by what comes behind the run's id."""
    found = spans_of(workflow(sim, **annotations), T0 + sim.now)
    named = {str(one.attributes.get(genai.ATTEMPT_ID, one.name)): one for one in found}
    assert len(named) == len(found)
    return {name.removeprefix(RUN_ID + "."): one for name, one in named.items()}


def chain(answers: Script | None = None) -> Simulation:
    return run(CHAIN, answers or {"write#1": fails("ToolFailed", "no luck"), "write": ok(takes=2)})


def test_a_run_is_a_tree_of_steps_and_attempts() -> None:
    found = spans(chain())
    root = found["invoke_workflow report"]
    assert (root.span_id, root.parent_id) == (span_id(RUN_ID), None)
    assert (root.started_at, root.ended_at) == (T0, T0 + 5)
    assert found["step plan"].parent_id == found["step write"].parent_id == root.span_id
    assert "step never" not in found
    assert found["plan.0.1.1"].parent_id == found["step plan"].span_id == span_id(RUN_ID, "plan")
    assert found["plan.0.1.1"].name == "invoke_agent planner"
    assert {one.trace_id for one in found.values()} == {trace_id_of(RUN_ID)}


def test_a_retry_links_to_the_attempt_before_it_and_says_why() -> None:
    found = spans(chain())
    first, second = found["write.0.1.1"], found["write.0.1.2"]
    assert (first.error, first.attributes[genai.ERROR_TYPE]) == ("no luck", "ToolFailed")
    assert (first.started_at, first.ended_at) == (T0 + 1, T0 + 2)
    (link,) = second.links
    assert (link.span_id, link.attributes) == (first.span_id, {genai.RETRY_REASON: "ToolFailed"})
    assert (second.started_at, second.ended_at, second.error) == (T0 + 3, T0 + 5, None)
    assert first.links == ()


def test_what_has_not_ended_ends_now() -> None:
    found = spans(Simulation(CHAIN, {"plan": ok(takes=60)}).to(30))
    assert {one.ended_at for one in found.values()} == {T0 + 30}
    assert genai.OUTCOME not in found["plan.0.1.1"].attributes
    assert set(found) == {"invoke_workflow report", "step plan", "plan.0.1.1"}


def test_a_run_that_has_not_begun_has_no_span() -> None:
    obj = {"metadata": {"name": "w", "namespace": "n", "uid": "u"}, "spec": {}}
    assert spans_of(obj, T0) == []


def test_a_failure_is_told_by_run_step_and_attempt() -> None:
    found = spans(chain({"write": fails("InvalidOutput", "no good")}))
    assert found["step write"].error == found["write.0.1.4"].error == "no good"
    assert found["step write"].attributes[genai.ERROR_TYPE] == "InvalidOutput"
    assert found["invoke_workflow report"].attributes[genai.PHASE] == "Failed"
    assert found["invoke_workflow report"].error


def test_items_are_attempts_of_one_step() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}, forEach: {items: [1, 2]}}]")
    found = spans(sim)
    assert found["a.1.1.1"].attributes[genai.ITEM] == 1
    assert found["a.0.1.1"].parent_id == found["a.1.1.1"].parent_id == found["step a"].span_id
    assert found["step a"].attributes[genai.ITEMS] == 2


def test_nested_steps_belong_to_the_declared_step_around_them() -> None:
    text = """
steps:
- name: outer
  forEach: {items: [1, 2]}
  steps:
  - {name: inner, agentRef: {name: x}}
  - {name: last, dependsOn: [inner], agentRef: {name: x}}
"""
    found = spans(Simulation(text, {"last": ok(takes=9)}).to(3))
    inner = found["outer~1~1~inner.0.1.1"]
    assert inner.parent_id == found["step outer"].span_id
    assert (inner.attributes[genai.STEP], inner.name) == ("outer.inner", "invoke_agent x")
    assert found["step outer"].started_at <= inner.started_at
    after = spans(run(text))
    assert after["step outer"].started_at == T0  # though what is inside is forgotten


def test_a_tools_step_executes_a_tool() -> None:
    text = "steps: [{name: a, tool: {mcp: {url: 'http://t/mcp'}, name: search}}]"
    attempt = spans(run(text))["a.0.1.1"]
    assert (attempt.name, attempt.attributes[genai.TOOL]) == ("execute_tool search", "search")


def test_what_was_taken_over_is_not_told_again() -> None:
    old = chain({"write": fails()})
    new = Simulation(old.spec.model_dump_json(by_alias=True, exclude_none=True), {"write": ok()})
    new.now = 1000.0
    taken = Run(run_id="run-2")
    take_over(taken, new.spec, old.run_state, old.spec, T0 + 1000)
    new.status.journal = to_journal(taken)
    new.end()
    found = spans_of(workflow(new, "run-2"), T0 + new.now)
    assert [one.name for one in found] == ["invoke_workflow report", "step write",
                                           "invoke_agent writer"]  # fmt: skip


def test_a_caller_is_the_parent_and_gives_the_trace() -> None:
    found = spans(chain(), **{ANNOTATION_TRACEPARENT: CALLER.traceparent})
    root = found["invoke_workflow report"]
    assert (root.trace_id, root.parent_id) == (CALLER.trace_id, CALLER.span_id)
    assert {one.trace_id for one in found.values()} == {CALLER.trace_id}


@pytest.mark.parametrize("told", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_a_traceparent_that_is_none_begins_a_trace(told: str) -> None:
    assert root_of(workflow(chain(), **{ANNOTATION_TRACEPARENT: told})).trace_id == trace_id_of(
        RUN_ID
    )


def test_the_trace_that_status_tells_stays_though_the_annotation_changes() -> None:
    sim = chain()
    sim.status.trace_id = "c" * 32
    found = spans(sim, **{ANNOTATION_TRACEPARENT: CALLER.traceparent})
    assert {one.trace_id for one in found.values()} == {"c" * 32}
    assert found["invoke_workflow report"].parent_id is None


def test_a_runs_id_is_its_trace_if_it_is_a_uuid() -> None:
    assert trace_id_of("6d1b8f0e-0a4c-4a45-9b7e-0f8b6a1d2c3e") == "6d1b8f0e0a4c4a459b7e0f8b6a1d2c3e"
    assert len(trace_id_of("run-1")) == 32


def test_rows_tell_what_they_can_where_the_journal_is_another_versions() -> None:
    sim = chain()
    sim.status.journal = "9:abc"
    assert set(spans(sim)) == {"invoke_workflow report", "step plan", "step write"}
