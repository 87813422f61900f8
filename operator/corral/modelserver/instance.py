"""The smallest valid instance of a JSON Schema, as far as one can be written down directly."""

from typing import Any

_DEPTH = 32


def smallest_instance(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A small value that fits a JSON Schema (of the kinds that are used to ask models).

    Understands const, enum, default, examples, $ref within the document, allOf, anyOf, oneOf,
    required properties, and the bounds of numbers, strings and arrays. Patterns are not understood.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _DEPTH:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    if "$ref" in schema:
        return smallest_instance(_resolve(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return _simplest([smallest_instance(one, root, depth + 1) for one in schema[key]])
    if "allOf" in schema:
        return smallest_instance(_merged(schema, root), root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = "null" if "null" in kind else kind[0]
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    if kind == "object":
        properties = schema.get("properties", {})
        return {
            name: smallest_instance(properties.get(name, {}), root, depth + 1)
            for name in schema.get("required", [])
        }
    if kind == "array":
        first = list(schema.get("prefixItems", []))
        count = max(int(schema.get("minItems", 0)), len(first))
        kinds = [*first, *[schema.get("items", {})] * (count - len(first))]
        return [smallest_instance(one, root, depth + 1) for one in kinds]
    if kind in ("integer", "number"):
        return _number(schema, integer=kind == "integer")
    if kind == "string":
        return _string(schema)
    return False if kind == "boolean" else None


def _number(schema: dict[str, Any], *, integer: bool) -> int | float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if integer else step)
    high = schema.get("maximum")
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - (1 if integer else step)
    if low is not None and low > 0:
        value = -(-low // step) * step
    else:
        value = min(0, high) if high is not None else 0
        value = value // step * step
    if not integer and high is not None and value > high:
        value = high
    return int(value) if integer or float(value).is_integer() else float(value)


_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def _string(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "simulated")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if not step:
            continue
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if found else None
    return found


def _merged(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    merged = {key: item for key, item in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        part = _resolve(part["$ref"], root) if "$ref" in part else part
        for key, item in (part or {}).items():
            if key == "properties":
                merged["properties"] = {**merged.get("properties", {}), **item}
            elif key == "required":
                merged["required"] = [*merged.get("required", []), *item]
            else:
                merged.setdefault(key, item)
    return merged


def _simplest(values: list[Any]) -> Any:
    return min(values, key=lambda value: len(repr(value)))
