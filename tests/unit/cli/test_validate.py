"""``corral validate``: what it says, where it points, how it exits."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.api.crd.kinds import KINDS
from corral.cli.check import check
from corral.cli.errors import CliError, Exit
from corral.cli.manifests import parse_path, path_text
from corral.cli.rules import ELSEWHERE, schema_of
from corral.cli.validate import validate
from corral.plan.expressions import Expression

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"


def written(tmp_path: Path, text: str, name: str = "f.yaml") -> str:
    file = tmp_path / name
    file.write_text(text)
    return str(file)


def manifest(kind: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    names = {"name": "x"} | metadata
    return {"apiVersion": "corral.dev/v1alpha1", "kind": kind, "metadata": names, "spec": spec}


def said(tmp_path: Path, data: Any, *, warnings: bool = False) -> list[str]:
    file = written(tmp_path, json.dumps(data), "f.json")
    return [
        str(found).removeprefix(f"{file}:1: ")
        for found in check([file]).findings
        if warnings or not found.warning
    ]


def steps(*given: dict[str, Any], **more: Any) -> dict[str, Any]:
    return manifest("Workflow", {"steps": list(given), **more})


T = {"name": "a", "transform": "x"}
AGENT = {"modelRef": {"name": "m"}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            steps({**T, "dependsOn": ["y"]}),
            "Workflow/x: spec.steps[0].dependsOn[0]: there is no step 'y'",
        ),
        (
            steps(T, deadline="5 minutes"),
            "Workflow/x: spec.deadline: '5 minutes' is no duration such as 90s, 5m or 1h30m",
        ),
        (steps(T, deadline="0s"), "Workflow/x: spec.deadline: must be longer than zero"),
        (
            steps({**T, "dependson": []}),
            "Workflow/x: spec.steps[0].dependson: there is no such field; "
            "did you mean 'dependsOn'?",
        ),
        (
            steps({**T, "depends_on": []}),
            "Workflow/x: spec.steps[0].depends_on: there is no such field; "
            "did you mean 'dependsOn'?",
        ),
        (
            steps(T, parallelism="3"),
            "Workflow/x: spec.parallelism: must be a whole number, not the text '3'",
        ),
        (
            steps(T, failFast="yes"),
            "Workflow/x: spec.failFast: must be true or false, not the text 'yes'",
        ),
        (
            steps({**T, "forEach": {"items": [1], "tolerateFailures": "many"}}),
            "Workflow/x: spec.steps[0].forEach.tolerateFailures: "
            "must be a number of items or a percentage such as 20%",
        ),
        (
            steps({"name": "a", "wait": {}}),
            "Workflow/x: spec.steps[0].wait.duration: must be set",
        ),
        (
            steps({**T, "name": "my-step"}),
            "Workflow/x: spec.steps[0].name: 'my-step' is no valid name here: a lower-case letter, "
            "then letters, digits and '_' (expressions say steps.NAME)",
        ),
        (
            manifest("Agent", {**AGENT, "limits": {"maxCostUSD": "0"}}),
            "Agent/x: spec.limits.maxCostUSD: must be more than zero",
        ),
        (
            manifest("Agent", {**AGENT, "limits": {"maxCostUSD": 0.5}}),
            "Agent/x: spec.limits.maxCostUSD: must be a string, "
            "not the number 0.5 (text needs quotes)",
        ),
        (manifest("Agent", {}), "Agent/x: spec: modelRef is required with type: Declarative"),
        (
            manifest(
                "AgentPool",
                {
                    "agentRef": {"name": "a"},
                    "autoscaling": {"minReplicas": 3, "maxReplicas": 1},
                },
            ),
            "AgentPool/x: spec.autoscaling: minReplicas must not be more than maxReplicas",
        ),
        (
            manifest("AgentPool", {"agentRef": {"name": "a"}}, name="p" * 53),
            f"AgentPool/{'p' * 53}: metadata.name: must have at most 52 characters and no dot",
        ),
        (
            {**steps(T), "metadata": {"name": "a.b"}},
            "Workflow/a.b: metadata.name: 'a.b' is no valid name: lower-case letters, digits and "
            "'-', with a letter or digit at both ends",
        ),
        (
            {**steps(T), "metadata": {"name": "x" * 64}},
            f"Workflow/{'x' * 64}: metadata.name: must have at most 63 characters; it has 64",
        ),
        ({**steps(T), "metadata": {}}, "Workflow/?: metadata.name: must be set"),
        (
            {**steps(T), "metadata": {"name": "x", "labels": {"n": 1}}},
            "Workflow/x: metadata.labels.n: must be a string: put 1 into quotes",
        ),
        (
            {**steps(T), "stats": {}},
            "Workflow/x: stats: there is no such field; did you mean 'status'?",
        ),
        (
            {**steps(T), "kind": "Workflows"},
            "Workflows/x: kind: corral.dev has no kind 'Workflows'; did you mean 'Workflow'?",
        ),
        (
            {**steps(T), "apiVersion": "corral.dev/v1"},
            "Workflow/x: apiVersion: must be corral.dev/v1alpha1, not 'corral.dev/v1'",
        ),
        (["a"], "must be an object with apiVersion, kind and metadata"),
        (
            manifest(
                "Model", {"provider": "simulated", "simulation": {"script": [{"match": "("}]}}
            ),
            "Model/x: spec.simulation.script[0].match: is no regular expression: missing ), "
            "unterminated subpattern at position 0",
        ),
        (
            manifest("Model", {"provider": "openai"}),
            "Model/x: spec: name, the model's name at its provider, is required",
        ),
    ],
)
def test_each_mistake_is_named_with_its_field(tmp_path: Path, data: Any, expected: str) -> None:
    assert expected in said(tmp_path, data)


def test_a_mistake_is_told_once_though_admission_and_the_planner_both_know_it(
    tmp_path: Path,
) -> None:
    data = steps({"name": "a", "transform": "x", "wait": {"duration": "1s"}})
    (only,) = said(tmp_path, data)
    assert "it has wait and transform" in only


def test_lines_point_at_the_field_in_its_document(tmp_path: Path) -> None:
    text = """\
# a comment
apiVersion: corral.dev/v1alpha1
kind: Model
metadata: {name: m}
spec: {provider: simulated}
---
apiVersion: corral.dev/v1alpha1
kind: Workflow
metadata:
  name: x
spec:
  steps:
  - name: a
    transform: x

  - name: b
    transform: x
    dependsOn:
    - a
    - y
"""
    (found,) = check([written(tmp_path, text)]).problems
    assert (found.line, found.document, found.field) == (20, 2, "spec.steps[1].dependsOn[1]")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1\nb: 2\n", 2, "is no YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' stands here twice; first on line 1"),
        ("a: &x [1]\nb: &y [*x, *x]\nc: &c\n  d: *c\n", 3, "an alias refers to what it is in"),
        ("a: !!python/object:os.system {}\n", 1, "is no YAML"),
    ],
)
def test_what_is_no_yaml_is_a_problem_at_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    (found,) = check([written(tmp_path, text)]).problems
    assert found.line == line
    assert words in found.message


def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (found,) = check([written(tmp_path, "\n".join(lines))]).problems
    assert "stand for too much" in found.message


def test_dates_stay_text_as_kubernetes_reads_them(tmp_path: Path) -> None:
    text = yaml.safe_dump(steps(T)).replace("transform: x", "transform: 2026-01-01")
    assert check([written(tmp_path, text)]).problems == []


def test_duplicates_name_the_first_place(tmp_path: Path) -> None:
    first = written(tmp_path, json.dumps(manifest("Model", {"provider": "simulated"})), "1.json")
    second = written(tmp_path, json.dumps(manifest("Model", {"provider": "simulated"})), "2.json")
    (found,) = check([first, second]).problems
    assert found.file == second
    assert found.message == f"there is this Model at {first}:1"


def test_an_object_that_the_api_server_would_find_too_large_is_refused(tmp_path: Path) -> None:
    data = steps(T, arguments={"text": "x" * (3 * 1024 * 1024 // 2)})
    (only,) = said(tmp_path, data)
    assert "the API server takes at most 1,572,864" in only


def test_references_out_of_the_files_are_warnings(tmp_path: Path) -> None:
    data = {
        "kind": "List",
        "apiVersion": "v1",
        "items": [
            manifest("Agent", AGENT, name="planner"),
            steps({"name": "a", "agentRef": {"name": "planer"}}),
        ],
    }
    file = written(tmp_path, json.dumps(data), "f.json")
    checked = check([file])
    assert checked.problems == []
    assert [found.message for found in checked.findings] == [
        "there is no Model 'm' in these files; it may be in the cluster",
        "there is no Agent 'planer' in these files; did you mean 'planner'?",
    ]
    assert validate([file], "text") is Exit.OK


def test_others_kinds_are_not_looked_into(tmp_path: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "x": 1}
    checked = check([written(tmp_path, json.dumps(secret))])
    assert (checked.findings, len(checked.foreign)) == ([], 1)


def test_json_output_has_the_parts_of_each_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, json.dumps(steps(T, deadline="x")), "f.json")
    assert validate([file], "json") is Exit.FAILED
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert report["findings"] == [
        {
            "file": file,
            "line": 1,
            "document": 1,
            "kind": "Workflow",
            "name": "x",
            "field": "spec.deadline",
            "severity": "error",
            "message": "'x' is no duration such as 90s, 5m or 1h30m",
        }
    ]


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    (tmp_path / "empty").mkdir()
    for path in ("absent.yaml", "latin.yaml", "empty"):
        with pytest.raises(CliError) as raised:
            check([str(tmp_path / path)])
        assert raised.value.code is Exit.USAGE


def test_the_samples_are_valid() -> None:
    paths = [str(path) for path in sorted(SAMPLES.rglob("*")) if path.is_dir()]
    assert paths
    for path in paths:
        assert check([path]).problems == []


def test_every_rule_of_the_crds_is_evaluated_or_checked_elsewhere() -> None:
    def rules(node: Any) -> list[str]:
        if isinstance(node, list):
            return [rule for item in node for rule in rules(item)]
        if not isinstance(node, dict):
            return []
        own = [rule["rule"] for rule in node.get("x-kubernetes-validations", [])]
        return own + [rule for child in node.values() for rule in rules(child)]

    for kind in KINDS:
        for rule in rules(schema_of(kind.name)):
            if not any(word in rule for word in ELSEWHERE):
                Expression(rule, frozenset({"self"}))


@pytest.mark.parametrize("text", ["spec", "spec.steps[1].name", "spec.a[0][2].b"])
def test_paths_read_and_write_alike(text: str) -> None:
    assert path_text(parse_path(text)) == text
