"""Expressions and templates by themselves."""

from typing import Any

import pytest

from corral.plan.expressions import (
    Expression,
    ExpressionError,
    Template,
    references,
    render_data,
)

NAMES = frozenset({"x", "steps", "arguments", "workflow"})


def evaluate(source: str, **variables: Any) -> Any:
    return Expression(source, NAMES).evaluate(variables)


def render(source: str, **variables: Any) -> Any:
    return Template(source, NAMES).render(variables)


@pytest.mark.parametrize(
    ("source", "x", "value"),
    [
        pytest.param("x + 1", 1, 2, id="whole numbers are ints"),
        pytest.param("json(x).n + 1", '{"n": 2.0}', 3, id="whole floats of parsed JSON are ints"),
        pytest.param("x.?score.orValue(7)", {}, 7, id="what is absent has a default"),
        pytest.param("has(x.score) ? x.score : 0", {"score": 3}, 3, id="has() tests presence"),
        pytest.param("sum(x)", [1, 2, 3], 6, id="sum of ints is an int"),
        pytest.param("sum(x)", [], 0, id="sum of nothing is zero"),
        pytest.param("sum(x)", [0.5, 1], 1.5, id="sum of a float is a float"),
        pytest.param("avg(x)", [1, 2], 1.5, id="avg is a float"),
        pytest.param("sort(x)", [3, 1.5, 2], [1.5, 2, 3], id="sort orders numbers of both kinds"),
        pytest.param("sort(x)", ["b", "a"], ["a", "b"], id="sort orders texts"),
        pytest.param("distinct(x)", ["b", "a", "b"], ["b", "a"], id="distinct keeps the first"),
        pytest.param("distinct(x)", [{"a": 1}, {"a": 1}], [{"a": 1}], id="distinct compares maps"),
        pytest.param("x.matches('^a+$')", "aaa", True, id="regular expressions match"),
        pytest.param("x.map(i, i * 2)", [1, 2], [2, 4], id="macros work"),
        pytest.param("{1: x}", "a", {"1": "a"}, id="keys become texts"),
        pytest.param("timestamp(x)", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z", id="time"),
        pytest.param("duration(x)", "90s", "90s", id="a duration is JSON as protobuf writes it"),
        pytest.param("duration(x)", "1.5s", "1.5s", id="a duration keeps its fraction"),
        pytest.param("x", None, None, id="null stays null"),
    ],
)
def test_an_expression_gives(source: str, x: Any, value: Any) -> None:
    got = evaluate(source, x=x)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("source", "x", "message"),
    [
        pytest.param("x.a", {}, "there is no 'a' (use .? and orValue", id="an absent key"),
        pytest.param("x.?a", {}, "add .orValue", id="a bare optional"),
        pytest.param("x / 0", 1, "divide by zero", id="a division by zero"),
        pytest.param("avg(x)", [], "avg() of an empty list", id="avg of nothing"),
        pytest.param("sum(x)", ["a"], "unsupported operand", id="sum of texts"),
        pytest.param("sort(x)", [1, "a"], "not supported", id="sort of a mixture"),
        pytest.param("json(x)", "{bad", "Expecting", id="text that is no JSON"),
        pytest.param("json(x)", "NaN", "JSON cannot hold", id="NaN out of parsed text"),
        pytest.param("json(x)", "[" * 5000, "recursion", id="text that nests without end"),
        pytest.param("json(x)", "[" * 70 + "]" * 70, "levels deep", id="JSON nested too deep"),
        pytest.param("json(x)", '"\\ud800"', "json(x)", id="half of a surrogate pair"),
        pytest.param("x", 2**70, "out of range", id="an int beyond 64 bits"),
        pytest.param("b'a'", None, "bytes", id="bytes"),
        pytest.param("1.0 / x", 0.0, "JSON cannot hold", id="infinity"),
        pytest.param(
            "x.map(a, x.map(b, x.filter(c, c == a)))", list(range(1000)), "budget", id="a bomb"
        ),
    ],
)
def test_an_expression_fails_with_a_sentence_on(source: str, x: Any, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(source, x=x)
    assert message in str(caught.value)
    assert str(caught.value).startswith(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nobody", "undeclared reference to 'nobody'", id="an unknown name"),
        pytest.param("x +", "Syntax error", id="a syntax error"),
        pytest.param("'a' +\n nobody", "line 2, column 2: undeclared", id="a second line"),
        pytest.param("frobnicate(x)", "undeclared reference to 'frobnicate'", id="a function"),
    ],
)
def test_an_expression_does_not_compile_with(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(source, NAMES)
    assert message in str(caught.value)


def test_a_long_expression_leaves_room_for_what_is_wrong_with_it() -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression("[" + "x, " * 900 + "nobody]", NAMES)
    assert "undeclared reference to 'nobody'" in str(caught.value)
    assert len(str(caught.value)) < 1024


@pytest.mark.parametrize(
    ("template", "x", "value"),
    [
        pytest.param("plain", None, "plain", id="text without expressions stays"),
        pytest.param("", None, "", id="empty text stays"),
        pytest.param("$(x)", [1, 2], [1, 2], id="one expression keeps a list"),
        pytest.param("$( x )", 3, 3, id="one expression keeps a number, blanks within or not"),
        pytest.param(" $(x)", 3, " 3", id="a blank outside makes it text"),
        pytest.param("a $(x) b $(x)", "q", "a q b q", id="texts stand without quotes in text"),
        pytest.param(
            "$(x).", {"b": 1, "a": [1, None]}, '{"a":[1,null],"b":1}.', id="JSON, keys sorted"
        ),
        pytest.param("$(x)!", True, "true!", id="booleans are JSON's"),
        pytest.param("$(x)!", "ä", "ä!", id="no letter is escaped"),
        pytest.param("$$(x)", 1, "$(x)", id="two dollars escape"),
        pytest.param("$$$(x)", 1, "$$(x)", id="a dollar before an escape stays"),
        pytest.param("$$(x) $(x)", 1, "$(x) 1", id="an escape does not reach the next"),
        pytest.param("$5 and $x and $", 1, "$5 and $x and $", id="other dollars are nothing"),
        pytest.param("\\$(x)", 1, "\\1", id="a backslash escapes nothing"),
        pytest.param("{{ x }} ${x}", 1, "{{ x }} ${x}", id="others' syntax is nothing"),
        pytest.param("$(size([x, (x)]))", 1, 2, id="parentheses nest"),
        pytest.param("$(x + ')')", "a", "a)", id="a parenthesis in a string is none"),
        pytest.param('$(x + "\\")")', "a", 'a")', id="an escaped quote ends no string"),
        pytest.param("$('''it's )''' + x)", "!", "it's )!", id="triple quotes hold quotes"),
        pytest.param("$(x)", "$(1 + 1)", "$(1 + 1)", id="data is never evaluated again"),
        pytest.param("a $(x)", "$(1 + 1) $$(", "a $(1 + 1) $$(", id="nor is it within text"),
    ],
)
def test_a_template_renders(template: str, x: Any, value: Any) -> None:
    assert render(template, x=x) == value


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("$()", "no expression", id="nothing in it"),
        pytest.param("$(x", "never closed", id="no end"),
        pytest.param("$(x + ')", "never closed", id="a string without an end"),
    ],
)
def test_a_template_is_refused_with(template: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        Template(template, NAMES)


def test_data_is_rendered_in_its_values_and_not_in_its_keys() -> None:
    data = {"$(x)": ["$(x)", 1, {"deep": "n=$(x)"}]}
    assert render_data(data, NAMES, lambda t: t.render({"x": 2})) == {
        "$(x)": [2, 1, {"deep": "n=2"}]
    }


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("steps.a.output.n", [("steps", "a", "output", False)]),
        ("steps.a.?output.orValue(1)", [("steps", "a", "output", False)]),
        ("steps.?a.output", [("steps", "a", "output", True)]),
        ("steps['a'].output", [("steps", "a", "output", False)]),
        ('steps["a"]["output"]', [("steps", "a", "output", False)]),
        ("has(arguments.t) && arguments.t > 1", [("arguments", "t", None, True)] * 2),
        ("'steps.a.output'", []),
        ("steps.map(s, s)", []),
    ],
)
def test_the_references_of(source: str, found: list[tuple[str, str, str | None, bool]]) -> None:
    assert [(r.root, r.name, r.field, r.tested) for r in references(source)] == found
