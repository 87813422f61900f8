"""What a Workflow runs that names a WorkflowTemplate."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.api.template import TemplateSpec
from corral.plan.template import (
    argument_problems,
    called_by,
    cycle,
    parameters_of,
    resolve,
    with_defaults,
)
from tests.unit.plan.driver import Simulation, spec_of


def template(text: str = "", parameters: Any = None, steps: str = "") -> TemplateSpec:
    """A template from YAML; it has one step unless ``steps`` says otherwise."""
    found = yaml.safe_load(f"{text}\nsteps: [{steps or '{name: a, transform: x}'}]")
    if parameters is not None:
        found["parameters"] = parameters
    return TemplateSpec.model_validate(found, extra="forbid")


def naming(text: str = "") -> Any:
    return spec_of(f"workflowTemplateRef: {{name: t}}\n{text}")


def test_the_steps_are_the_templates() -> None:
    spec = resolve(naming("suspend: true\nretryOf: {name: old}"), template())
    assert [step.name for step in spec.steps or []] == ["a"]
    assert (spec.workflow_template_ref, spec.arguments) == (None, {})
    assert spec.suspend is True
    assert spec.retry_of is not None


@pytest.mark.parametrize(
    ("field", "ours", "theirs"),
    [
        ("output", "mine", "theirs"),
        ("parallelism", 3, 5),
        ("activeDeadline", "1m", "2m"),
        ("deadline", "1h", "2h"),
        ("priorityClassName", "high", "low"),
        ("budget", {"maxCostUSD": "1.00"}, {"maxCostUSD": "2.00"}),
        ("onExit", [{"name": "mine", "transform": "x"}], [{"name": "its", "transform": "x"}]),
        ("ttlAfterFinished", "1h", "2h"),
    ],
)
@pytest.mark.parametrize(
    ("has_own", "has_other"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_bound_of_the_workflow_replaces_the_templates(
    field: str, ours: Any, theirs: Any, has_own: bool, has_other: bool
) -> None:
    own = json.dumps({field: ours})[1:-1] if has_own else ""
    other = json.dumps({field: theirs})[1:-1] if has_other else ""
    found = resolve(naming(own), template(other)).to_json().get(field)
    expected = ours if has_own else theirs if has_other else None
    if isinstance(expected, list):
        assert [step["name"] for step in found] == [step["name"] for step in expected]
    elif isinstance(expected, dict):
        assert expected.items() <= found.items()
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "fast"),
    [("true", "true", True), ("false", "true", False), ("true", "false", False),
     ("false", "false", False)],
)  # fmt: skip
def test_either_can_turn_fail_fast_off(ours: str, theirs: str, fast: bool) -> None:
    spec = resolve(naming(f"failFast: {ours}"), template(f"failFast: {theirs}"))
    assert spec.fail_fast is fast


def test_resolving_changes_neither() -> None:
    ours, theirs = naming("arguments: {o: {}}"), template(parameters=NESTED)
    before = ours.to_json(), theirs.to_json()
    resolve(ours, theirs)
    assert (ours.to_json(), theirs.to_json()) == before


NESTED = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "default": 3},
        "text": {"type": "string"},
        "off": {"type": "boolean", "default": False},
        "o": {"properties": {"deep": {"default": [1]}, "p": {"properties": {"q": {"default": 1}}}}},
        "made": {"default": {}, "properties": {"x": {"default": "y"}}},
        "odd": True,
    },
}
MADE = {"n": 3, "off": False, "made": {"x": "y"}}


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({}, MADE),
        ({"n": 5}, MADE | {"n": 5}),
        pytest.param({"n": None}, MADE | {"n": None}, id="null is a value"),
        pytest.param({"off": True}, MADE | {"off": True}, id="true"),
        pytest.param({"o": {}}, MADE | {"o": {"deep": [1]}}, id="within an object that is given"),
        pytest.param({"o": {"p": {}}}, MADE | {"o": {"deep": [1], "p": {"q": 1}}}, id="deeper"),
        pytest.param({"o": "no object"}, MADE | {"o": "no object"}, id="no object"),
        pytest.param({"more": 1}, MADE | {"more": 1}, id="undeclared"),
    ],
)
def test_defaults_fill_what_is_absent(given: dict[str, Any], filled: dict[str, Any]) -> None:
    assert with_defaults(NESTED, given) == filled
    assert resolve(naming(f"arguments: {json.dumps(given)}"), template(parameters=NESTED)).arguments


@pytest.mark.parametrize("schema", [{}, {"properties": []}, {"type": "object"}])
def test_a_schema_without_properties_has_no_defaults(schema: Any) -> None:
    assert with_defaults(schema, {"a": 1}) == {"a": 1}
    assert parameters_of(template(parameters=schema)) == frozenset()


STRICT = {
    "type": "object",
    "required": ["topic"],
    "additionalProperties": False,
    "properties": {
        "topic": {"type": "string", "minLength": 2},
        "list": {"type": "array", "items": {"type": "integer"}},
    },
}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"topic": "tea"}, []),
        ({}, ["spec.arguments: 'topic' is a required property"]),
        ({"topic": "t"}, ["spec.arguments.topic: 't' is too short"]),
        (
            {"topic": "tea", "list": [1, "b"]},
            ["spec.arguments.list.1: 'b' is not of type 'integer'"],
        ),
        (
            {"topic": 2, "list": "x"},
            [
                "spec.arguments.list: 'x' is not of type 'array'",
                "spec.arguments.topic: 2 is not of type 'string'",
            ],
        ),
        (
            {"topic": "tea", "tpoic": 1},
            [
                "spec.arguments: Additional properties are not allowed ('tpoic' was unexpected)",
            ],
        ),
    ],
)
def test_arguments_that_break_the_parameters_are_named(given: Any, found: list[str]) -> None:
    assert [str(one) for one in argument_problems(template(parameters=STRICT), given)] == found


def test_ten_problems_are_enough_and_each_is_short() -> None:
    given = {"topic": "tea", "list": ["x" * 5000] * 20}
    found = argument_problems(template(parameters=STRICT), given)
    assert len(found) == 10
    assert max(len(one.message) for one in found) == 300


def test_without_parameters_any_arguments_will_do() -> None:
    assert argument_problems(template(), {"a": [1]}) == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": 5}, "spec.parameters: is no JSON Schema: 5 is not valid"),
        (
            {"properties": {"a": {"$ref": "#/$defs/nope"}}},
            "spec.parameters: the reference /$defs/nope does not resolve",
        ),
        ({"$ref": "#"}, "spec.parameters: the schema refers to itself"),
    ],
)
def test_parameters_that_are_no_schema_are_named(schema: Any, message: str) -> None:
    (found,) = argument_problems(template(parameters=schema), {"a": 1})
    assert str(found).startswith(message)


def test_a_reference_within_the_parameters_is_followed() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    (found,) = argument_problems(template(parameters=schema), {"a": "x"})
    assert str(found) == "spec.arguments.a: 'x' is not of type 'integer'"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as an error, it would stop the fetch
def test_a_reference_to_another_document_is_not_fetched(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"type": "integer"}')
    schema = {"properties": {"a": {"$ref": other.as_uri()}}}
    (found,) = argument_problems(template(parameters=schema), {"a": "x"})
    assert str(found) == f"spec.parameters: the reference {other.as_uri()} does not resolve"


def calling(*names: str) -> TemplateSpec:
    """A template that calls others, the last from within nested steps."""
    steps = [
        f"{{name: s{i}, workflow: {{templateRef: {{name: {n}}}}}}}" for i, n in enumerate(names)
    ]
    if steps:
        steps[-1] = f"{{name: o, steps: [{steps[-1]}]}}"
    return template(steps=", ".join(steps))


@pytest.mark.parametrize(
    ("graph", "path"),
    [
        ({"a": []}, []),
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, ["a", "a"]),
        ({"a": ["b"], "b": ["a"]}, ["a", "b", "a"]),
        pytest.param({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, [], id="diamond"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c", "b"], id="not by itself"),
        pytest.param({"a": ["gone"]}, [], id="not there"),
        pytest.param({"b": ["b"]}, [], id="itself not there"),
        pytest.param({"a": ["b", "c"], "b": [], "c": ["a"]}, ["a", "c", "a"], id="second call"),
        pytest.param(
            {f"t{i}": [f"t{i + 1}"] * 2 for i in range(60)} | {"a": ["t0"], "t60": []},
            [],
            id="many ways",
        ),
    ],
)
def test_how_a_template_reaches_itself(graph: dict[str, list[str]], path: list[str]) -> None:
    assert cycle("a", {name: calling(*called) for name, called in graph.items()}) == path


def test_calls_of_on_exit_count_too() -> None:
    found = template("onExit: [{name: e, workflow: {templateRef: {name: a}}}]")
    assert called_by(found) == ["a"]
    assert cycle("a", {"a": found}) == ["a", "a"]


def test_a_resolved_workflow_runs() -> None:
    of = template(
        "output: $(steps.a.output)",
        {"properties": {"n": {"default": 2}}},
        "{name: a, transform: $(arguments.n + 1)}",
    )
    sim = Simulation(yaml.safe_dump(resolve(naming(), of).to_json())).end()
    assert sim.status.output == 3
