"""The CRDs' own CEL rules, evaluated here: the same texts that the API server evaluates.

Left out are transitions (``oldSelf``), and what cel-expr-python has no function for or what others
say better: durations and money (their types check them), and the graph (``workflow_problems``).
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from corral.api.crd.build import schema
from corral.api.crd.kinds import KINDS, Kind
from corral.api.crd.schema import RULES
from corral.cli.manifests import FieldPath
from corral.plan.expressions import Expression, ExpressionError

ELSEWHERE = ("oldSelf", "duration(", "quantity(", "transformMapEntry")
_SELF = frozenset({"self"})
_ABOUT_NAME = "metadata.name "
"""How messages of rules on whole objects begin that are about the name."""


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """A kind's schema as its CRD has it."""
    (found,) = (k for k in KINDS if k.name == kind)
    return schema(found)


def broken_rules(kind: Kind, data: dict[str, Any]) -> Iterator[tuple[FieldPath, str]]:
    """(field, message) of every rule that the object breaks; defaults must have been set."""
    for path, message in _walk(schema_of(kind.name), data, ()):
        if not path and message.startswith(_ABOUT_NAME):
            yield ("metadata", "name"), message.removeprefix(_ABOUT_NAME)
        else:
            yield path, message


def _walk(node: dict[str, Any], value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    for rule in node.get(RULES, []):
        if not any(word in rule["rule"] for word in ELSEWHERE) and not _holds(rule, value):
            yield path, rule["message"]
    if isinstance(value, dict):
        properties = node.get("properties", {})
        more = node.get("additionalProperties")
        for key, child in value.items():
            below = properties.get(key, more)
            if isinstance(below, dict):
                yield from _walk(below, child, (*path, key))
    elif isinstance(value, list) and isinstance(node.get("items"), dict):
        for index, child in enumerate(value):
            yield from _walk(node["items"], child, (*path, index))


def _holds(rule: dict[str, str], value: Any) -> bool:
    try:
        return Expression(rule["rule"], _SELF).evaluate({"self": value}) is not False
    except ExpressionError:
        return False  # as the API server does it


@cache
def field_paths(kind: str) -> tuple[FieldPath, ...]:
    """The fields of a kind, indices left out."""
    return tuple(_fields(schema_of(kind), ()))


def _fields(node: dict[str, Any], path: FieldPath) -> Iterator[FieldPath]:
    for key, child in node.get("properties", {}).items():
        yield (*path, key)
        yield from _fields(child, (*path, key))
    if isinstance(node.get("items"), dict):
        yield from _fields(node["items"], path)
