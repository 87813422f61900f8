"""Output schemas: what a model is asked for, and whether its answer fits."""

import json
import math
from typing import Any, NoReturn, cast

from pydantic import JsonValue

from corral.api.types import JsonSchema

_WRAPPED = "value"
_DEFINITIONS = ("$defs", "definitions")


class SchemaInvalidError(ValueError):
    """The schema itself is not a valid JSON Schema."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str) -> JsonValue:
    """The JSON value of a text.

    Raises:
        ValueError: the text is not JSON (NaN and Infinity are not).
    """
    return cast("JsonValue", json.loads(text, parse_constant=_refuse_constant))


def parse_json_answer(text: str) -> JsonValue:
    """Like `parse_json`, for a model's answer: it may be inside a Markdown code fence.

    Raises:
        ValueError: there is no JSON value.
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return parse_json(text)


def compact_json(value: Any) -> str:
    """The shortest JSON of a value, as it is shown to models and matched by simulated ones.

    Keys are sorted: A2A's data parts are protobuf Structs, which forget the order of keys.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def whole_numbers(value: Any) -> Any:
    """Floats that are whole back to ints: protobuf's Struct has no ints.

    Beyond 2**53 a float no longer tells which int was meant, so those stay floats.
    """
    if isinstance(value, float):
        return (
            int(value)
            if math.isfinite(value) and value.is_integer() and abs(value) <= 2**53
            else value
        )
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return value


class OutputSchema:
    """One JSON Schema (draft 2020-12), compiled; references to other documents are not followed.

    Raises:
        SchemaInvalidError: on construction, with the reason.
    """

    def __init__(self, schema: JsonSchema) -> None:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from referencing import Registry

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise SchemaInvalidError(
                f"outputSchema is not a JSON Schema: {error.message}"
            ) from None
        self.schema = schema
        # An empty registry: the default one would fetch remote references.
        self._validator = Draft202012Validator(schema, registry=Registry())
        declared = schema.get("type", "object" if "properties" in schema else None)
        self._wrapped = declared != "object"

    def parameters(self) -> dict[str, Any]:
        """The schema as a tool's parameters, which must be an object's: others are wrapped."""
        if not self._wrapped:
            return {**self.schema, "type": "object"}
        shared = {key: self.schema[key] for key in _DEFINITIONS if key in self.schema}
        inner = {key: item for key, item in self.schema.items() if key not in shared}
        return {
            "type": "object",
            "properties": {_WRAPPED: inner},
            "required": [_WRAPPED],
            "additionalProperties": False,
            **shared,
        }

    def unwrap(self, arguments: dict[str, Any]) -> JsonValue:
        """The value that a tool call with these arguments means."""
        if self._wrapped and set(arguments) == {_WRAPPED}:
            return cast("JsonValue", arguments[_WRAPPED])
        return arguments

    def wrap(self, value: JsonValue) -> dict[str, Any] | None:
        """The arguments of a tool call that means this value; None if no call can mean it."""
        if self._wrapped:
            return {_WRAPPED: value}
        return value if isinstance(value, dict) else None

    def problem(self, value: JsonValue) -> str | None:
        """Why the value does not fit, in a sentence that a model can act on; None if it fits."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as unresolvable:
            return f"The schema's reference {unresolvable.ref} does not resolve."
        except RecursionError:
            return "The answer is nested too deeply."
        if error is None:
            return None
        place = error.json_path if error.absolute_path else "the answer"
        return f"At {place}: {error.message[:400]}"
