"""Manifests put in order: what moves, what stays, and that nothing means anything else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.cli.order import ordered
from tests.unit.cli.conftest import Corral

HEAD = "kind: Workflow\nspec:\n"

CASES = {
    "steps come after what they depend on, with their comments": (
        """\
  # the whole list
  steps:
  # about b
  - name: b  # tail
    dependsOn: [a]

  # about a,
  # at length
  - name: a
    transform: x
  # the end
  output: y
""",
        """\
  # the whole list
  steps:
  # about a,
  # at length
  - name: a
    transform: x

  # about b
  - name: b  # tail
    dependsOn: [a]
  # the end
  output: y
""",
    ),
    "keys stand as in the reference, unknown ones last": (
        """\
  steps:
  - mystery: 1
    input: |
      # no comment
      text

    # about the agent
    agentRef:
      name: 'x'
    name: a   # its name
  - other: 1
    name: b
""",
        """\
  steps:
  - name: a   # its name
    # about the agent
    agentRef:
      name: 'x'

    input: |
      # no comment
      text
    mystery: 1
  - name: b
    other: 1
""",
    ),
    "styles of strings stay": (
        """\
  steps:
  - transform: >-
      folded
      text
    when: "a == 'b'"
    name: 'a'
""",
        """\
  steps:
  - name: 'a'
    when: "a == 'b'"
    transform: >-
      folded
      text
""",
    ),
    "text in braces is moved within its line": (
        "  steps: [{dependsOn: [b], name: a},  {transform: 'x', name: b}]\n",
        "  steps: [{name: b, transform: 'x'},  {name: a, dependsOn: [b]}]\n",
    ),
    "nested steps are put in order, too": (
        """\
  steps:
    - steps:
        - {name: y, dependsOn: [x]}
        - transform: "1"
          name: x
      name: outer
""",
        """\
  steps:
    - name: outer
      steps:
        - name: x
          transform: "1"
        - {name: y, dependsOn: [x]}
""",
    ),
    "line breaks that a text keeps stay with it": (
        "  steps:\n  - transform: |+\n      a\n\n    name: a\n  - name: b\n",
        "  steps:\n  - name: a\n    transform: |+\n      a\n\n  - name: b\n",
    ),
    "what is in order stays": (
        "  steps:\n  - name: c\n  - name: a\n  - name: b\n    dependsOn: [a]\n",
        None,
    ),
    "a cycle stays": (
        "  steps:\n  - {name: a, dependsOn: [b]}\n  - {name: b, dependsOn: [a]}\n",
        None,
    ),
    "an alias before its anchor would mean nothing": (
        "  steps:\n  - {name: b, dependsOn: [a], outputSchema: &s {}}\n"
        "  - {name: a, outputSchema: *s}\n",
        None,
    ),
    "comments between entries in brackets belong to nobody": (
        "  steps: [{name: b, dependsOn: [a]}, # about what?\n    {name: a}]\n",
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_order(case: str) -> None:
    before, after = CASES[case]
    text = HEAD + before
    better = ordered("f", text)
    assert better == (text if after is None else HEAD + after)
    assert ordered("f", better) == better


@pytest.mark.parametrize(
    "head",
    [
        "kind: WorkflowTemplate\nspec:\n",
        "kind: CronWorkflow\nspec:\n  workflowSpec:\n",
        "kind: Workflow\nspec:\n  onExit: []\n",
        "kind: ConfigMap\n---\nkind: Workflow\nspec:\n",
    ],
)
def test_all_kinds_with_steps_and_all_documents_of_a_file(head: str) -> None:
    indent = "    " if "workflowSpec" in head else "  "
    text = head + f"{indent}steps:\n{indent}- {{name: b, dependsOn: [a]}}\n{indent}- {{name: a}}\n"
    found = list(yaml.safe_load_all(ordered("f", text)))[-1]
    steps = found["spec"].get("workflowSpec", found["spec"])["steps"]
    assert [step["name"] for step in steps] == ["a", "b"]


def test_windows_line_ends_and_a_missing_last_one_stay() -> None:
    text = HEAD + "  steps:\n  - name: b\n    dependsOn: [a]\n  - name: a"
    assert ordered("f", text).endswith("- name: b\n    dependsOn: [a]")
    windows = text.replace("\n", "\r\n") + "\r\n"
    better = ordered("f", windows)
    assert better.count("\r\n") == windows.count("\r\n")
    assert better.index("name: a") < better.index("name: b")


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "agentRef": st.fixed_dictionaries({"name": st.sampled_from(["x", "y"])}),
    "input": st.text("ab #:\n'\"$(){}-\t", max_size=12),
    "when": st.sampled_from(["true", "a == 'b'"]),
    "inputData": st.dictionaries(st.sampled_from("pq"), st.integers(), max_size=2),
    "unknown": st.lists(st.integers(), max_size=2),
}


@st.composite
def step_lists(draw: st.DrawFn, depth: int = 1) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    steps = []
    for index, name in enumerate(names):
        step: dict[str, Any] = {"name": name}
        before = draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        if before:
            step["dependsOn"] = before
        for key in draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True)):
            step[key] = draw(VALUES[key])
        if depth and draw(st.booleans()):
            step["steps"] = draw(step_lists(depth=0))
        keys = draw(st.permutations(sorted(step)))
        steps.append({key: step[key] for key in keys})
    return draw(st.permutations(steps))


def by_name(steps: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for step in copy.deepcopy(steps):
        if "steps" in step:
            step["steps"] = by_name(step["steps"])
        found[step["name"]] = step
    return found


def in_order(steps: list[dict[str, Any]]) -> bool:
    seen: set[str] = set()
    for step in steps:
        if not set(step.get("dependsOn", [])) <= seen or not in_order(step.get("steps", [])):
            return False
        seen.add(step["name"])
    return True


@settings(max_examples=50, deadline=None)
@given(step_lists(), st.sampled_from([True, False, None]), st.sampled_from([20, 1000]))
def test_whatever_it_is_the_order_is_right_and_the_meaning_the_same(
    steps: list[dict[str, Any]], flow: bool | None, width: int
) -> None:
    data = {"kind": "Workflow", "spec": {"steps": steps, "output": "x"}}
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, width=width)
    better = ordered("f", text)
    found = yaml.safe_load(better)
    assert in_order(found["spec"]["steps"])
    assert by_name(found["spec"]["steps"]) == by_name(steps)
    assert ordered("f", better) == better
    assert sorted(better.split()) == sorted(text.split()) or flow is not False


BAD = HEAD + "  steps:\n  - {name: b, dependsOn: [a]}\n  - {name: a}\n"


def test_files_are_written_only_where_nothing_else_was_asked_for(
    corral: Corral, tmp_path: Path
) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(BAD)
    file.chmod(0o640)
    code, out, _ = corral("fmt", "--check", str(file), cluster=False)
    assert (code, out, file.read_text()) == (1, f"would change {file}\n", BAD)
    code, out, _ = corral("fmt", "--diff", str(file), cluster=False)
    assert (code, file.read_text()) == (1, BAD)
    assert "+  - {name: a}\n" in out
    code, out, _ = corral("fmt", str(file), cluster=False)
    assert (code, out) == (0, f"changed {file}\n")
    assert file.read_text() == ordered("f", BAD)
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.glob(".w*")] == []
    assert corral("fmt", "--check", str(file), cluster=False)[:2] == (0, "1 file in order\n")


def test_of_stdin_the_result_is_printed(corral: Corral) -> None:
    code, out, _ = corral("fmt", "-", stdin=BAD, cluster=False)
    assert (code, out) == (0, ordered("f", BAD))


def test_programs_get_json(corral: Corral, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "bad.yaml").write_text(BAD)
    (tmp_path / "no.yaml").write_text("a: [")
    words = ("fmt", "-R", "--check", "-o", "json", str(tmp_path))
    code, out, _ = corral(*words, cluster=False)
    told = json.loads(out)
    assert code == 1
    assert told["changed"] == [str(tmp_path / "below" / "bad.yaml")]
    assert [error["file"] for error in told["errors"]] == [str(tmp_path / "no.yaml")]
