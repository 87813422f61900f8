"""Every row of the table of what happens without a dependency has a test that takes it away."""

import ast

from tests.unit.docs.pages import ROOT, tables

TESTS = "tests/cluster/test_degradation.py"


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named(variable: str) -> dict[str, str]:
    """A dict of the cluster tests, which can't be imported without a cluster."""
    for node in ast.parse((ROOT / TESTS).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise AssertionError(variable)


def test_every_row_is_taken_away_by_a_test_and_every_test_has_a_row() -> None:
    rows = {row[0] for row in tables("docs/guides/degradation.md", "| Dependency |")}
    own, covered = named("OWN"), named("COVERED")
    assert own.keys().isdisjoint(covered)
    assert own.keys() | covered.keys() == rows
    assert set(own.values()) == {name for name in functions(TESTS) if name.startswith("test_")}
    for test in covered.values():
        path, _, name = test.partition("::")
        assert name in functions(path), test
