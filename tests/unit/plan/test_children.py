"""Steps that run a WorkflowTemplate as a child Workflow."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from corral.api.workflow import WorkflowBudget, WorkflowPhase
from corral.plan.facts import ArtifactNeed
from corral.plan.kinds import children_looked_at, children_under_way
from corral.plan.observed import ChildView, Pass, Result
from corral.plan.state import Consumption, Stored
from tests.unit.plan.driver import Simulation, used


def call(extra: str = "", arguments: str = "", head: str = "", more: str = "") -> str:
    given = f", arguments: {arguments}" if arguments else ""
    field = "outputs" if "forEach" in extra else "output"
    return f"""
arguments: {{n: 2, list: [a, b]}}
{head}
steps:
- {{name: c, {extra + ", " if extra else ""}workflow: {{templateRef: {{name: t}}{given}}}}}
- name: d
  dependsOn: [c]
  triggerRule: AllDone
  transform: $(steps.c.?{field}.orValue('none'))
{more}
"""


def calling(extra: str = "", head: str = "", more: str = "", **options: Any) -> Simulation:
    """A run whose child has been made and seen."""
    return Simulation(call(extra, "", head, more), **options).to(1)


def name_of(sim: Simulation, step: str = "c") -> str:
    """The child that the step called last."""
    return [name for name, child in sim.called.items() if child.step == step][-1]


def cost_of(sim: Simulation) -> str | None:
    return sim.run_state.used().cost_text


def test_a_child_is_called_with_rendered_arguments() -> None:
    text = call(arguments="{n: $(arguments.n + 1), text: n=$(arguments.n), deep: [$(attempt)]}")
    sim = Simulation(text).to(0)
    (child,) = sim.called.values()
    assert (child.step, child.template) == ("c", "t")
    assert child.arguments == {"n": 3, "text": "n=2", "deep": [1]}
    assert (child.max_cost, child.max_tokens, child.concludes) == (None, None, False)
    row = sim.row("c")
    assert (row.phase, row.child, row.attempts) == ("Running", child.name, 1)
    assert children_under_way(sim.new_pass()) == {child.name}


def test_arguments_that_cannot_be_rendered_fail_the_step_before_a_child_is_made() -> None:
    sim = Simulation(call(arguments="{n: $(arguments.n.m)}")).to(0)
    assert (sim.row("c").phase, sim.row("c").reason) == ("Failed", "InvalidExpression")
    assert (sim.called, sim.run_state.steps["c"].nodes[0].child) == ({}, None)


def test_a_child_is_wanted_until_it_is_there() -> None:
    sim = Simulation(call())
    sim.tick()
    before = dict(sim.called)
    sim.called.clear()
    sim.children.clear()  # the request to make it was lost
    sim.tick()
    assert sim.called == before
    sim.called.clear()
    assert sim.to(2).called == {}


def test_the_output_of_a_child_is_that_of_its_step() -> None:
    sim = calling()
    sim.child_ends("c", output={"n": 1}, used=used("0.30"))
    assert (sim.row("c").output, sim.row("d").output) == ({"n": 1}, {"n": 1})
    assert (sim.row("c").cost_usd, sim.status.phase) == ("0.3", "Succeeded")
    assert children_under_way(sim.new_pass()) == set()


def test_a_stored_output_stays_where_the_child_put_it() -> None:
    stored = Stored(sha256="ab" * 32, size=5000, run_id="child-run")
    sim = calling(more="- {name: e, dependsOn: [c], transform: $(steps.c.output)}")
    sim.facts[ArtifactNeed("child-run", stored.sha256, stored.size)] = "whole"
    sim.child_ends("c", stored=stored)
    assert sim.run_state.steps["c"].nodes[0].stored == stored
    assert sim.run_state.steps["e"].nodes[0].stored == stored  # passed on, not loaded
    assert sim.row("d").output == "whole"
    assert "/child-run/" in sim.row("c").output["reference"]


@pytest.mark.parametrize(
    ("phase", "reason", "error"),
    [
        ("Failed", "InvalidOutput", "InvalidOutput"),
        ("Failed", "BudgetExceeded", "Budget"),
        ("Failed", "DeadlineExceeded", "Timeout"),
        ("Failed", "Failed", "Internal"),
        ("Stopped", "Stopped", "Internal"),
    ],
)
def test_a_child_that_did_not_succeed_fails_its_step(phase: str, reason: str, error: str) -> None:
    sim = calling()
    sim.child_ends("c", phase, reason=reason, message="step x failed", used=used("0.30"))
    row = sim.row("c")
    assert (row.phase, row.reason, row.cost_usd) == ("Failed", error, "0.3")
    assert row.message == f"Workflow {name_of(sim)} ended {phase}: step x failed"
    assert (sim.status.phase, sim.row("d").output) == ("Failed", "none")


def test_a_retry_makes_another_child() -> None:
    sim = calling("retryStrategy: {limit: 1, backoff: {duration: 10s}, onErrors: [Internal]}")
    first = name_of(sim)
    sim.child_ends("c", "Failed", used=used("0.10"))
    assert sim.phases["c"] == "Waiting"
    assert children_under_way(sim.new_pass()) == set()
    sim.to(11)
    assert name_of(sim) != first
    sim.child_ends("c", output="at last", used=used("0.20"))
    row = sim.row("c")
    assert (row.output, row.attempts, row.cost_usd) == ("at last", 2, "0.3")


@pytest.mark.parametrize("reason", ["Auth", "Quota", "BudgetExceeded"])
def test_what_is_never_retried_is_not_retried_with_a_child_either(reason: str) -> None:
    sim = calling("retryStrategy: {limit: 3}")
    sim.child_ends("c", "Failed", reason=reason)
    assert (sim.phases["c"], len(sim.called)) == ("Failed", 1)


def test_a_child_that_was_deleted_after_it_was_seen_fails_its_step() -> None:
    sim = calling()
    sim.tick()
    sim.children.clear()
    sim.tick()
    row = sim.row("c")
    assert (row.phase, row.reason) == ("Failed", "Internal")
    assert row.message == "the child Workflow was deleted"


@pytest.mark.parametrize(("depth", "phase"), [(1, "Running"), (4, "Running"), (5, "Failed")])
def test_workflows_are_five_deep_at_the_most(depth: int, phase: str) -> None:
    sim = Simulation(call("retryStrategy: {limit: 3}"), depth=depth).to(0)
    assert sim.phases["c"] == phase
    if phase == "Failed":
        assert sim.row("c").message == "Workflows are nested 5 deep at the most"
        assert sim.called == {}


class Templates(Simulation):
    """With the templates of the namespace, and their budgets."""

    templates: Mapping[str, WorkflowBudget | None] = {}

    def new_pass(self, results: Sequence[Result] = ()) -> Pass:
        p = super().new_pass(results)
        p.templates = self.templates
        return p


@pytest.mark.parametrize(
    ("budget", "own", "cost", "tokens"),
    [
        ("maxCostUSD: '1.00'", None, "1.00", None),
        ("maxTokens: 500", None, None, 500),
        ("maxCostUSD: '1.00', maxTokens: 500", None, "1.00", 500),
        ("maxCostUSD: '1.00'", {"maxCostUSD": "0.40"}, "0.40", None),
        ("maxCostUSD: '1.00'", {"maxCostUSD": "4.00"}, "1.00", None),
        ("maxTokens: 500", {"maxTokens": 100, "maxCostUSD": "0.40"}, None, 100),
    ],
)
def test_a_child_may_spend_all_that_is_left_within_its_templates_budget(
    budget: str, own: Any, cost: str | None, tokens: int | None
) -> None:
    sim = Templates(call(head=f"budget: {{{budget}}}"))
    sim.templates = {"t": WorkflowBudget.model_validate(own) if own else None}
    sim.to(0)
    (child,) = sim.called.values()
    assert child.max_cost == (None if cost is None else Decimal(cost))
    assert child.max_tokens == tokens


def test_a_template_that_is_not_there_is_named() -> None:
    sim = Templates(call()).to(1)
    assert (sim.status.phase, sim.called) == ("Pending", {})
    assert sim.condition("Reconciling").reason == "TemplateNotFound"
    assert "there is no WorkflowTemplate 't'" in (sim.status.message or "")


def test_the_next_child_waits_for_what_the_one_before_leaves() -> None:
    sim = calling("forEach: {items: [1, 2]}", "budget: {maxCostUSD: '1.00', onExceeded: Conclude}")
    assert [child.step for child in sim.called.values()] == ["c[0]"]
    assert sim.called[name_of(sim, "c[0]")].concludes
    sim.child_ends("c[0]", used=used("0.30"))
    assert sim.called[name_of(sim, "c[1]")].max_cost == Decimal("0.70")


@pytest.mark.parametrize(("action", "phase"), [("Suspend", "Suspended"), ("Fail", "Failed")])
def test_no_child_begins_with_nothing_to_spend(action: str, phase: str) -> None:
    head = f"budget: {{maxCostUSD: '0.30', onExceeded: {action}}}"
    sim = calling("forEach: {items: [1, 2]}", head)
    sim.child_ends("c[0]", used=used("0.30"))
    assert (sim.status.phase, len(sim.called)) == (phase, 1)


def test_a_child_of_on_exit_is_not_held_back() -> None:
    exit_step = "onExit: [{name: e, workflow: {templateRef: {name: t}}}]"
    sim = calling("", "budget: {maxCostUSD: '0.30'}", exit_step)
    sim.child_ends("c", used=used("0.30"))
    assert sim.called[name_of(sim, "e")].max_cost is None


def test_what_a_child_used_is_added_once_at_its_end() -> None:
    sim = calling()
    child = name_of(sim)
    sim.children[child] = ChildView(WorkflowPhase.RUNNING, used=used("0.10"))
    sim.tick()
    assert cost_of(sim) is None
    sim.child_ends("c", used=used("0.30"))
    sim.tick()
    assert (cost_of(sim), sim.run_state.used().requests) == ("0.3", 1)


def test_it_is_added_once_where_a_condition_has_to_load_the_output(monkeypatch: Any) -> None:
    stored = Stored(sha256="cd" * 32, size=5000, run_id="child-run")
    sim = calling("loop: {until: size(output) > 3, maxIterations: 2}")
    need = ArtifactNeed("child-run", stored.sha256, stored.size)
    monkeypatch.setattr(sim, "_fact", {need: "whole"}.get)  # asked for, not known before
    sim.child_ends("c", stored=stored, used=used("0.30"))
    assert (sim.phases["c"], cost_of(sim)) == ("Succeeded", "0.3")


def test_each_iteration_has_a_child_of_its_own() -> None:
    sim = calling("loop: {until: output == 'good', maxIterations: 3}")
    for output in ("bad", "good"):
        sim.child_ends("c", output=output, used=used("0.10"))
    assert (len(sim.called), sim.row("c").iteration, sim.row("c").attempts) == (2, 2, 2)
    assert (sim.row("d").output, cost_of(sim)) == ("good", "0.2")


@pytest.mark.parametrize(
    ("how", "phase", "at"),
    [
        ("shutdown: Stop", "Cancelled", 0),
        ("shutdown: Terminate", "Cancelled", 0),
        ("deadline: 10s", "Cancelled", 10),
        ("activeDeadline: 10s", "Cancelled", 10),
        ("step", "Failed", 10),
    ],
)
def test_a_child_that_is_given_up_is_not_under_way_and_still_booked(
    how: str, phase: str, at: float
) -> None:
    head = f"budget: {{maxCostUSD: '1.00'}}\n{how if how.endswith('eadline: 10s') else ''}"
    sim = calling("deadline: 10s" if how == "step" else "", head)
    child = name_of(sim)
    if how.startswith("shutdown"):
        sim.at(1, shutdown=how.split()[-1])
    sim.to(max(1, at))
    assert sim.phases["c"] == phase
    p = sim.new_pass()
    assert (children_under_way(p), children_looked_at(p)) == (set(), {child})
    assert sim.run_state.unsettled_cost == {child: Decimal("1.00")}
    sim.child_ends("c", "Stopped", used=used("0.25"))
    sim.tick()
    assert (cost_of(sim), sim.run_state.unsettled_cost) == ("0.25", {})
    assert children_looked_at(sim.new_pass()) == set()


@pytest.mark.parametrize(
    ("view", "cost"),
    [
        pytest.param(None, None, id="never made"),
        pytest.param(ChildView(WorkflowPhase.FAILED, True, used("0.25")), "0.25", id="ended"),
    ],
)
def test_a_child_that_is_not_going_on_is_not_waited_for(
    view: ChildView | None, cost: str | None
) -> None:
    sim = Simulation(call())
    sim.tick()
    sim.children = {} if view is None else {name_of(sim): view}
    sim.at(1, shutdown="Stop").to(1)
    assert (cost_of(sim), sim.run_state.unsettled_children) == (cost, [])
    assert sim.run_state.late == Consumption()


def test_no_child_is_called_while_suspended_and_one_that_runs_may_end() -> None:
    sim = Simulation(call(head="suspend: true")).to(1)
    assert sim.called == {}
    sim = calling(more="- {name: e, dependsOn: [c], workflow: {templateRef: {name: t}}}")
    sim.at(2, suspend=True).at(60, suspend=False).to(2)
    sim.child_ends("c", output=1)
    assert (sim.phases["c"], sim.phases["e"]) == ("Succeeded", "Pending")
    assert [child.step for child in sim.to(60).called.values()] == ["c", "e"]
