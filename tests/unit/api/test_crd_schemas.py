"""The generated CRDs keep the rules for what an API server accepts and can afford."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from corral.api.crd.build import definition
from corral.api.crd.kinds import KINDS, Kind
from corral.api.crd.schema import ANY_FIELDS, INT_OR_STRING, LIST_TYPE, RULES

FORBIDDEN = {
    *("$ref", "$defs", "anyOf", "allOf", "not", "const", "title", "nullable", "uniqueItems"),
    *("additionalItems", "patternProperties", "definitions", "dependencies", "deprecated", "id"),
    *("exclusiveMinimum", "exclusiveMaximum", "examples", "writeOnly", "readOnly"),
}
CLIENT_SIDE_APPLY = 262_144
DEFINITIONS = {kind.name: definition(kind) for kind in KINDS}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def root(kind: Kind) -> dict[str, Any]:
    version = DEFINITIONS[kind.name]["spec"]["versions"][0]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            yield from nodes(node[key], path + mark)


def fields(kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("spec", "status"):
        yield from nodes(root(kind)["properties"].get(name, {"type": "object"}), name)


def wrong(found: Iterator[str]) -> list[str]:
    return sorted(set(found))


@each_kind
def test_no_word_that_a_structural_schema_must_not_have(kind: Kind) -> None:
    assert (
        wrong(f"{path}: {word}" for path, node in fields(kind) for word in node.keys() & FORBIDDEN)
        == []
    )


@each_kind
def test_every_node_has_one_type_or_says_that_it_has_none(kind: Kind) -> None:
    untyped = (
        path
        for path, node in fields(kind)
        if not isinstance(node.get("type"), str)
        and not node.get(ANY_FIELDS)
        and not node.get(INT_OR_STRING)
    )
    assert wrong(untyped) == []


@each_kind
def test_int_or_string_has_no_type(kind: Kind) -> None:
    assert wrong(p for p, node in fields(kind) if node.get(INT_OR_STRING) and "type" in node) == []


@each_kind
def test_free_json_is_said_of_objects_not_of_their_values(kind: Kind) -> None:
    """Else the API server drops values that are null."""
    free = (
        path for path, node in fields(kind) if node.get("additionalProperties", {}).get(ANY_FIELDS)
    )
    assert wrong(free) == []


@each_kind
def test_no_float(kind: Kind) -> None:
    assert wrong(path for path, node in fields(kind) if node.get("type") == "number") == []


@each_kind
def test_every_field_is_described(kind: Kind) -> None:
    bare = (
        f"{path}.{name}"
        for path, node in fields(kind)
        for name, child in node.get("properties", {}).items()
        if not child.get("description", "").strip()
    )
    assert wrong(bare) == []


@each_kind
def test_descriptions_are_single_lines_without_markup(kind: Kind) -> None:
    ugly = (
        path
        for path, node in fields(kind)
        if "\n" in node.get("description", "") or "``" in node.get("description", "")
    )
    assert wrong(ugly) == []


@each_kind
def test_every_list_is_atomic_and_bounded(kind: Kind) -> None:
    lists = [(path, node) for path, node in fields(kind) if node.get("type") == "array"]
    assert wrong(path for path, node in lists if node.get(LIST_TYPE) != "atomic") == []
    assert wrong(path for path, node in lists if "maxItems" not in node) == []


@each_kind
def test_every_text_is_bounded(kind: Kind) -> None:
    texts = ((path, node) for path, node in fields(kind) if node.get("type") == "string")
    assert wrong(p for p, node in texts if not node.keys() & {"maxLength", "enum"}) == []


@each_kind
def test_every_typed_map_is_bounded(kind: Kind) -> None:
    maps = ((path, node) for path, node in fields(kind) if "additionalProperties" in node)
    assert wrong(path for path, node in maps if "maxProperties" not in node) == []


@each_kind
def test_every_number_of_a_spec_is_bounded_below(kind: Kind) -> None:
    numbers = (
        (path, node)
        for path, node in nodes(root(kind)["properties"]["spec"], "spec")
        if node.get("type") == "integer"
    )
    unbounded = wrong(path for path, node in numbers if "minimum" not in node)
    assert [path for path in unbounded if not path.endswith("tolerationSeconds")] == []


@each_kind
def test_no_enum_has_an_empty_word_or_a_yaml_boolean(kind: Kind) -> None:
    booleans = {"", "on", "off", "yes", "no", "y", "n"}
    found = (
        f"{path}: {word}"
        for path, node in fields(kind)
        for word in node.get("enum", [])
        if word.lower() in booleans
    )
    assert wrong(found) == []


@each_kind
def test_defaults_are_scalars_and_keep_their_own_rules(kind: Kind) -> None:
    for path, node in fields(kind):
        if "default" in node and path != "status":
            default = node["default"]
            assert isinstance(default, bool | int | str), path
            assert default != "", path
            assert default in node.get("enum", [default]), path
            assert node.get("minimum", default) <= default, path


@each_kind
def test_a_status_has_no_defaults(kind: Kind) -> None:
    status = nodes(root(kind)["properties"].get("status", {}), "status")
    assert wrong(p for p, node in status if "default" in node and p != "status") == []


@each_kind
def test_nothing_in_a_list_has_a_default(kind: Kind) -> None:
    """Else what is applied differs from what the author wrote, and every tool sees a drift."""
    assert wrong(p for p, node in fields(kind) if "default" in node and "[]" in p) == []


@each_kind
def test_what_nobody_has_looked_at_is_of_no_generation(kind: Kind) -> None:
    """Else kstatus calls it ready."""
    if status := root(kind)["properties"].get("status"):
        assert status["default"]["observedGeneration"] == -1


@each_kind
def test_rules_have_messages(kind: Kind) -> None:
    rules = [rule for _, node in nodes(root(kind)) for rule in node.get(RULES, [])]
    assert rules, "every kind has a rule about its name"
    assert all(rule["rule"] and rule["message"] for rule in rules)


@each_kind
def test_required_fields_have_no_default(kind: Kind) -> None:
    for path, node in fields(kind):
        for name in node.get("required", []):
            assert "default" not in node["properties"][name], f"{path}.{name}"


@each_kind
def test_is_small_enough_for_client_side_apply(kind: Kind) -> None:
    assert len(json.dumps(DEFINITIONS[kind.name])) < CLIENT_SIDE_APPLY


@each_kind
def test_columns_show_fields_that_there_are(kind: Kind) -> None:
    known = {path for path, _ in nodes(root(kind))}
    for column in kind.columns:
        path = column.path.replace('[?(@.type=="Ready")]', "[]")
        assert path in known or path == ".metadata.creationTimestamp", column


NAMES = {
    "Model": ("models", "cmodel"),
    "Agent": ("agents", "cagent"),
    "AgentPool": ("agentpools", "cpool"),
    "Workflow": ("workflows", "cwf"),
    "WorkflowTemplate": ("workflowtemplates", "cwft"),
    "CronWorkflow": ("cronworkflows", "ccron"),
    "ApprovalRequest": ("approvalrequests", "capproval"),
}


@each_kind
def test_names(kind: Kind) -> None:
    plural, short = NAMES[kind.name]
    found = DEFINITIONS[kind.name]
    assert found["metadata"]["name"] == f"{plural}.corral.dev"
    assert found["spec"]["scope"] == "Namespaced"
    assert found["spec"]["names"] == {
        "kind": kind.name,
        "listKind": kind.name + "List",
        "plural": plural,
        "singular": kind.name.lower(),
        "shortNames": [short],
        "categories": ["corral"],
    }


@each_kind
def test_status_is_a_subresource_and_only_pools_scale(kind: Kind) -> None:
    subresources = DEFINITIONS[kind.name]["spec"]["versions"][0]["subresources"]
    inert = kind.name in ("WorkflowTemplate", "ApprovalRequest")
    assert ("status" not in subresources) is inert
    assert ("status" not in root(kind)["properties"]) is inert
    if kind.name == "AgentPool":
        assert subresources["scale"] == {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
        assert root(kind)["properties"]["spec"]["properties"]["replicas"]["default"] == 1
    else:
        assert "scale" not in subresources


SCHEMAS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a list of anything": (
        "Workflow",
        "spec.steps[].forEach.items",
        {"type": "array", LIST_TYPE: "atomic", "maxItems": 1000},
    ),
    "any JSON": ("Workflow", "status.output", {ANY_FIELDS: True}),
    "an object of anything": ("Workflow", "spec.arguments", {"type": "object", ANY_FIELDS: True}),
    "a JSON Schema": ("Agent", "spec.outputSchema", {"type": "object", ANY_FIELDS: True}),
    "a count or a percentage": (
        "Workflow",
        "spec.steps[].forEach.tolerateFailures",
        {INT_OR_STRING: True, "minimum": 0},
    ),
    "an enumeration": ("Workflow", "spec.shutdown", {"enum": ["Stop", "Terminate"]}),
    "a field called by a Python keyword": (
        "Workflow",
        "spec.steps[].forEach.as",
        {"type": "string"},
    ),
    "a number with a bound": (
        "AgentPool",
        "spec.concurrency",
        {"type": "integer", "format": "int32", "minimum": 1, "maximum": 1024, "default": 16},
    ),
    "a positive duration": (
        "Model",
        "spec.timeout",
        {
            "type": "string",
            "default": "60s",
            RULES: [
                {"rule": "duration(self) > duration('0s')", "message": "must be longer than zero"}
            ],
        },
    ),
}


@pytest.mark.parametrize("what", SCHEMAS)
def test_translates(what: str) -> None:
    kind_name, path, expected = SCHEMAS[what]
    kind = next(kind for kind in KINDS if kind.name == kind_name)
    found = dict(fields(kind))[path]
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("field", ["suspend", "shutdown"])
def test_what_a_person_stops_no_default_starts_again(field: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == "Workflow")
    assert "default" not in dict(fields(kind))[f"spec.{field}"]


GRAPHS = ["steps", "steps[].steps", "onExit", "onExit[].steps"]
HOLDERS = {
    "Workflow": "spec",
    "WorkflowTemplate": "spec",
    "CronWorkflow": "spec.workflowSpec",
}


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_is_checked_for_order_and_kinds(name: str, graph: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    path = f"{HOLDERS[name]}.{graph}"
    found = dict(fields(kind))
    assert any("transformMapEntry" in rule["rule"] for rule in found[path][RULES])
    assert any("exactly one of" in rule["message"] for rule in found[path + "[]"][RULES])
