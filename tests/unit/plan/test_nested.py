"""Steps with steps of their own."""

from typing import Any

import pytest

from corral.api.workflow import ItemCounts
from tests.unit.plan.driver import HANGS, Simulation, fails, ok, problems, run

TWO = "{name: i, agentRef: {name: x}}, {name: j, dependsOn: [i], agentRef: {name: x}}"
TOLERANT = "forEach: {items: [0, 1], tolerateFailures: 1}"


def nest(
    inner: str = TWO,
    outer: str = "forEach: {items: [a, b]}",
    head: str = "",
    output: str = "",
) -> str:
    more = f", output: {output}" if output else ""
    return f"""
{head}
steps:
- {{name: s, transform: outer s}}
- {{name: outer, dependsOn: [s], {outer + ", " if outer else ""}steps: [{inner}]{more}}}
- {{name: after, dependsOn: [outer], triggerRule: AllDone, transform: $(steps.outer.phase)}}
"""


def test_inner_names_come_first_and_outer_ones_are_seen() -> None:
    shadowing = (
        "{name: s, transform: inner s}, {name: t, dependsOn: [s], transform: $(steps.s.output)}"
    )
    sim = run(nest(shadowing, "", output="$(steps.t.output)"))
    assert sim.row("outer").output == "inner s"
    sim = run(nest("{name: r, transform: $(steps.s.output)}", "", output="$(steps.r.output)"))
    assert sim.row("outer").output == "outer s"


def test_a_nested_step_is_not_seen_from_outside() -> None:
    found = problems(
        nest("{name: i, transform: x}", "")
        + "- {name: z, dependsOn: [outer], transform: $(steps.i.output)}"
    )
    assert found == ["spec.steps[3].transform: step 'z': steps.i.output: there is no step 'i'"]


@pytest.mark.parametrize(
    ("outer", "inner", "outputs"),
    [
        pytest.param("forEach: {items: [a, b]}", "$(item)$(index)", ["a0", "b1"], id="item"),
        pytest.param(
            "forEach: {items: [a], as: q}", "$(q) $(iteration) $(previous)", ["a 1 null"], id="as"
        ),
        pytest.param(
            "forEach: {items: [a, b]}, loop: {until: 'iteration == 2', maxIterations: 3}",
            "$(previous)/$(item)$(iteration)",
            ["null/a1/a2", "null/b1/b2"],
            id="loop",
        ),
    ],
)
def test_nested_steps_see_the_item_that_they_are_of(
    outer: str, inner: str, outputs: list[Any]
) -> None:
    text = f"{{name: i, transform: '{inner}'}}"
    sim = run(nest(text, outer, output="$(steps.i.output)") + "output: $(steps.outer.outputs)")
    assert sim.status.output == outputs


def test_a_nested_step_with_a_list_and_a_loop_of_its_own_sees_those() -> None:
    sim = run(
        nest(
            "{name: i, forEach: {items: [x, y], as: part},"
            " loop: {until: 'iteration == 2', maxIterations: 2},"
            ' transform: "$(item)$(part)$(index)$(iteration)"}',
            "forEach: {items: [a, b]}",
            output="$(steps.i.outputs)",
        )
        + "output: $(steps.outer.outputs)"
    )
    assert sim.status.output == [["ax02", "ay12"], ["bx02", "by12"]]


def test_attempt_ids_name_the_item_and_the_iteration_of_what_is_around() -> None:
    sim = run(nest())
    assert [s.payload.attempt_id for s in sim.started] == [
        "run-1.outer~0~1~i.0.1.1",
        "run-1.outer~1~1~i.0.1.1",
        "run-1.outer~0~1~j.0.1.1",
        "run-1.outer~1~1~j.0.1.1",
    ]
    twice = nest(TWO, "loop: {until: 'iteration == 2', maxIterations: 2}")
    assert run(twice).started[-1].payload.attempt_id == "run-1.outer~0~2~j.0.1.1"
    again = "{name: i, agentRef: {name: x}, retryStrategy: {limit: 1}}"
    sim = run(nest(again, ""), {"i#1": fails()})
    assert sim.started[-1].payload.attempt_id == "run-1.outer~0~1~i.0.1.2"


def test_an_output_that_fails_fails_its_item() -> None:
    sim = run(
        nest("{name: i, agentRef: {name: x}}", output="$(steps.i.output.n)"),
        {"outer~0~1~i": ok({"n": 1})},
    )
    assert sim.row("outer").items == ItemCounts(total=2, succeeded=1, failed=1)
    assert sim.row("outer").reason == "InvalidExpression"
    assert "item 1: output: steps.i.output.n" in (sim.row("outer").message or "")


@pytest.mark.parametrize(
    ("inner", "answer", "phase", "output"),
    [
        ("when: 'false'", ok(), "Succeeded", ["Skipped", "Succeeded"]),
        ("allowFailure: true", fails(), "Succeeded", ["Failed", "Succeeded"]),
        ("timeout: 1s", fails(), "Failed", None),
    ],
    ids=["skipped", "allowed", "failed"],
)
def test_what_becomes_of_a_nested_step_decides_on_the_outer_one(
    inner: str, answer: Any, phase: str, output: Any
) -> None:
    sim = run(
        nest(
            f"{{name: i, agentRef: {{name: x}}, {inner}}}, {{name: j, dependsOn: [i], wait: "
            "{duration: 1s}}",
            "",
            output="'$([steps.i.phase, steps.j.phase])'",
        ),
        {"i": answer},
    )
    assert (sim.phases["outer"], sim.row("outer").output) == (phase, output)
    assert sim.has_condition("Degraded") == (inner == "allowFailure: true")
    if inner == "allowFailure: true":
        assert "step i failed: InvalidOutput: no good" in (sim.row("outer").message or "")
    if phase == "Failed":
        assert sim.row("outer").reason == "InvalidOutput"
        assert sim.row("outer").message == "step i failed: InvalidOutput: no good"


def test_a_nested_step_whose_rule_cannot_hold_is_omitted_and_harms_nothing() -> None:
    inner = TWO.replace("[i]", "[i], triggerRule: AnyFailed")
    sim = run(nest(inner, output="$(steps.j.phase)") + "output: $(steps.outer.outputs)")
    assert (sim.status.phase, sim.status.output) == ("Succeeded", ["Omitted", "Omitted"])


@pytest.mark.parametrize(("fast", "started"), [("true", ["i", "k"]), ("false", ["i", "k", "l"])])
def test_fail_fast_holds_within_the_graph_that_failed(fast: str, started: list[str]) -> None:
    inner = "{name: i, agentRef: {name: x}}, {name: k, agentRef: {name: x}}, "
    inner += "{name: l, dependsOn: [k], agentRef: {name: x}}"
    text = nest(inner, TOLERANT, f"failFast: {fast}")
    sim = run(text, {"outer~0~1~i": fails(), "k": ok(takes=3)})
    of = [s.step.split("~") for s in sim.started]
    assert [name for _, item, _, name in of if item == "0"] == started
    assert [name for _, item, _, name in of if item == "1"] == ["i", "k", "l"]
    assert sim.row("outer").items == ItemCounts(total=2, succeeded=1, failed=1)
    assert sim.phases["outer"] == "Succeeded"


def test_after_a_failure_outside_nothing_new_starts_inside() -> None:
    sim = run(
        nest(TWO, "") + "- {name: bad, agentRef: {name: x}}",
        {"bad": fails(), "i": ok(takes=5)},
    )
    assert sorted(sim.starts) == [("bad", 0), ("outer~0~1~i", 0)]
    assert sim.phases["outer"] == "Cancelled"
    assert sim.status.message == "step bad failed: InvalidOutput: no good"


@pytest.mark.parametrize(
    ("tolerate", "failures", "phase"),
    [("0", 0, "Succeeded"), ("0", 1, "Failed"), ("1", 1, "Succeeded"), ("50%", 3, "Failed")],
)
def test_items_with_nested_steps_may_fail_up_to_the_boundary(
    tolerate: str, failures: int, phase: str
) -> None:
    sim = run(
        nest(TWO, f"forEach: {{items: [1, 2, 3, 4], tolerateFailures: {tolerate}}}"),
        {f"outer~{i}~1~j": fails() for i in range(failures)},
    )
    assert sim.phases["outer"] == phase
    assert sim.row("outer").items == ItemCounts(total=4, succeeded=4 - failures, failed=failures)
    if phase == "Failed":
        why = f"{failures} of 4 items failed; item 0: step j failed: InvalidOutput: no good"
        assert sim.row("outer").message == why


def test_max_concurrent_counts_items_with_nested_steps() -> None:
    sim = run(nest(TWO, "forEach: {items: [a, b, c], maxConcurrent: 1}"))
    assert sim.starts == [
        (f"outer~{i}~1~{name}", 2 * i + at) for i in range(3) for at, name in enumerate("ij")
    ]


def test_fan_outs_within_fan_outs_have_their_items_and_failures() -> None:
    inner = "{name: i, agentRef: {name: x}, forEach: {itemsFrom: $(item), as: n, maxConcurrent: 1,"
    inner += " tolerateFailures: 1}, input: $(n)}"
    text = nest(inner, "forEach: {items: [[1, 2], [3]]}", output="$(steps.i.outputs)")
    sim = run(
        text + "output: $(steps.outer.outputs)",
        {"outer~0~1~i[0]": fails(), "outer~0~1~i[1]": ok("two"), "outer~1~1~i": ok("three")},
    )
    assert [(s.step, s.index, s.at, s.payload.input) for s in sim.started] == [
        ("outer~0~1~i", 0, 0, "1"),
        ("outer~1~1~i", 0, 0, "3"),
        ("outer~0~1~i", 1, 1, "2"),
    ]
    assert sim.status.output == [["two"], ["three"]]
    assert sim.has_condition("Degraded")


def test_the_deadline_of_the_outer_step_ends_what_runs_inside() -> None:
    sim = Simulation(nest(TWO, "deadline: 5s, forEach: {items: [a, b]}"), {"outer~1~1~i": HANGS})
    sim.to(5)
    assert sim.phases["outer"] == "Failed"
    row = sim.row("outer")
    assert row.reason == "Timeout"
    assert row.message == "the step's deadline of 5s passed before 1 of 2 items had ended"
    assert list(sim.run_state.unsettled) == ["run-1.outer~1~1~i.0.1.1"]


def test_the_deadline_of_a_nested_step_fails_its_item_alone() -> None:
    text = nest("{name: i, deadline: 5s, agentRef: {name: x}}", TOLERANT)
    sim = run(text, {"outer~1~1~i": HANGS})
    assert sim.row("outer").items == ItemCounts(total=2, succeeded=1, failed=1)


@pytest.mark.parametrize("how", ["Stop", "Terminate"])
def test_a_stop_ends_nested_steps_too(how: str) -> None:
    inner = "{name: i, agentRef: {name: x}}, {name: w, wait: {duration: 1h}}"
    sim = Simulation(nest(inner), {"outer~1~1~i": HANGS}).at(2, shutdown=how).to(2)
    assert sim.phases == {"s": "Succeeded", "outer": "Cancelled", "after": "Omitted"}
    assert sim.row("outer").items == ItemCounts(total=2, cancelled=2)
    assert sim.status.phase == "Stopped"
    assert list(sim.run_state.unsettled) == ["run-1.outer~1~1~i.0.1.1"]


def test_while_suspended_nothing_nested_starts_and_what_runs_ends() -> None:
    sim = Simulation(nest(), {"i": ok(takes=3)}).at(1, suspend=True).at(60, suspend=False)
    sim.to(30)
    assert (sim.status.phase, len(sim.started)) == ("Suspended", 2)
    sim.end()
    assert sim.starts[2:] == [("outer~0~1~j", 60), ("outer~1~1~j", 60)]


def test_what_nested_steps_used_is_counted_once() -> None:
    text = nest(TWO, "forEach: {items: [a, b]}, loop: {until: 'iteration == 2', maxIterations: 2}")
    sim = Simulation(text).to(1)
    seen = []
    for moment in range(1, 6):
        sim.to(moment)
        row, whole = sim.row("outer"), sim.status.usage
        assert whole is not None
        assert row.cost_usd == whole.cost_usd
        seen.append((row.cost_usd, whole.requests))
    assert seen == [("0.02", 2), ("0.04", 4), ("0.06", 6), ("0.08", 8), ("0.08", 8)]
    assert sim.run_state.steps["outer"].nodes[0].used.requests == 4
    assert sim.run_state.steps["outer"].nodes[0].steps is None


def test_a_failed_item_keeps_what_its_nested_steps_used() -> None:
    assert run(nest(TWO, ""), {"j": fails()}).row("outer").cost_usd == "0.02"


def test_what_is_given_up_inside_is_booked_when_it_tells() -> None:
    sim = Simulation(nest(TWO, ""), {"i": ok(takes=9, cost="0.07")}).at(2, shutdown="Stop").to(2)
    assert (sim.status.phase, sim.status.usage) == ("Stopped", None)
    sim.to(9)
    assert sim.status.usage is not None
    assert (sim.status.usage.cost_usd, sim.run_state.unsettled) == ("0.07", {})


def test_the_attention_names_nested_steps_by_their_item() -> None:
    inner = "{name: inner, agentRef: {name: x}},"
    inner += " {name: fan, agentRef: {name: y}, forEach: {items: [0, 1]}}"
    sim = Simulation(
        nest(inner, f"forEach: {{items: {list(range(4))}, maxConcurrent: 2}}"),
        {"outer~0~1~inner": fails(message="it broke"), "inner": HANGS, "fan": HANGS},
    ).to(1)
    assert [(a.name, a.phase.value, a.message) for a in sim.status.attention or []] == [
        ("outer[0].inner", "Failed", "it broke"),
        ("outer[0]", "Running", None),
        ("outer[1]", "Running", None),
        ("outer[0].fan[0]", "Running", None),
        ("outer[0].fan[1]", "Running", None),
        ("outer[1].inner", "Running", None),
        ("outer[1].fan[0]", "Running", None),
        ("outer[1].fan[1]", "Running", None),
    ]


def test_nested_steps_of_on_exit_run_too() -> None:
    sim = run("""
steps: [{name: a, agentRef: {name: x}}]
onExit:
- name: e
  steps: [{name: i, agentRef: {name: x}, input: "$(steps.a.output) $(workflow.phase)"}]
""")
    assert sim.started[-1].payload.input == "done Succeeded"
    assert sim.phases == {"a": "Succeeded", "e": "Succeeded"}
