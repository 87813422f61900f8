"""The smallest instance fits the schema it was made for."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from corral.modelserver.instance import smallest_instance

_bounded = st.integers(-20, 20).flatmap(
    lambda low: st.integers(low + 2, 40).map(lambda high: (low, high))
)


def _numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.just({"type": kind}),
        _bounded.map(lambda b: {"type": kind, "minimum": b[0], "maximum": b[1]}),
        _bounded.map(lambda b: {"type": kind, "exclusiveMinimum": b[0]}),
        _bounded.map(lambda b: {"type": kind, "exclusiveMaximum": b[1]}),
        st.integers(1, 7).map(lambda n: {"type": kind, "multipleOf": n, "minimum": n + 1}),
    )


_leaves = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 30)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 30)),
    _numbers("integer"),
    _numbers("number"),
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.lists(st.text(max_size=3), min_size=1, max_size=3).map(lambda v: {"enum": v}),
    st.integers().map(lambda v: {"const": v}),
)


def _nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3).map(
        lambda p: {"type": "object", "properties": p, "required": sorted(p)}
    )
    return st.one_of(
        objects,
        st.builds(
            lambda item, n: {"type": "array", "items": item, "minItems": n},
            inner,
            st.integers(0, 3),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        st.builds(lambda one, two: {"allOf": [one, two]}, objects, objects).filter(
            lambda s: not set(s["allOf"][0]["properties"]) & set(s["allOf"][1]["properties"])
        ),
    )


@settings(max_examples=150, deadline=None)
@given(st.recursive(_leaves, _nested, max_leaves=8))
def test_the_smallest_instance_fits(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(smallest_instance(schema))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param({"type": "string", "format": "date"}, "2000-01-01", id="a format"),
        pytest.param({"default": 5, "type": "integer"}, 5, id="a default"),
        pytest.param(
            {"$defs": {"A": {"type": "integer", "minimum": 3}}, "$ref": "#/$defs/A"}, 3, id="a ref"
        ),
        pytest.param(
            {
                "$defs": {"T": {"type": "object", "properties": {"t": {"$ref": "#/$defs/T"}}}},
                "$ref": "#/$defs/T",
            },
            {},
            id="a recursive ref ends",
        ),
        pytest.param({"$ref": "#/$defs/gone"}, None, id="a ref to nothing"),
    ],
)
def test_special_cases(schema: dict[str, Any], expected: Any) -> None:
    assert smallest_instance(schema) == expected
