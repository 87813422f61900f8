"""The expression reference gives what it says."""

import json

import pytest

from corral.plan.expressions import Expression, ExpressionError, Template
from tests.unit.docs.pages import blocks, tables

PAGE = "docs/concepts/expressions.md"
VALUES = json.loads(next(block.text for block in blocks("json") if block.page == PAGE))
NAMES = frozenset(VALUES)


def rows(header: str) -> list[object]:
    return [
        pytest.param(source.strip("`"), shown.strip("`"), id=source)
        for source, shown in tables(PAGE, header)
    ]


@pytest.mark.parametrize(("source", "shown"), rows("| Text | Gives |"))
def test_a_text_gives(source: str, shown: str) -> None:
    assert Template(source, NAMES).render(VALUES) == json.loads(shown)


@pytest.mark.parametrize(("source", "shown"), rows("| Expression | Gives |"))
def test_an_expression_gives(source: str, shown: str) -> None:
    got = Expression(source, NAMES).evaluate(VALUES)
    assert got == json.loads(shown)
    assert type(got) is type(json.loads(shown))


@pytest.mark.parametrize(("source", "shown"), rows("| Expression | Fails with |"))
def test_an_expression_fails(source: str, shown: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression(source, NAMES).evaluate(VALUES)
    assert shown in str(caught.value)
