"""``failFast`` and ``parallelism``: what starts, and what does not any more."""

import pytest

from tests.unit.plan.driver import Simulation, fails, ok, run

PAIR = """
failFast: {}
steps:
- {{name: bad, agentRef: {{name: x}}}}
- {{name: slow, agentRef: {{name: x}}}}
- {{name: next, dependsOn: [slow], agentRef: {{name: x}}}}
- {{name: after, dependsOn: [bad], agentRef: {{name: x}}}}
"""


@pytest.mark.parametrize(
    ("fail_fast", "phases"),
    [
        ("true", ["Failed", "Succeeded", "Omitted", "Omitted"]),
        ("false", ["Failed", "Succeeded", "Succeeded", "Omitted"]),
    ],
)
def test_after_a_failure_what_runs_ends(fail_fast: str, phases: list[str]) -> None:
    sim = run(PAIR.format(fail_fast), {"bad": fails(takes=1), "slow": ok(takes=5)})
    assert list(sim.phases.values()) == phases
    assert sim.status.phase == "Failed"
    assert sim.status.message == "step bad failed: InvalidOutput: no good"


def test_fail_fast_is_the_default() -> None:
    sim = run(PAIR.replace("failFast: {}\n", "").format(), {"bad": fails(), "slow": ok(takes=5)})
    assert sim.phases["next"] == "Omitted"
    assert sim.row("next").message == "not started, because step bad failed"


def test_what_is_ready_in_the_pass_of_the_failure_does_not_begin() -> None:
    sim = run(
        """
steps:
- {name: bad, agentRef: {name: x}}
- {name: good, agentRef: {name: x}}
- {name: skip, dependsOn: [good], when: 'false', transform: '1'}
- {name: wrong, dependsOn: [good], when: 'arguments.nope', transform: '1'}
- {name: sum, dependsOn: [good], transform: '1'}
""".replace("'arguments.nope'", "steps.good.output.nope"),
        {"bad": fails()},
    )
    assert list(sim.phases.values()) == ["Failed", "Succeeded", "Omitted", "Omitted", "Omitted"]
    assert sim.status.message == "step bad failed: InvalidOutput: no good"


def test_queued_items_of_another_fan_out_are_omitted_and_it_is_cancelled() -> None:
    sim = run(
        """
steps:
- {name: bad, agentRef: {name: x}}
- {name: fan, agentRef: {name: x}, forEach: {items: [1, 2, 3], maxConcurrent: 1}}
""",
        {"bad": fails(takes=1), "fan": ok(takes=5)},
    )
    assert [step for step, _ in sim.starts] == ["bad", "fan[0]"]
    counts = sim.row("fan").items
    assert counts is not None
    assert (sim.phases["fan"], counts.succeeded, counts.omitted) == ("Cancelled", 1, 2)


@pytest.mark.parametrize(("fail_fast", "started"), [("true", 2), ("false", 4)])
def test_a_fan_out_past_its_tolerance_stops_itself(fail_fast: str, started: int) -> None:
    sim = run(
        f"""
failFast: {fail_fast}
steps: [{{name: fan, agentRef: {{name: x}},
  forEach: {{items: [1, 2, 3, 4], maxConcurrent: 1, tolerateFailures: 1}}}}]
""",
        {"fan[0]": fails(), "fan[1]": fails()},
    )
    assert len(sim.started) == started
    assert sim.phases == {"fan": "Failed"}


def test_a_step_that_backs_off_is_not_tried_again_after_a_failure() -> None:
    sim = run(
        """
steps:
- {name: bad, agentRef: {name: x}}
- {name: flaky, agentRef: {name: x}, retryStrategy: {limit: 3, backoff: {duration: 30s}}}
""",
        {"bad": fails(takes=2), "flaky": fails("Timeout", "slow", takes=1)},
    )
    assert sim.now == 2
    assert (sim.row("flaky").phase, sim.row("flaky").message) == ("Failed", "slow")


def test_an_allowed_failure_stops_nothing() -> None:
    sim = run(
        PAIR.format("true").replace("{name: bad,", "{name: bad, allowFailure: true,"),
        {"bad": fails(), "slow": ok(takes=5)},
    )
    assert list(sim.phases.values()) == ["Failed", "Succeeded", "Succeeded", "Succeeded"]


def test_a_wait_that_is_under_way_ends() -> None:
    sim = run(
        "steps: [{name: bad, agentRef: {name: x}}, {name: w, wait: {duration: 9s}}]",
        {"bad": fails()},
    )
    assert (sim.phases["w"], sim.now) == ("Succeeded", 9)


# parallelism

WIDE = """
parallelism: 2
steps:
- {name: a, agentRef: {name: x}, forEach: {items: [1, 2, 3]}}
- {name: b, agentRef: {name: y}}
"""


def test_parallelism_bounds_the_whole_run_in_the_order_of_steps_and_items() -> None:
    sim = run(WIDE)
    assert sim.starts == [("a[0]", 0), ("a[1]", 0), ("a[2]", 1), ("b", 1)]


def test_an_agent_without_free_slots_does_not_hold_up_others() -> None:
    sim = Simulation(WIDE, slots={"x": 0, "y": 5}).to(3)
    assert sim.starts == [("b", 0)]
    assert sim.phases == {"a": "Queued", "b": "Succeeded"}


def test_waits_and_transforms_need_no_place() -> None:
    sim = Simulation(
        """
parallelism: 1
steps:
- {name: a, agentRef: {name: x}}
- {name: w, wait: {duration: 1h}}
- {name: t, transform: '1'}
""",
        {"a": ok(takes=5)},
    ).to(1)
    assert sim.phases == {"a": "Running", "w": "Waiting", "t": "Succeeded"}


def test_parallelism_may_be_raised_while_it_runs() -> None:
    sim = Simulation(
        "parallelism: 1\nsteps: [{name: a, agentRef: {name: x}, forEach: {items: [1, 2, 3]}}]",
        {"a": ok(takes=10)},
    )
    sim.at(5, parallelism=3).end()
    assert sim.starts == [("a[0]", 0), ("a[1]", 5), ("a[2]", 5)]


def test_a_fleet_of_one_runs_everything_one_after_the_other() -> None:
    sim = run(WIDE.replace("parallelism: 2", "parallelism: 9"), slots=1)
    assert [at for step, at in sim.starts if step != "b"] == [0, 1, 2]
