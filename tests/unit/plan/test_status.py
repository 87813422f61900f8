"""Rows, conditions, costs, missing Agents, the journal."""

import base64
import json
import random
import zlib

import pytest

from corral.api.errors import Reason
from corral.api.workflow import WorkflowStatus
from corral.plan.attempts import payload_at, running_attempts
from corral.plan.state import JournalError, Run, from_journal, to_journal
from corral.plan.status import stalled_status, status_of
from corral.plan.validate import workflow_problems
from corral.plan.workflow import fail_too_large, plan
from tests.unit.plan.driver import HANGS, RUN_ID, T0, Simulation, fails, ok, run, spec_of

ONE = "steps: [{name: a, agentRef: {name: x}}]"


def test_every_declared_step_has_a_row_from_the_first_pass_on() -> None:
    sim = Simulation(
        """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], wait: {duration: 1s}}
onExit: [{name: e, transform: '1'}]
""",
        {"a": HANGS},
    )
    sim.tick()
    assert [(row.name, row.phase, row.agent) for row in sim.status.steps or []] == [
        ("a", "Running", "x"),
        ("b", "Pending", None),
        ("e", "Pending", None),
    ]
    assert (sim.status.progress, sim.status.run_id, sim.status.phase) == ("0/3", RUN_ID, "Running")


def test_the_conditions_of_a_life() -> None:
    sim = Simulation(ONE, {"a": ok(takes=5)})
    sim.tick()
    running = {c.type: (c.status, c.reason) for c in sim.status.conditions}
    assert running == {
        "Finished": ("False", "Progressing"),
        "Succeeded": ("Unknown", "Progressing"),
        "Reconciling": ("True", "Progressing"),
        "Stalled": ("False", "Progressing"),
    }
    sim.end()
    done = {c.type: (c.status, c.reason) for c in sim.status.conditions}
    assert done == {
        "Finished": ("True", "Succeeded"),
        "Succeeded": ("True", "Succeeded"),
        "Reconciling": ("False", "Succeeded"),
        "Stalled": ("False", "Succeeded"),
    }
    assert sim.condition("Finished").last_transition_time == "2027-01-15T08:00:05Z"
    assert sim.condition("Stalled").last_transition_time == "2027-01-15T08:00:00Z"
    assert (sim.status.started_at, sim.status.finished_at) == (
        "2027-01-15T08:00:00Z",
        "2027-01-15T08:00:05Z",
    )


def test_a_failed_run_is_stalled_for_kstatus() -> None:
    sim = run(ONE, {"a": fails("ToolFailed", "blunt")})
    assert {c.type: c.status for c in sim.status.conditions} == {
        "Finished": "True",
        "Succeeded": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }
    assert sim.condition("Stalled").message == "step a failed: ToolFailed: blunt"


def test_conditions_of_others_stay() -> None:
    sim = Simulation(ONE)
    other = {
        "type": "Paid",
        "status": "True",
        "reason": "R",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    sim.status = WorkflowStatus.model_validate({"conditions": [other]})
    sim.end()
    assert sim.condition("Paid").last_transition_time == "2026-01-01T00:00:00Z"


def test_the_observed_generation_moves_after_the_end_too() -> None:
    sim = run(ONE)
    later = status_of(sim.new_pass(), sim.status, 7)
    assert later.observed_generation == 7
    assert {c.observed_generation for c in later.conditions} == {7}


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 253 + "…"),
        ("ä" * 200, "ä" * 126 + "…"),
        ({"a": [1, 2]}, {"a": [1, 2]}),
        ([1] * 500, "[1" + ",1" * 125 + ",…"),
        (None, None),
        (False, False),
        (0, 0),
    ],
)
def test_a_row_shows_the_beginning_of_an_output(output: object, shown: object) -> None:
    sim = run(ONE, {"a": ok(output)})
    assert sim.row("a").output == shown
    assert sim.run_state.steps["a"].nodes[0].output == output


@pytest.mark.parametrize(
    ("costs", "row", "total", "unpriced"),
    [
        pytest.param(["0.000001", "0.25"], "0.250001", "0.250001", 0, id="all priced"),
        pytest.param([None, None], None, None, 2, id="nothing priced is not zero"),
        pytest.param([None, "0.25"], "0.25", "0.25", 1, id="what is priced counts"),
        pytest.param(["0", "0"], "0", "0", 0, id="free is zero"),
        pytest.param(["100", "100"], "200", "200", 0, id="no exponent"),
    ],
)
def test_costs(costs: list[str | None], row: str | None, total: str | None, unpriced: int) -> None:
    sim = run(
        "steps: [{name: f, agentRef: {name: x}, forEach: {items: [1, 2]}}]",
        {f"f[{i}]": ok(cost=cost) for i, cost in enumerate(costs)},
    )
    assert sim.row("f").cost_usd == row
    usage = sim.status.usage
    assert usage is not None
    assert (usage.cost_usd, usage.unpriced_requests, usage.requests) == (total, unpriced, 2)
    assert (usage.input_tokens, usage.output_tokens) == (20, 10)


@pytest.mark.parametrize(
    ("cost", "shown"), [("0.25", "0.25 then 0.25"), (None, "unpriced then unpriced")]
)
def test_expressions_see_what_the_run_has_cost(cost: str | None, shown: str) -> None:
    sim = run(
        """
steps:
- {name: z, transform: $(workflow.costUSD)}
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], transform: $(workflow.costUSD) then $(workflow.costUSD)}
""",
        {"a": ok(cost=cost)},
    )
    assert (sim.row("z").output, sim.row("b").output) == ("0", shown)


# Missing Agents


def test_a_missing_agent_is_waited_for_then_the_run_is_stalled_then_it_goes_on() -> None:
    sim = Simulation(ONE, missing=["x"])
    sim.tick()
    assert (sim.status.phase, sim.status.started_at) == ("Pending", None)
    reconciling = sim.condition("Reconciling")
    assert (reconciling.status, reconciling.reason) == ("True", Reason.AGENT_NOT_FOUND)
    assert reconciling.message == "spec.steps[0].agentRef: there is no Agent 'x'"
    assert sim.status.message == reconciling.message
    assert sim.wake == [300]
    sim.to(299)
    assert not sim.has_condition("Stalled")
    sim.to(300)
    stalled = sim.condition("Stalled")
    assert (stalled.status, stalled.reason, stalled.message) == (
        "True",
        Reason.AGENT_NOT_FOUND,
        reconciling.message,
    )
    assert not sim.has_condition("Reconciling")
    assert sim.wake == []
    sim.agent_appears("x")
    sim.end()
    assert sim.status.phase == "Succeeded"
    assert sim.status.message is None


def test_an_agent_that_goes_missing_later_is_named_and_does_not_stop_others() -> None:
    sim = Simulation(
        """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], agentRef: {name: y}}
- {name: c, dependsOn: [a], agentRef: {name: x}}
"""
    )
    sim.tick()
    del sim.agents["y"]
    sim.to(10)
    assert sim.phases == {"a": "Succeeded", "b": "Queued", "c": "Succeeded"}
    assert sim.condition("Reconciling").message == "spec.steps[1].agentRef: there is no Agent 'y'"
    sim.to(301)
    assert sim.has_condition("Stalled")
    sim.agent_appears("y")
    sim.end()
    assert not sim.has_condition("Stalled")


def test_a_missing_agent_of_an_exit_step_is_named_after_a_stop() -> None:
    sim = Simulation(
        "steps: [{name: a, agentRef: {name: x}}]\nonExit: [{name: e, agentRef: {name: y}}]",
        {"a": HANGS},
    )
    sim.tick()
    del sim.agents["y"]
    sim.at(5, shutdown="Stop").to(305)
    assert sim.condition("Stalled").message == "spec.onExit[0].agentRef: there is no Agent 'y'"


# Invalid specs


def test_an_invalid_run_is_stalled_with_all_that_is_wrong() -> None:
    spec = spec_of(f"steps: [{', '.join(f'{{name: s{i}, transform: $(n)}}' for i in range(7))}]")
    status = stalled_status(spec, workflow_problems(spec), RUN_ID, WorkflowStatus(), 1, T0)
    assert [(row.name, row.phase) for row in status.steps or []] == [
        (f"s{i}", "Pending") for i in range(7)
    ]
    assert status.progress == "0/7"
    assert status.phase == "Pending"
    assert (status.message or "").startswith("spec.steps[0].transform: step 's0': n: ")
    assert (status.message or "").endswith("; and 2 more")
    assert {c.type: c.status for c in status.conditions} == {
        "Finished": "False",
        "Succeeded": "Unknown",
        "Reconciling": "False",
        "Stalled": "True",
    }
    again = stalled_status(spec, workflow_problems(spec), RUN_ID, status, 1, T0 + 60)
    assert again == status


# The journal


def test_the_journal_holds_the_whole_run() -> None:
    sim = Simulation(
        "steps: [{name: f, agentRef: {name: x}, forEach: {items: [1, null, {a: []}]}}]",
        {"f[0]": HANGS, "f[1]": fails(), "f[2]": ok({"deep": [None, 1.5, "ä"]})},
    ).to(2)
    state = sim.run_state
    assert from_journal(to_journal(state)) == state
    assert to_journal(from_journal(to_journal(state))) == to_journal(state)
    assert state.steps["f"].items == [1, None, {"a": []}]


def test_the_journal_keeps_what_a_newer_version_wrote() -> None:
    body = {"run_id": "r", "novelty": {"a": 1}, "steps": {"a": {"fancy": 2}}}
    packed = base64.b64encode(zlib.compress(json.dumps(body).encode())).decode()
    again = to_journal(from_journal(f"1:{packed}"))
    assert json.loads(zlib.decompress(base64.b64decode(again[2:]))) == body


@pytest.mark.parametrize(
    "journal", ["", "1:", "1:!!!", "1:AAAA", "2:eJw=", "1:" + base64.b64encode(b"x").decode(), "1"]
)
def test_a_journal_that_cannot_be_read_is_an_error(journal: str) -> None:
    with pytest.raises(JournalError):
        from_journal(journal)


def test_a_run_too_large_for_the_api_server_ends_and_drops_its_outputs() -> None:
    sim = Simulation(
        """
steps:
- {name: a, agentRef: {name: x}, extract: {n: output}}
- {name: f, agentRef: {name: x}, forEach: {items: [1, 2]}}
onExit: [{name: e, agentRef: {name: x}}]
""",
        {"a": ok("big"), "f[0]": HANGS},
    ).to(2)
    p = sim.new_pass()
    fail_too_large(p, 2_000_000, 1_500_000)
    status = status_of(p, sim.status, 1)
    assert (status.phase, [row.phase for row in status.steps or []]) == (
        "Failed",
        ["Succeeded", "Cancelled", "Omitted"],
    )
    assert "2000000 bytes is over the limit of 1500000" in (status.message or "")
    assert "big" not in status.model_dump_json(exclude={"journal"})
    assert "big" not in p.run.model_dump_json()
    assert plan(sim.new_pass(), lambda wants: {}) == {}


def test_what_a_running_attempt_was_sent_can_be_rendered_again() -> None:
    sim = Simulation("arguments: {t: tea}\n" + ONE.replace("}}", "}, input: $(arguments.t)}"))
    sim.tick()
    (sent,) = sim.started
    p = sim.new_pass()
    (place,) = running_attempts(p).values()
    assert payload_at(p, place) == sent.payload


def test_an_empty_run_has_an_empty_journal() -> None:
    assert from_journal(to_journal(Run(run_id="r"))) == Run(run_id="r")


def test_a_status_is_made_of_a_run_of_any_size_so_that_it_can_be_told_to_be_too_large() -> None:
    noise = random.Random(1).randbytes(100_000).hex()
    lines = [f"arguments: {{t: '{noise}'}}", "steps:"]
    for number in range(100):
        begins = [number * 1900 + 100 * n for n in range(16)]
        parts = [f"k{at}: 'arguments.t.substring({at}, {at + 1000})'" for at in begins]
        lines.append(f"- {{name: s{number}, transform: '1', extract: {{{', '.join(parts)}}}}}")
    sim = Simulation("\n".join(lines))
    sim.end()
    assert len(sim.status.model_dump_json()) > 1_000_000
