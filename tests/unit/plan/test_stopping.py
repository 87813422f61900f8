"""Suspend, resume, shutdown, ``onExit``."""

import pytest

from tests.unit.plan.driver import HANGS, Simulation, fails, ok, run, spec_of

CHAIN = """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], agentRef: {name: x}}
"""


def test_while_suspended_nothing_starts_and_what_runs_ends() -> None:
    sim = Simulation(CHAIN, {"a": ok(takes=5)}).at(2, suspend=True).to(20)
    assert sim.phases == {"a": "Succeeded", "b": "Pending"}
    assert sim.status.phase == "Suspended"
    assert sim.has_condition("Suspended")
    sim.at(60, suspend=None).end()
    assert sim.starts == [("a", 0), ("b", 60)]
    assert (sim.condition("Suspended").status, sim.condition("Suspended").reason) == (
        "False",
        "Resumed",
    )


def test_while_suspended_no_item_no_wait_and_no_transform_starts() -> None:
    sim = Simulation(
        """
steps:
- {name: f, agentRef: {name: x}, forEach: {items: [1, 2], maxConcurrent: 1}}
- {name: a, agentRef: {name: y}}
- {name: w, dependsOn: [a], wait: {duration: 1s}}
- {name: t, dependsOn: [a], transform: '1'}
- {name: v, wait: {duration: 1s}, forEach: {items: [1, 2], maxConcurrent: 1}}
""",
        {"f": ok(takes=5), "a": ok(takes=5)},
    )
    sim.at(0.5, suspend=True).to(100)
    assert list(sim.phases.values()) == ["Queued", "Succeeded", "Pending", "Pending", "Queued"]
    assert [step for step, _ in sim.starts] == ["f[0]", "a"]


def test_a_retry_does_not_start_while_suspended() -> None:
    sim = Simulation(
        "steps: [{name: a, agentRef: {name: x}, retryStrategy: {limit: 1}}]", {"a#1": fails()}
    )
    sim.at(1, suspend=True).to(100)
    assert len(sim.started) == 1
    sim.at(200, suspend=False).end()
    assert sim.starts == [("a", 0), ("a", 200)]


def test_a_run_submitted_suspended_starts_when_resumed() -> None:
    sim = Simulation("suspend: true\n" + CHAIN.strip()).to(10)
    assert (sim.status.phase, sim.status.started_at) == ("Suspended", None)
    assert sim.phases == {"a": "Pending", "b": "Pending"}
    sim.at(20, suspend=None).end()
    assert sim.starts[0] == ("a", 20)
    assert not sim.has_condition("Suspended")


def test_a_run_that_was_never_suspended_has_no_such_condition() -> None:
    sim = run("steps: [{name: w, wait: {duration: 1s}}]")
    assert "Suspended" not in {c.type for c in sim.status.conditions}


ALL = """
steps:
- {name: done, agentRef: {name: x}}
- {name: runs, agentRef: {name: x}}
- {name: waits, wait: {duration: 1h}}
- {name: backs, agentRef: {name: x}, retryStrategy: {limit: 1, backoff: {duration: 50s}}}
- {name: queued, agentRef: {name: full}}
- {name: fan, agentRef: {name: x}, forEach: {items: [1, 2, 3], maxConcurrent: 2}}
- {name: naps, wait: {duration: 1h}, forEach: {items: [1, 2]}}
- {name: lines, agentRef: {name: full}, forEach: {items: [1, 2]}}
- {name: later, dependsOn: [runs], agentRef: {name: x}}
- {name: cleanup, dependsOn: [runs], triggerRule: AllDone, agentRef: {name: x}}
onExit: [{name: bye, agentRef: {name: x}, input: "$(workflow.phase), $(workflow.message)"}]
"""
SCRIPT = {"runs": HANGS, "backs": fails(), "fan[0]": fails(), "fan[1]": HANGS, "fan[2]": HANGS}


@pytest.mark.parametrize(("shutdown", "bye"), [("Stop", "Succeeded"), ("Terminate", "Omitted")])
def test_shutdown_cancels_what_has_begun_and_omits_the_rest(shutdown: str, bye: str) -> None:
    sim = Simulation("failFast: false" + ALL, SCRIPT, slots={"x": 9, "full": 0})
    sim.at(5, shutdown=shutdown).end()
    assert sim.phases == {
        "done": "Succeeded",
        "runs": "Cancelled",
        "waits": "Cancelled",
        "backs": "Cancelled",
        "queued": "Omitted",
        "fan": "Cancelled",
        "naps": "Cancelled",
        "lines": "Omitted",
        "later": "Omitted",
        "cleanup": "Omitted",
        "bye": bye,
    }
    assert sim.status.phase == "Stopped"
    assert sim.status.message == f"stopped by shutdown: {shutdown}"
    assert {c.type: (c.status, c.reason) for c in sim.status.conditions} == {
        "Finished": ("True", "Stopped"),
        "Succeeded": ("False", "Stopped"),
        "Reconciling": ("False", "Stopped"),
        "Stalled": ("False", "Stopped"),
    }
    assert sorted(sim.run_state.unsettled) == [
        "run-1.fan.1.1.1",
        "run-1.fan.2.1.1",
        "run-1.runs.0.1.1",
    ]
    if shutdown == "Stop":
        assert sim.input_of("bye") == "Stopped, stopped by shutdown: Stop"


def test_terminate_cancels_exit_steps_that_run() -> None:
    sim = Simulation(
        "steps: [{name: a, transform: '1'}]\nonExit: [{name: e, agentRef: {name: x}}]",
        {"e": HANGS},
    )
    sim.at(5, shutdown="Terminate").end()
    assert (sim.phases["e"], sim.status.phase, sim.now) == ("Cancelled", "Succeeded", 5)


def test_stop_lets_exit_steps_end_that_run() -> None:
    sim = Simulation(
        "steps: [{name: a, transform: '1'}]\nonExit: [{name: e, agentRef: {name: x}}]",
        {"e": ok(takes=9)},
    )
    sim.at(5, shutdown="Stop").end()
    assert (sim.phases["e"], sim.status.phase, sim.now) == ("Succeeded", "Succeeded", 9)


@pytest.mark.parametrize("extra", ["", "suspend: true\n"])
def test_a_run_can_be_terminated_before_it_starts(extra: str) -> None:
    sim = Simulation(extra + CHAIN.strip(), missing=["x"]).at(5, shutdown="Terminate").end()
    assert sim.phases == {"a": "Omitted", "b": "Omitted"}
    assert (sim.status.phase, sim.started) == ("Stopped", [])
    assert not sim.has_condition("Stalled")


def test_shutdown_after_the_end_changes_nothing() -> None:
    sim = run(CHAIN)
    before = sim.status
    sim.at(sim.now, shutdown="Terminate").tick()
    assert sim.status == before


def test_a_cancelled_attempts_usage_is_booked_when_it_comes() -> None:
    sim = Simulation(CHAIN, {"a": ok(takes=50, cost="2")}).at(5, shutdown="Stop").end()
    assert (sim.phases["a"], sim.row("a").cost_usd) == ("Cancelled", None)
    assert sim.now == 50
    assert sim.status.usage is not None
    assert sim.status.usage.cost_usd == "2"
    assert sim.run_state.unsettled == {}


# onExit


@pytest.mark.parametrize(
    ("answer", "phase"), [(ok(cost="0.5"), "Succeeded"), (fails(message="oh"), "Failed")]
)
def test_exit_steps_run_at_the_end_and_see_the_final_phase(answer: object, phase: str) -> None:
    sim = run(
        """
steps: [{name: a, agentRef: {name: x}}]
onExit:
- name: e
  agentRef: {name: x}
  input: $(workflow.phase) $(workflow.failedSteps) $(steps.a.phase) $(workflow.costUSD)
- {name: f, dependsOn: [e], agentRef: {name: x}, when: workflow.phase == 'Failed'}
""",
        {"a": answer},  # type: ignore[dict-item]
    )
    failed = '["a"]' if phase == "Failed" else "[]"
    cost = "0.01" if phase == "Failed" else "0.5"
    assert sim.input_of("e") == f"{phase} {failed} {phase} {cost}"
    assert sim.phases["f"] == ("Succeeded" if phase == "Failed" else "Skipped")
    assert sim.status.phase == phase
    assert sim.status.progress == "3/3"


def test_the_run_is_not_finished_before_its_exit_steps() -> None:
    sim = Simulation(
        "steps: [{name: a, transform: '1'}]\nonExit: [{name: e, agentRef: {name: x}}]",
        {"e": ok(takes=10)},
    ).to(5)
    assert (sim.status.phase, sim.status.progress) == ("Running", "1/2")
    assert sim.condition("Finished").status == "False"
    assert sim.status.finished_at is None


def test_a_failing_exit_step_degrades_the_run_and_stops_no_other() -> None:
    sim = run(
        """
steps: [{name: a, transform: '1'}]
onExit:
- {name: e, agentRef: {name: x}}
- {name: f, agentRef: {name: x}}
- {name: g, dependsOn: [f], agentRef: {name: x}}
- {name: h, dependsOn: [e], agentRef: {name: x}}
""",
        {"e": fails(), "f": ok(takes=5)},
    )
    assert sim.phases == {
        "a": "Succeeded",
        "e": "Failed",
        "f": "Succeeded",
        "g": "Succeeded",
        "h": "Omitted",
    }
    assert sim.status.phase == "Succeeded"
    assert sim.condition("Degraded").message == "onExit step e: no good"


def test_a_run_that_has_not_started_follows_the_edits_of_its_steps() -> None:
    sim = Simulation("suspend: true\nsteps: [{name: a, transform: x}, {name: b, transform: y}]")
    sim.tick()
    edited = spec_of("steps: [{name: c, transform: z}, {name: a, transform: w}]")
    sim.spec = edited
    sim.tick()
    sim.end()
    assert sim.phases == {"c": "Succeeded", "a": "Succeeded"}
    assert list(sim.phases) == ["c", "a"]
    assert sim.row("a").output == "w"
