"""``forEach``."""

from typing import Any

import pytest

from corral.api.workflow import ItemCounts
from tests.unit.plan.driver import Simulation, fails, ok, run


def fan(each: str, extra: str = "", fail_fast: str = "true") -> str:
    return f"""
arguments: {{list: [a, b, c], one: x}}
failFast: {fail_fast}
steps:
- {{name: f, agentRef: {{name: x}}, forEach: {{{each}}}{extra}}}
- {{name: g, dependsOn: [f], transform: $(steps.f.outputs)}}
"""


def test_every_item_is_run_with_its_name_and_index() -> None:
    sim = run(fan("itemsFrom: $(arguments.list), as: q", ", input: $(q) $(index)"))
    assert [sim.input_of("f", i) for i in range(3)] == ["a 0", "b 1", "c 2"]
    assert sim.starts == [("f[0]", 0), ("f[1]", 0), ("f[2]", 0)]
    assert sim.row("f").items == ItemCounts(total=3, succeeded=3)
    assert sim.row("f").attempts is None


def test_outputs_are_in_item_order_whatever_ends_first() -> None:
    script = {f"f[{i}]": ok(f"out {i}", takes=9 - i) for i in range(3)}
    sim = run(fan("items: [a, b, c]"), script)
    assert sim.row("g").output == ["out 0", "out 1", "out 2"]


def test_outputs_leave_out_what_failed_and_items_tell_of_everything() -> None:
    sim = run(
        """
steps:
- {name: f, agentRef: {name: x}, forEach: {items: [a, {k: 1}], tolerateFailures: 1}}
- {name: g, dependsOn: [f], transform: "$({'o': steps.f.outputs, 'i': steps.f.items})"}
output: $(steps.g.output)
""",
        {"f[0]": fails(), "f[1]": ok("yes", cost=None)},
    )
    assert sim.status.output == {
        "o": ["yes"],
        "i": [
            {"index": 0, "item": "a", "phase": "Failed", "costUSD": "0.01"},
            {"index": 1, "item": {"k": 1}, "phase": "Succeeded", "output": "yes"},
        ],
    }


@pytest.mark.parametrize("kind", ["agentRef: {name: x}", "transform: '1'", "wait: {duration: 1h}"])
def test_an_empty_list_succeeds_with_no_outputs(kind: str) -> None:
    sim = run(f"""
steps:
- {{name: f, {kind}, forEach: {{items: []}}}}
- {{name: g, dependsOn: [f], transform: $(steps.f.outputs)}}
""")
    assert sim.phases == {"f": "Succeeded", "g": "Succeeded"}
    assert sim.row("f").items == ItemCounts(total=0)
    assert (sim.row("g").output, sim.now) == ([], 0)


@pytest.mark.parametrize(
    ("tolerate", "items", "failures", "phase"),
    [
        (None, 3, 0, "Succeeded"),
        (None, 3, 1, "Failed"),
        ("0", 3, 1, "Failed"),
        ("1", 3, 1, "Succeeded"),
        ("1", 3, 2, "Failed"),
        ("'1'", 3, 1, "Succeeded"),
        ("5", 3, 3, "Succeeded"),
        ("0%", 3, 1, "Failed"),
        ("20%", 5, 1, "Succeeded"),
        ("20%", 4, 1, "Failed"),
        ("20%", 5, 2, "Failed"),
        ("33%", 3, 1, "Failed"),
        ("34%", 3, 1, "Succeeded"),
        ("50%", 4, 2, "Succeeded"),
        ("100%", 4, 4, "Succeeded"),
    ],
)
@pytest.mark.parametrize("fail_fast", ["true", "false"])
def test_failures_are_tolerated_up_to_the_boundary(
    tolerate: str | None, items: int, failures: int, phase: str, fail_fast: str
) -> None:
    each = f"items: {list(range(items))}"
    each += f", tolerateFailures: {tolerate}" if tolerate else ""
    script = {f"f[{i}]": fails() for i in range(failures)}
    sim = run(fan(each, fail_fast=fail_fast), script)
    assert sim.phases["f"] == phase
    assert sim.has_condition("Degraded") == (phase == "Succeeded" and failures > 0)
    counts = sim.row("f").items
    assert counts is not None
    assert (counts.total, counts.failed) == (items, failures)
    if phase == "Failed":
        assert sim.row("f").message == f"{failures} of {items} items failed; item 0: no good"
        assert sim.row("f").reason == "InvalidOutput"


@pytest.mark.parametrize(("size", "phase"), [(3, "Succeeded"), (4, "Failed")])
def test_more_items_than_max_items_fail_the_step_before_any_starts(size: int, phase: str) -> None:
    sim = run(f"""
arguments: {{list: {list(range(size))}}}
steps: [{{name: f, agentRef: {{name: x}},
  forEach: {{itemsFrom: $(arguments.list), maxItems: 3}}}}]
""")
    assert sim.phases == {"f": phase}
    if phase == "Failed":
        assert sim.started == []
        assert "4 items are more than maxItems 3" in (sim.row("f").message or "")


def test_a_thousand_items_are_the_most_without_max_items() -> None:
    sim = run(
        """
arguments: {n: 1001}
steps:
- {name: a, agentRef: {name: x}}
- {name: f, dependsOn: [a], transform: '1', forEach: {itemsFrom: $(steps.a.output)}}
""",
        {"a": ok(list(range(1001)))},
    )
    assert "maxItems 1000" in (sim.row("f").message or "")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("$(arguments.one)", "not a list"),
        ("$(arguments)", "not a list"),
        ("$(arguments.list[7])", "Index error"),
    ],
)
def test_items_that_are_no_list_fail_the_step(expression: str, message: str) -> None:
    sim = run(fan(f"itemsFrom: '{expression}'"))
    assert sim.phases == {"f": "Failed", "g": "Omitted"}
    assert message in (sim.row("f").message or "")


@pytest.mark.parametrize(("limit", "ends"), [(1, 6), (2, 3), (4, 2), (9, 1)])
def test_max_concurrent_bounds_what_runs_at_once(limit: int, ends: float) -> None:
    sim = run(fan(f"items: [1, 2, 3, 4, 5, 6], maxConcurrent: {limit}"))
    assert sim.now == ends
    assert max(sum(at == moment for _, at in sim.starts) for moment in range(6)) <= limit


def test_max_concurrent_bounds_waits_too() -> None:
    sim = run("""
steps: [{name: w, wait: {duration: 10s}, forEach: {items: [1, 2, 3], maxConcurrent: 2}}]
""")
    assert sim.now == 20


def test_an_item_that_backs_off_leaves_its_place() -> None:
    sim = run(
        fan(
            "items: [1, 2], maxConcurrent: 1",
            ", retryStrategy: {limit: 1, backoff: {duration: 5s}}",
        ),
        {"f[0]#1": fails()},
    )
    assert sim.starts == [("f[0]", 0), ("f[1]", 1), ("f[0]", 6)]


def test_items_retry_each_on_their_own() -> None:
    sim = run(
        fan("items: [1, 2, 3]", ", retryStrategy: {limit: 1}"),
        {"f[0]#1": fails(), "f[1]#1": fails()},
    )
    assert [(s.index, s.attempt) for s in sim.started] == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]
    assert sim.row("f").cost_usd == "0.05"
    assert sim.phases["f"] == "Succeeded"


def test_the_counts_and_the_attention_show_what_goes_on() -> None:
    sim = Simulation(
        fan("items: [1, 2, 3, 4], tolerateFailures: 4, maxConcurrent: 2"),
        {"f[0]": fails(message="it broke"), "f[1]": ok(takes=5), "f[2]": ok(takes=5)},
    ).to(2)
    assert sim.row("f").items == ItemCounts(total=4, failed=1, running=2, queued=1)
    shown = [(a.name, a.phase.value, a.message) for a in sim.status.attention or []]
    assert shown == [
        ("f[0]", "Failed", "it broke"),
        ("f[1]", "Running", None),
        ("f[2]", "Running", None),
    ]


def test_attention_holds_sixteen_and_failures_first() -> None:
    script = {f"f[{i}]": fails() for i in range(20, 25)} | {"f": ok(takes=9)}
    sim = Simulation(fan(f"items: {list(range(30))}, tolerateFailures: 30"), script).to(2)
    names = [a.name for a in sim.status.attention or []]
    assert names == [f"f[{i}]" for i in [*range(20, 25), *range(11)]]


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("transform: $(item * 2)", [2, 4]), ("wait: {duration: 1s}", [None, None])],
)
def test_other_kinds_fan_out_too(kind: str, outputs: list[Any]) -> None:
    sim = run(f"""
steps: [{{name: f, {kind}, forEach: {{items: [1, 2]}}, extract: {{n: size(output)}}}}]
output: $(steps.f.outputs)
""")
    assert (sim.status.output, sim.row("f").extract) == (outputs, {"n": 2})


def test_a_fan_out_whose_extract_fails_is_failed_and_not_degraded() -> None:
    sim = run(
        fan("items: [1, 2], tolerateFailures: 1", ", extract: {n: 'output[5]'}"), {"f[0]": fails()}
    )
    assert sim.phases["f"] == "Failed"
    assert not sim.has_condition("Degraded")


def test_items_nested_too_deep_for_a_journal_fail_the_step() -> None:
    deep = "[" * 100 + "]" * 100
    sim = run(fan(f"items: [{deep}]"))
    assert "levels deep" in (sim.row("f").message or "")
