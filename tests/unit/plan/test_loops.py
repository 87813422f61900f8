"""``loop``."""

from typing import Any

import pytest

from corral.api.workflow import ItemCounts
from tests.unit.plan.driver import HANGS, Answer, Script, Simulation, fails, ok, run


def loop(
    how: str = "until: output.n >= 3, maxIterations: 5",
    extra: str = "input: '$(iteration).$(attempt) $(previous)'",
    head: str = "",
) -> str:
    return f"""
{head}
steps:
- {{name: a, agentRef: {{name: x}}, loop: {{{how}}}, {extra}}}
- {{name: b, dependsOn: [a], transform: $(steps.a.output)}}
"""


def scores(*numbers: Any) -> dict[str, Answer]:
    """By iteration: the ``n`` of each output, and which iteration it came from."""
    return {f"a@{i}": ok({"n": n, "of": i}) for i, n in enumerate(numbers, start=1)}


@pytest.mark.parametrize(
    ("numbers", "iterations"), [([3], 1), ([1, 3], 2), ([1, 2, 3], 3), ([1, 1, 1, 1, 9], 5)]
)
def test_a_loop_ends_with_the_first_output_that_is_good(
    numbers: list[int], iterations: int
) -> None:
    sim = run(loop(), scores(*numbers))
    row = sim.row("a")
    assert (row.iteration, row.attempts, row.phase) == (iterations, iterations, "Succeeded")
    assert sim.row("b").output == {"n": numbers[-1], "of": iterations}
    assert row.cost_usd == f"{iterations * 0.01:g}"
    assert sim.starts == [("a", at) for at in range(iterations)]


def test_an_iteration_sees_its_number_and_what_came_before() -> None:
    sim = run(loop(), scores(1, 2, 3))
    assert [s.payload.input for s in sim.started] == [
        "1.1 null",
        '2.1 {"n":1,"of":1}',
        '3.1 {"n":2,"of":2}',
    ]
    assert [s.payload.attempt_id for s in sim.started] == [
        "run-1.a.0.1.1",
        "run-1.a.0.2.1",
        "run-1.a.0.3.1",
    ]


def test_until_sees_the_output_before_too() -> None:
    until = "previous != null && output.n == previous.n"
    sim = run(loop(f"until: {until}, maxIterations: 9"), scores(1, 2, 2, 2))
    assert sim.row("a").iteration == 3


@pytest.mark.parametrize(
    ("end", "numbers", "of"),
    [
        ("AcceptLast", [1, 2, 1], 3),
        ("AcceptBest, best: output.n", [1, 2, 0], 2),
        ("AcceptBest, best: output.n", [0, 1, 2], 3),
        ("AcceptBest, best: output.n", [2, 1, 0], 1),
        pytest.param("AcceptBest, best: output.n", [1, 2, 2], 2, id="first of equals"),
        pytest.param("AcceptBest, best: output.n", [-2, -1.5, -3], 2, id="negative"),
        pytest.param("AcceptBest, best: 0 - output.n", [1, 0, 2], 2, id="lowest"),
        pytest.param("AcceptBest, best: output.n", [2, 9, 1], 2, id="good before the last"),
        pytest.param("Fail", [1, 2, 3], 3, id="good at last"),
    ],
)
def test_what_is_accepted_when_no_iteration_is_good(end: str, numbers: Any, of: int) -> None:
    sim = run(loop(f"until: output.n >= 3, maxIterations: 3, onExhausted: {end}"), scores(*numbers))
    assert sim.phases["a"] == "Succeeded"
    assert sim.row("b").output["of"] == of
    assert not sim.has_condition("Degraded")


def test_a_loop_that_is_never_good_fails_with_its_condition() -> None:
    sim = run(loop("until: output.n >= 3, maxIterations: 2"), scores(1, 2))
    row = sim.row("a")
    assert (row.phase, row.reason) == ("Failed", "LoopExhausted")
    assert row.message == "none of 2 iterations met until: output.n >= 3"
    assert (row.iteration, row.attempts, row.cost_usd) == (2, 2, "0.02")
    assert sim.phases["b"] == "Omitted"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("until: output.m, maxIterations: 2", "loop: output.m: there is no 'm'"),
        (
            "until: output.n, maxIterations: 2",
            "loop: until: output.n: gives 1, not true or false",
        ),
        (
            "until: 'false', maxIterations: 2, onExhausted: AcceptBest, best: string(output.n)",
            'loop: best: string(output.n): gives "1", no number',
        ),
        (
            "until: 'false', maxIterations: 2, onExhausted: AcceptBest, best: output.n == 1",
            "loop: best: output.n == 1: gives true, no number",
        ),
    ],
)
def test_a_condition_that_gives_no_answer_fails_the_step(how: str, message: str) -> None:
    sim = run(loop(how), scores(1, 1))
    row = sim.row("a")
    assert (row.phase, row.reason, row.iteration) == ("Failed", "InvalidExpression", 1)
    assert (row.message or "").startswith(message)
    assert row.cost_usd == "0.01"


def test_best_is_not_looked_at_where_nobody_wants_it() -> None:
    how = "until: output.n >= 3, maxIterations: 2, onExhausted: AcceptLast, best: output.nope"
    assert run(loop(how), scores(1, 1)).phases["a"] == "Succeeded"


def test_a_retry_is_no_iteration_and_each_iteration_has_all_its_retries() -> None:
    sim = run(
        loop(extra="retryStrategy: {limit: 1}, input: '$(iteration).$(attempt) $(previous)'"),
        {
            "a@1": [fails(), ok({"n": 1})],
            "a@2": [fails(), ok({"n": 3})],
        },
    )
    assert [s.payload.attempt_id for s in sim.started] == [
        f"run-1.a.0.{iteration}.{attempt}" for iteration in (1, 2) for attempt in (1, 2)
    ]
    assert [s.payload.input for s in sim.started][1:] == [
        "1.2 null",
        '2.1 {"n":1}',
        '2.2 {"n":1}',
    ]
    row = sim.row("a")
    assert (row.phase, row.iteration, row.attempts, row.cost_usd) == ("Succeeded", 2, 4, "0.04")
    assert [(e.iteration, e.attempt) for e in sim.run_state.steps["a"].nodes[0].errors] == [
        (1, 1),
        (2, 1),
    ]


def test_losses_do_not_add_up_over_iterations() -> None:
    script: Script = {f"a@{i}": [fails("WorkerLost")] * 6 + [ok({"n": i})] for i in (1, 2, 3)}
    sim = run(loop(), script)
    assert (sim.phases["a"], sim.row("a").attempts) == ("Succeeded", 21)


def test_a_loop_that_fails_in_its_second_iteration_has_failed() -> None:
    end = "until: output.n >= 3, maxIterations: 4, onExhausted: AcceptBest, best: output.n"
    sim = run(loop(end), {**scores(1), "a@2": fails(message="it broke")})
    row = sim.row("a")
    assert (row.phase, row.reason, row.message) == ("Failed", "InvalidOutput", "it broke")
    assert (row.iteration, row.attempts, row.cost_usd) == (2, 2, "0.02")


def test_each_item_of_a_fan_out_has_a_loop_of_its_own() -> None:
    sim = run(
        """
steps:
- name: f
  agentRef: {name: x}
  forEach: {items: [1, 3], tolerateFailures: 1}
  loop: {until: iteration == item, maxIterations: 3}
  input: $(item) $(index) $(iteration)
output: $(steps.f.items.map(i, i.phase))
"""
    )
    assert [(s.payload.input, s.at) for s in sim.started] == [
        ("1 0 1", 0),
        ("3 1 1", 0),
        ("3 1 2", 1),
        ("3 1 3", 2),
    ]
    assert sim.row("f").items == ItemCounts(total=2, succeeded=2)
    assert sim.row("f").iteration is None
    assert sim.status.output == ["Succeeded", "Succeeded"]


def test_an_item_between_iterations_leaves_its_place_to_those_before_it() -> None:
    sim = run("""
steps:
- name: f
  agentRef: {name: x}
  forEach: {items: [0, 1], maxConcurrent: 1}
  loop: {until: iteration == 2, maxIterations: 2}
""")
    assert sim.starts == [("f[0]", 0), ("f[0]", 1), ("f[1]", 2), ("f[1]", 3)]


def test_a_loop_over_nested_steps_runs_them_all_again() -> None:
    sim = run(
        """
steps:
- name: o
  loop: {until: output.n >= 2, maxIterations: 5}
  steps:
  - {name: w, agentRef: {name: x}, input: "$(iteration) $(previous)"}
  - {name: c, dependsOn: [w], agentRef: {name: y}, input: "$(steps.w.output)"}
  output: $(steps.c.output)
output: $(steps.o.output)
""",
        {
            "o~0~1~w": ok("draft 1"),
            "o~0~2~w": ok("draft 2"),
            "o~0~1~c": ok({"n": 1}),
            "o~0~2~c": ok({"n": 2}),
        },
    )
    assert [(s.payload.attempt_id, s.payload.input) for s in sim.started] == [
        ("run-1.o~0~1~w.0.1.1", "1 null"),
        ("run-1.o~0~1~c.0.1.1", "draft 1"),
        ("run-1.o~0~2~w.0.1.1", '2 {"n":1}'),
        ("run-1.o~0~2~c.0.1.1", "draft 2"),
    ]
    assert sim.status.output == {"n": 2}
    assert (sim.row("o").iteration, sim.row("o").cost_usd) == (2, "0.04")


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("transform: '$(previous == null ? 1 : previous * 2)'", 8),
        ("transform: $(iteration * 2)", 8),
    ],
)
def test_a_transform_may_go_round_within_one_pass(kind: str, output: int) -> None:
    sim = Simulation(f"""
steps: [{{name: a, {kind}, loop: {{until: output == 8, maxIterations: 9}}}}]
output: $(steps.a.output)
""")
    sim.tick()
    assert (sim.status.output, sim.row("a").iteration) == (output, 4)


def test_a_stop_between_iterations_ends_the_loop() -> None:
    sim = Simulation(loop(), scores(1, 2, 3), slots={"x": 1}).to(0)
    sim.slots = {"x": 0}
    sim.to(1)
    assert (sim.phases["a"], sim.row("a").iteration) == ("Queued", 2)
    sim.at(2, shutdown="Stop").to(2)
    assert sim.phases == {"a": "Cancelled", "b": "Omitted"}
    assert (sim.row("a").iteration, sim.row("a").cost_usd) == (2, "0.01")


def test_a_suspension_holds_the_next_iteration_back() -> None:
    sim = Simulation(loop(), scores(1, 3)).at(0.5, suspend=True).at(60, suspend=False).to(30)
    assert (sim.phases["a"], len(sim.started)) == ("Queued", 1)
    assert sim.end().starts == [("a", 0), ("a", 60)]


def test_a_deadline_counts_over_all_iterations() -> None:
    sim = run(loop(extra="deadline: 3s"), {"a": ok({"n": 1}, takes=2), "a@2": HANGS})
    assert (sim.row("a").reason, sim.row("a").iteration) == ("Timeout", 2)
    assert sim.now == 3


def test_fail_fast_starts_no_further_iteration() -> None:
    sim = run(
        loop() + "- {name: bad, agentRef: {name: x}}",
        {**scores(1, 3), "bad": fails()},
    )
    assert sim.starts == [("a", 0), ("bad", 0)]
    assert sim.phases == {"a": "Cancelled", "b": "Omitted", "bad": "Failed"}


def test_a_large_output_is_seen_by_until_and_by_the_next_iteration() -> None:
    big = "x" * 5000
    sim = run(
        loop("until: size(output) < 10, maxIterations: 3", "input: $(size(previous))").replace(
            "$(size(previous))", "'$(previous == null ? 0 : size(previous))'"
        ),
        {"a@1": ok(big), "a@2": ok("small")},
    )
    assert [s.payload.input for s in sim.started] == ["0", "5000"]
    assert sim.row("b").output == "small"
