"""Deadlines: of an attempt, a step, a run by the clock, a run at work."""

import pytest

from tests.unit.plan.driver import HANGS, Simulation, fails, ok, run


def test_a_passed_step_deadline_fails_the_step_and_says_so() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}, deadline: 10s}]", {"a": HANGS})
    row = sim.row("a")
    assert (sim.now, row.phase, row.reason) == (10, "Failed", "Timeout")
    assert row.message == "the step's deadline of 10s passed"
    assert sim.status.message == f"step a failed: Timeout: {row.message}"
    assert list(sim.run_state.unsettled) == ["run-1.a.0.1.1"]


def test_a_step_deadline_counts_queueing_and_all_attempts() -> None:
    queued = run("steps: [{name: a, agentRef: {name: x}, deadline: 10s}]", slots=0)
    assert (queued.now, queued.phases) == (10, {"a": "Failed"})
    retried = run(
        "steps: [{name: a, agentRef: {name: x}, deadline: 10s, retryStrategy: {limit: 9}}]",
        {"a": fails(takes=2)},
    )
    assert (retried.now, [at for _, at in retried.starts]) == (10, [0, 3, 7])


def test_a_step_deadline_counts_from_when_its_trigger_held() -> None:
    sim = run(
        """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], agentRef: {name: x}, deadline: 10s}
""",
        {"a": ok(takes=60), "b": HANGS},
    )
    assert sim.now == 70


@pytest.mark.parametrize("tolerate", ["0", "100%"])
def test_a_fan_out_whose_deadline_passes_has_failed_whatever_it_tolerates(tolerate: str) -> None:
    sim = run(
        f"""
steps: [{{name: f, agentRef: {{name: x}}, deadline: 10s,
  forEach: {{items: [1, 2, 3], tolerateFailures: {tolerate}}}}}]
""",
        {"f[0]": ok(), "f": HANGS},
    )
    assert sim.row("f").phase == "Failed"
    assert sim.row("f").message == "the step's deadline of 10s passed before 2 of 3 items had ended"


def test_a_result_that_comes_with_the_deadline_counts() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}, deadline: 10s}]", {"a": ok(takes=10)})
    assert sim.phases == {"a": "Succeeded"}


@pytest.mark.parametrize("field", ["deadline", "activeDeadline"])
def test_a_passed_workflow_deadline_fails_the_run_and_names_itself(field: str) -> None:
    sim = run(
        f"""
{field}: 10s
steps:
- {{name: a, agentRef: {{name: x}}}}
- {{name: b, dependsOn: [a], agentRef: {{name: x}}}}
- {{name: f, agentRef: {{name: x}}, forEach: {{items: [1, 2], maxConcurrent: 1}}}}
onExit: [{{name: e, agentRef: {{name: x}}, input: $(workflow.phase)}}]
""",
        {"a": HANGS, "f": HANGS},
    )
    assert sim.phases == {"a": "Cancelled", "b": "Omitted", "f": "Cancelled", "e": "Succeeded"}
    assert sim.status.phase == "Failed"
    assert sim.status.message == f"the workflow's {field} of 10s passed"
    assert sim.condition("Succeeded").reason == "DeadlineExceeded"
    assert sim.condition("Finished").reason == "Failed"
    assert sim.input_of("e") == "Failed"
    assert [(s.step, s.at) for s in sim.started if s.step == "e"] == [("e", 10)]


def test_the_active_deadline_stands_still_while_only_waits_are_outstanding() -> None:
    sim = run(
        """
activeDeadline: 10s
steps:
- {name: a, agentRef: {name: x}}
- {name: w, dependsOn: [a], wait: {duration: 1h}}
- {name: b, dependsOn: [w], agentRef: {name: x}}
""",
        {"a": ok(takes=4), "b": HANGS},
    )
    assert sim.status.phase == "Failed"
    assert sim.now == 3600 + 10


def test_the_active_deadline_runs_while_something_else_runs_beside_a_wait() -> None:
    sim = run(
        """
activeDeadline: 10s
steps: [{name: w, wait: {duration: 1h}}, {name: a, agentRef: {name: x}}]
""",
        {"a": HANGS},
    )
    assert sim.now == 10


def test_the_active_deadline_runs_while_a_step_is_queued_or_backs_off() -> None:
    queued = run("activeDeadline: 10s\nsteps: [{name: a, agentRef: {name: x}}]", slots=0)
    assert queued.now == 10
    strategy = "{limit: 1, backoff: {duration: 1h, maxDuration: 1h}}"
    waiting = run(
        "activeDeadline: 10s\n"
        f"steps: [{{name: a, agentRef: {{name: x}}, retryStrategy: {strategy}}}]",
        {"a": fails()},
    )
    assert waiting.now == 10


def test_the_active_deadline_stands_still_while_suspended_and_the_deadline_does_not() -> None:
    spec = "{}: 10s\nsteps: [{{name: a, agentRef: {{name: x}}}}]"
    active = Simulation(spec.format("activeDeadline"), {"a": HANGS})
    active.at(4, suspend=True).at(100, suspend=None).end()
    assert active.now == 106
    wall = Simulation(spec.format("deadline"), {"a": HANGS}).at(4, suspend=True).to(50)
    assert wall.row("a").phase == "Cancelled"


def test_no_deadline_counts_before_the_run_started() -> None:
    sim = Simulation("deadline: 10s\nsteps: [{name: a, agentRef: {name: x}}]", missing=["x"])
    sim.to(60)
    assert sim.status.phase == "Pending"
    sim.agent_appears("x")
    sim.end()
    assert sim.status.phase == "Succeeded"


def test_deadlines_do_not_end_exit_steps_of_a_run_that_has_its_outcome() -> None:
    sim = run(
        """
deadline: 10s
steps: [{name: a, agentRef: {name: x}}]
onExit: [{name: e, agentRef: {name: x}}]
""",
        {"a": ok(takes=5), "e": ok(takes=60)},
    )
    assert (sim.status.phase, sim.phases["e"]) == ("Succeeded", "Succeeded")


def test_an_exit_steps_own_deadline_counts() -> None:
    sim = run(
        """
steps: [{name: a, transform: '1'}]
onExit: [{name: e, agentRef: {name: x}, deadline: 10s}]
""",
        {"e": HANGS},
    )
    assert (sim.now, sim.phases["e"], sim.status.phase) == (10, "Failed", "Succeeded")


def test_a_silent_worker_is_given_up_fifteen_seconds_after_the_attempts_timeout() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}, timeout: 10s}]", {"a": HANGS})
    assert (sim.now, sim.row("a").reason) == (25, "Timeout")
