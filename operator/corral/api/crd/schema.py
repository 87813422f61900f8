"""From pydantic models to what a CRD accepts: structural OpenAPI schemas.

Structural means that every node has one type, and no ``$ref``, ``const``, ``title`` or ``null``.
References stay until ``inline``, so that the API reference can tell objects apart.
"""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from corral.api.crd.docstrings import field_docstrings, one_line
from corral.api.types import Resource

Node = dict[str, Any]
REFERENCE = "#/$defs/"
RULES = "x-kubernetes-validations"
INT_OR_STRING = "x-kubernetes-int-or-string"
ANY_FIELDS = "x-kubernetes-preserve-unknown-fields"
LIST_TYPE = "x-kubernetes-list-type"
FREE = REFERENCE + "JsonValue"
INT32 = 2**31 - 1


class Structural(GenerateJsonSchema):
    """pydantic's generator, but for the words that a CRD's schema must not have."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        node = super().model_schema(schema)
        cls: type[Resource] = schema["cls"]
        node.pop("additionalProperties", None)
        documented = field_docstrings(cls)
        for attribute, field in cls.model_fields.items():
            target = node["properties"][field.alias]
            target["description"] = documented.get(attribute, "")
        return node

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Defaults of scalars only: unset means absent for all others."""
        node = super().default_schema(schema)
        default = node.get("default")
        if not isinstance(default, bool | int | str) or default == "":
            node.pop("default", None)
        return node

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return {"type": "string", "enum": [str(word) for word in schema["expected"]]}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        fits = schema.get("le", INT32 + 1) <= INT32
        return {**super().int_schema(schema), "format": "int32" if fits else "int64"}

    def list_schema(self, schema: core_schema.ListSchema) -> JsonSchemaValue:
        return {**super().list_schema(schema), LIST_TYPE: "atomic"}


def structural(models: list[type[Resource]]) -> dict[str, Node]:
    """By class name, every object that the models consist of, with ``$ref`` between them."""
    _, schema = models_json_schema(
        [(model, "validation") for model in models],
        schema_generator=Structural,
        ref_template=REFERENCE + "{model}",
    )
    return {name: _tidy(node) for name, node in schema["$defs"].items() if node}


def inline(node: Node, objects: dict[str, Node], *, defaults: bool = True) -> Node:
    """The node without references; without defaults too, as in a status.

    Nothing within a list has a default: a list is compared as a whole, so an item that the API
    server adds to is, for `kubectl apply` and server-side apply, another than the author's.
    """
    node = resolve(node, objects)
    result = dict(node)
    if not defaults:
        result.pop("default", None)
    for key in ("items", "additionalProperties"):
        if key in node:
            result[key] = inline(node[key], objects, defaults=False)
    if "properties" in node:
        result["properties"] = {
            name: inline(child, objects, defaults=defaults)
            for name, child in node["properties"].items()
        }
    return result


def resolve(node: Node, objects: dict[str, Node]) -> Node:
    """The node with its own reference followed; what it says itself goes before."""
    if "$ref" not in node:
        return node
    target = objects[node["$ref"].removeprefix(REFERENCE)]
    own = {key: value for key, value in node.items() if key != "$ref"}
    both = target.get(RULES, []) + own.get(RULES, [])
    return {**target, **own, **({RULES: both} if both else {})}


def _tidy(node: Node) -> Node:
    """In one order of words everywhere, int-or-string without a type, free JSON marked."""
    node = {word: value for word, value in node.items() if word != "title"}
    if "description" in node:
        node["description"] = one_line(node["description"])
    if node.get(INT_OR_STRING):
        for word in ("type", "anyOf", "format"):
            node.pop(word, None)
    elif _is_free(node):
        node.pop("$ref", None)
        node[ANY_FIELDS] = True
    elif _is_free(node.get("additionalProperties", {"type": "none"})):
        # Said of the object: said of its values, the API server would drop those that are null.
        del node["additionalProperties"]
        node[ANY_FIELDS] = True
    for key in ("items", "additionalProperties"):
        if key in node:
            node[key] = _tidy(node[key])
    if "properties" in node:
        node["properties"] = {name: _tidy(child) for name, child in node["properties"].items()}
    return {word: node[word] for word in sorted(node, key=_place)}


def _is_free(node: Node | bool) -> bool:
    """Whether any JSON fits."""
    if isinstance(node, bool):
        return node
    return node.get("$ref") == FREE or not node.keys() & {"type", "$ref", INT_OR_STRING}


_ORDER = [
    *("$ref", "description", "type", "format", "enum", "default", "pattern"),
    *("minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties"),
    *("required", "oneOf", "properties", "additionalProperties", "items"),
    *(LIST_TYPE, INT_OR_STRING, ANY_FIELDS, RULES),
]


def _place(word: str) -> int:
    return _ORDER.index(word)  # a word that isn't here has no place in a CRD
