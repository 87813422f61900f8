"""Large values: where they are kept, and when they are loaded."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from corral.plan.facts import ArtifactNeed, Lost, Need
from corral.plan.observed import Pass, Result
from tests.unit.plan.driver import NAMESPACE, RUN_ID, Answer, Simulation, fails, ok, run

LARGE = "l" * 5000
PAUSE = "{name: p, dependsOn: [a], wait: {duration: 10s}}"
"""After it nothing is known any more of what an earlier pass saw."""


class Reader(Simulation):
    """Forgets what it knows after each pass, and notes what is loaded."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.loaded: list[Need] = []
        super().__init__(*args, **options)

    def new_pass(self, results: Sequence[Result] = ()) -> Pass:
        p = super().new_pass(results)
        p.facts.known.clear()
        return p

    def _fact(self, need: Need) -> Any:
        self.loaded.append(need)
        return super()._fact(need)


def later(step: str, first: str = "", more: str = "") -> str:
    """A step that begins ten seconds after ``a`` has ended."""
    return f"""
steps:
- {{name: a, agentRef: {{name: x}}{first}}}
- {PAUSE}
- {{name: b, dependsOn: [p], {step}}}
{more}
"""


def is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"reference", "sha256", "size"}


@pytest.mark.parametrize(
    ("output", "size", "stored"),
    [
        pytest.param("x" * 1022, 1024, False, id="a KiB"),
        pytest.param("x" * 1023, 1025, True, id="more"),
        pytest.param("é" * 511, 1024, False, id="bytes, not letters"),
        pytest.param("é" * 512, 1026, True, id="more bytes"),
        pytest.param([1] * 512, 1025, True, id="a list"),
        pytest.param({"k": [1] * 508}, 1023, False, id="an object"),
    ],
)
def test_what_is_over_a_kilobyte_is_stored(output: Any, size: int, stored: bool) -> None:
    text = "steps: [{name: a, agentRef: {name: x}}]\noutput: $(steps.a.output)"
    sim = run(text, {"a": ok(output)})
    shown = sim.status.output
    assert is_reference(shown) is stored
    if not stored:
        assert (shown, sim.facts) == (output, {})
        return
    assert sim.row("a").output == shown
    assert shown["reference"] == f"artifact://{NAMESPACE}/{RUN_ID}/{shown['sha256']}"
    assert shown["size"] == size
    assert sim.facts == {ArtifactNeed(RUN_ID, shown["sha256"], size): output}


def test_a_row_shows_the_beginning_of_what_the_journal_holds_whole() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}}]", {"a": ok("x" * 1000)})
    assert sim.row("a").output == "x" * 253 + "…"
    assert sim.run_state.steps["a"].nodes[0].output == "x" * 1000


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("x" * 2**22, "of 4194306 bytes is over 4194304"),
        (float("nan"), "holds nan"),
        ("\ud800", "no Unicode"),
    ],
)
def test_what_can_not_be_kept_is_an_invalid_output(output: Any, message: str) -> None:
    row = run("steps: [{name: a, agentRef: {name: x}}]", {"a": ok(output)}).row("a")
    assert (row.phase, row.reason) == ("Failed", "InvalidOutput")
    assert message in (row.message or "")


@pytest.mark.parametrize(
    ("items", "size", "stored"),
    [
        (96, 1024, False),
        (97, 1014, True),
        (192, 512, False),
        (192, 513, True),
        (1000, 98, False),
        (1000, 99, True),
    ],
)
def test_a_wide_fan_out_keeps_less_in_the_journal(items: int, size: int, stored: bool) -> None:
    each = f"forEach: {{items: {list(range(items))}}}"
    text = f"steps: [{{name: f, agentRef: {{name: x}}, {each}}}]"
    sim = run(text, {"f": ok("x" * (size - 2))}, slots=1000)
    nodes = sim.run_state.steps["f"].nodes
    assert {node.stored is not None for node in nodes} == {stored}


@pytest.mark.parametrize(("outer", "stored"), [(96, False), (97, True)])
def test_nested_fan_outs_are_as_wide_as_both(outer: int, stored: bool) -> None:
    text = f"""
steps:
- name: n
  forEach: {{items: {list(range(outer))}}}
  steps:
  - {{name: i, agentRef: {{name: x}}, forEach: {{items: [1, 2]}}}}
  - {{name: j, dependsOn: [i], wait: {{duration: 5s}}}}
"""
    sim = Simulation(text, {"i": ok("x" * 510)}, slots=1000).to(2)
    inner = [node.steps for node in sim.run_state.steps["n"].nodes]
    found = {one.stored is not None for steps in inner if steps for one in steps["i"].nodes}
    assert found == {stored}


@pytest.mark.parametrize(
    ("step", "first", "loads"),
    [
        pytest.param("transform: $(steps.a.output)", "", 0, id="passed on"),
        pytest.param("transform: $( steps.a.output )", "", 0, id="with spaces"),
        pytest.param("transform: $(steps.a.output + '')", "", 1, id="computed"),
        pytest.param("transform: text $(steps.a.output)", "", 1, id="in a text"),
        pytest.param("transform: $(steps.a.outputs)", "", 1, id="as a list"),
        pytest.param("transform: $(steps.a.phase)", "", 0, id="its phase"),
        pytest.param("transform: '1', when: steps.a.extract.n == 5000", "n", 0, id="extracted"),
        pytest.param("transform: '1', when: size(steps.a.output) == 5000", "", 1, id="a condition"),
        pytest.param("agentRef: {name: x}, input: $(steps.a.output)", "", 1, id="an input"),
        pytest.param("agentRef: {name: x}, input: $(steps.p.phase)", "", 0, id="of another"),
        pytest.param(
            "approval: {prompt: $(steps.a.output), timeout: 1s, onTimeout: Approve,"
            " approvers: [{kind: User, name: ann}]}",
            "",
            2,  # when it begins, and when it is asked
            id="a prompt",
        ),
    ],
)
def test_a_value_is_loaded_where_an_expression_needs_it(step: str, first: str, loads: int) -> None:
    text = later(step, ", extract: {n: size(output)}" if first else "")
    sim = Reader(text, {"a": ok(LARGE)}).end()
    assert sim.phases["b"] == "Succeeded"
    assert 0 < len(sim.loaded) <= loads if loads else sim.loaded == []


def test_what_is_passed_on_is_the_same_reference() -> None:
    sim = Reader(
        later("transform: $(steps.a.output)", more="output: $(steps.b.output)"), {"a": ok(LARGE)}
    ).end()
    assert is_reference(sim.status.output)
    assert sim.row("a").output == sim.row("b").output == sim.status.output
    assert sim.loaded == []


def test_an_input_sees_the_whole_value() -> None:
    sim = run(later("agentRef: {name: x}, input: $(steps.a.output)"), {"a": ok(LARGE)})
    assert sim.input_of("b") == LARGE


def test_many_values_are_asked_for_at_once() -> None:
    text = """
steps:
- {name: a, agentRef: {name: x}, forEach: {items: [1, 2, 3]}}
- {name: p, dependsOn: [a], wait: {duration: 10s}}
- {name: b, dependsOn: [p], transform: "$(steps.a.outputs.map(o, size(o)))"}
output: $(steps.b.output)
"""
    sim = Reader(text, {f"a[{n}]": ok("x" * (2000 + n)) for n in range(3)}).end()
    assert sim.status.output == [2000, 2001, 2002]
    assert len(sim.loaded) == len(set(sim.loaded)) == 3


def test_a_value_that_is_lost_fails_the_step_that_needs_it() -> None:
    text = later("transform: $(size(steps.a.output))")
    sim = Simulation(text, {"a": ok(LARGE)}).to(5)
    (need,) = sim.facts
    sim.facts[need] = Lost("the artifact is not there any more")
    sim.end()
    row = sim.row("b")
    assert (row.phase, row.reason) == ("Failed", "InvalidExpression")
    assert "the artifact is not there any more" in (row.message or "")
    assert sim.phases["a"] == "Succeeded"


@pytest.mark.parametrize(("length", "stored"), [(163, False), (164, True)])
def test_a_long_list_of_items_is_stored(length: int, stored: bool) -> None:
    items = ["i" * 97] * length  # 100 bytes each in the list
    text = f"""
steps:
- name: f
  agentRef: {{name: x}}
  forEach: {{items: {items}, maxConcurrent: 100}}
  input: $(item)
output: $(steps.f.items[100].item)
"""
    sim = Reader(text, slots=1000).end()
    state = sim.run_state.steps["f"]
    assert (state.items is None, state.items_stored is not None) == (stored, stored)
    assert {s.payload.input for s in sim.started} == {"i" * 97}
    assert len(sim.started) == length
    assert sim.status.output == "i" * 97
    assert bool(sim.loaded) is stored


def test_the_journal_of_a_thousand_items_is_small() -> None:
    luck = random.Random(1)
    answers: dict[str, Answer] = {
        f"f[{n}]": fails(message=f"item {n} broke: {luck.random()}")
        if n % 10 == 3
        else ok(luck.randbytes(1000).hex(), takes=1 + n % 4)
        for n in range(1000)
    }
    each = f"{{items: {list(range(1000))}, tolerateFailures: 10%}}"
    text = f"steps: [{{name: f, agentRef: {{name: x}}, forEach: {each}}}]"
    sim = run(text, answers, slots=1000)
    counts = sim.row("f").items
    assert counts is not None
    assert (counts.succeeded, counts.failed) == (900, 100)
    assert len(sim.facts) == 900
    assert len(sim.status.journal or "") < 200_000
