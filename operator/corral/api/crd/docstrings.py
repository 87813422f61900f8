"""The docstrings below a class's fields: what ``kubectl explain`` shows."""

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """By attribute name, with those of the base classes; each as one line of text."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("corral."):
            found |= _own(base)
    return found


def one_line(text: str) -> str:
    """Prose for people who see no markup: one line, no backquotes."""
    return " ".join(text.replace("``", "").split())


def _own(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            match following:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[statement.target.id] = one_line(text)
    return found
