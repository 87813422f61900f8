"""``forEach.configMapKeyRef``: items from the lines of a ConfigMap's key."""

from typing import Any

import pytest

from corral.plan.facts import ConfigMapNeed
from tests.unit.plan.driver import Simulation, run

LINES = ConfigMapNeed("lines", "items")
FROM_LINES = """
steps:
- name: f
  transform: $(item)
  forEach: {configMapKeyRef: {name: lines, key: items}, maxItems: 4}
output: $(steps.f.outputs)
"""


@pytest.mark.parametrize(
    ("text", "items"),
    [
        pytest.param('1\n"two"\n[3]\n{"k": null}\n', [1, "two", [3], {"k": None}], id="all kinds"),
        pytest.param("\n1\n\n  \n2", [1, 2], id="blank lines"),
        pytest.param("1\r\n2\r\n", [1, 2], id="lines of Windows"),
        pytest.param("2.0\n2.5", [2, 2.5], id="whole numbers"),
        pytest.param('"a\u2028b"\n" "', ["a\u2028b", " "], id="other separators"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_each_line_of_a_config_map_is_an_item(text: str, items: list[Any]) -> None:
    sim = run(FROM_LINES, facts={LINES: text})
    assert (sim.phases, sim.status.output) == ({"f": "Succeeded"}, items)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n\n{oops\n", "key 'items' of ConfigMap 'lines': line 3 is no JSON: "),
        ("1 2", "line 1 is no JSON: "),
        ("[" * 100_000, "line 1 is no JSON: "),
        ("NaN", "holds nan"),
        ("1\n2\n3\n4\n5", "5 items are more than maxItems 4"),
    ],
)
def test_lines_that_can_not_be_items_fail_the_step(text: str, message: str) -> None:
    row = run(FROM_LINES, facts={LINES: text}).row("f")
    assert (row.phase, row.reason) == ("Failed", "InvalidExpression")
    assert message in (row.message or "")


def test_a_config_map_that_is_not_there_is_waited_for() -> None:
    sim = Simulation(FROM_LINES).to(20)
    why = "forEach.configMapKeyRef: key 'items' of ConfigMap 'lines' is not there"
    shown = sim.condition("Reconciling")
    assert (sim.phases, shown.reason) == ({"f": "Pending"}, "ConfigMapNotFound")
    assert (shown.status, shown.message, sim.status.message) == ("True", why, why)
    sim.facts[LINES] = "1\n2"
    sim.end()
    assert (sim.now, sim.status.output) == (30, [1, 2])


def test_a_config_map_that_never_comes_leaves_the_run_stalled() -> None:
    sim = Simulation(FROM_LINES).to(300)
    stalled = sim.condition("Stalled")
    assert (stalled.status, stalled.reason) == ("True", "ConfigMapNotFound")
    assert sim.condition("Reconciling").status == "False"
    sim.facts[LINES] = "1"
    assert sim.end().now <= 320


def test_items_are_those_that_were_there_when_the_step_began() -> None:
    text = FROM_LINES.replace("transform: $(item)", "wait: {duration: 5s}")
    sim = Simulation(text, facts={LINES: "1\n2"}).to(1)
    sim.facts[LINES] = "1\n2\n3"
    sim.end()
    assert sim.row("f").items is not None
    assert sim.row("f").items.total == 2  # type: ignore[union-attr]
