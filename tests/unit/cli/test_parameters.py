"""Arguments of runs: their types, and what is wrong with them."""

import json
import socket
from typing import Any

import pytest

from corral.cli.errors import CliError, Exit
from corral.cli.parameters import Given, arguments

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["topic"],
    "properties": {
        "topic": {"type": "string", "maxLength": 8},
        "count": {"type": "integer", "minimum": 1, "default": 3},
        "regions": {"type": "array", "items": {"type": "string"}},
        "deep": {"type": "boolean"},
        "either": {"type": ["string", "integer"]},
        "level": {"enum": [1, 2]},
        "shared": {"$ref": "#/$defs/ratio"},
        "any": {},
    },
    "$defs": {"ratio": {"type": "number", "maximum": 1}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("topic=12", "12"),
        ("topic=a=b", "a=b"),
        ("count=5", 5),
        ('regions=["EU"]', ["EU"]),
        ("deep=true", True),
        ("either=7", "7"),
        ("level=2", 2),
        ("shared=0.5", 0.5),
        ("any=7", "7"),
        ("topic=", ""),
    ],
)
def test_a_value_is_text_where_the_schema_takes_text_and_json_elsewhere(
    text: str, value: object
) -> None:
    name = text.split("=")[0]
    given = Given.of([text] if name == "topic" else ["topic=x", text], None)
    assert arguments(given, None, SCHEMA, {})[name] == value


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["topic=a", "count=many"], "parameter 'count': 'many' is not of type 'integer'"),
        (["topic=a", "count=0"], "parameter 'count': 0 is less than the minimum of 1"),
        (["topic=123456789"], "parameter 'topic': '123456789' is too long"),
        (["topic=a", "regions=[1]"], "parameter 'regions[0]': 1 is not of type 'string'"),
        (["topic=a", "shared=2"], "parameter 'shared': 2 is greater than the maximum of 1"),
        (["topic=a", "cuont=2"], "there is no parameter 'cuont'; did you mean 'count'?"),
        (["count=2"], "parameter 'topic': must be given: -p topic=…"),
        (["topic=a", "level=3"], "parameter 'level': 3 is not one of [1, 2]"),
    ],
)
def test_what_breaks_the_schema_is_told_with_the_parameters_name(
    texts: list[str], said: str
) -> None:
    with pytest.raises(CliError) as raised:
        arguments(Given.of(texts, None), None, SCHEMA, {})
    assert said in raised.value.message
    assert raised.value.code is Exit.REFUSED


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(CliError, match=r"(?s)'topic': must be given.*'count'.*'deep'"):
        arguments(Given.of(["count=x", "deep=x"], None), None, SCHEMA, {})


def test_other_names_are_taken_where_the_schema_says_so() -> None:
    schema = {"properties": {}, "additionalProperties": {"type": "integer"}}
    given = Given.of([], None)
    assert arguments(given, {"x": 1}, schema, {}) == {"x": 1}
    with pytest.raises(CliError, match="'x': 'one' is not of type 'integer'"):
        arguments(Given.of(["x=one"], None), None, schema, {})


def test_without_a_schema_the_present_value_tells_the_type() -> None:
    present = {"topic": "a", "count": 1}
    spec = {"steps": [{"input": "$(arguments.?late.orValue('')) $(arguments.topic)"}]}
    given = Given.of(["topic=12", "count=12", 'late={"a": 1}'], None)
    assert arguments(given, present, None, spec) == {"topic": "12", "count": 12, "late": {"a": 1}}
    with pytest.raises(CliError, match="no parameter 'tpoic'; did you mean 'topic'"):
        arguments(Given.of(["tpoic=1"], None), present, None, spec)


def test_a_file_gives_typed_values_and_options_come_after_it(tmp_path: Any) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("topic: from-file\ncount: 2\n")
    given = Given.of(["topic=mine"], str(file))
    assert arguments(given, None, {**SCHEMA}, {}) == {"topic": "mine", "count": 2}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["topic"], "-p 'topic': must be NAME=VALUE"),
        (["=x"], "must be NAME=VALUE"),
        (["a=1", "a=2"], "-p a: is given twice"),
    ],
)
def test_options_of_another_form_are_wrong_usage(texts: list[str], said: str) -> None:
    with pytest.raises(CliError) as raised:
        Given.of(texts, None)
    assert said in raised.value.message
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize("text", ["- a", "a: 1\n---\nb: 1", "a: [", "1"])
def test_a_file_that_holds_no_object_is_wrong_usage(text: str, tmp_path: Any) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(CliError) as raised:
        Given.of([], str(file))
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize(
    "own", [{"$ref": "{url}"}, {"type": "array", "items": {"$ref": "{url}#/$defs/x"}}]
)
def test_a_schema_elsewhere_is_not_fetched(own: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/schema"
        text = json.dumps({"type": "object", "properties": {"topic": own}}).replace("{url}", url)
        given = Given(texts={"topic": "[1]"}, values={})
        with pytest.raises(CliError) as failed:
            arguments(given, None, json.loads(text), {})
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert "does not resolve" in str(failed.value)
