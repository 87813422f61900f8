"""CEL expressions and the ``$( … )`` templates that hold them.

A template is text with ``$( CEL )`` in it; ``$$(`` stands for a literal ``$(`` and nothing else is
an escape. A template that is one expression and nothing more keeps its value's type; inside text,
lists and maps render as compact JSON. What an expression yields is data: it is never evaluated
again. The language: https://github.com/google/cel-spec, with optional values (``?.``,
``orValue``), the strings and math extensions, and ``json``, ``sum``, ``avg``, ``sort``,
``distinct``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_math, ext_optional, ext_strings

from corral.plan.data import MAX_DEPTH


class ExpressionError(ValueError):
    """An expression that does not compile, or whose evaluation failed. The text is for people."""


def compact_json(value: object) -> str:
    """``value`` as JSON without blanks, keys in the order given (expressions sort theirs)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def whole_numbers(value: Any) -> Any:
    """``value`` with every whole float made an int, because JSON has one number type and CEL two.

    ``{"score": 2.0}`` and ``{"score": 2}`` are the same JSON; in CEL ``2.0 + 1`` is an error. Keys
    are sorted, as they are after every way through the API server or A2A: the same value makes the
    same text, wherever it came from.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: whole_numbers(value[key]) for key in sorted(value)}
    return value


def _sum(values: list[int | float]) -> int | float:
    return math.fsum(values) if any(isinstance(v, float) for v in values) else sum(values)


def _avg(values: list[Any]) -> float:
    if not values:
        raise ValueError("avg() of an empty list")
    return float(sum(values) / len(values))


def _distinct(values: list[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(json.dumps(value, sort_keys=True), value)
    return list(seen.values())


def _function(name: str, returns: cel.Type, takes: cel.Type, implementation: Any) -> Any:
    overload = cel.Overload(f"corral_{name}", returns, [takes], impl=implementation)
    return cel.FunctionDecl(name, [overload])


_FUNCTIONS = [
    _function("json", cel.Type.DYN, cel.Type.STRING, lambda text: whole_numbers(json.loads(text))),
    _function("sum", cel.Type.DYN, cel.Type.LIST, _sum),
    _function("avg", cel.Type.DOUBLE, cel.Type.LIST, _avg),
    _function("sort", cel.Type.LIST, cel.Type.LIST, sorted),
    _function("distinct", cel.Type.LIST, cel.Type.LIST, _distinct),
]


@lru_cache(maxsize=512)
def _environment(names: frozenset[str]) -> Any:
    return cel.NewEnv(
        variables=dict.fromkeys(names, cel.Type.DYN),
        extensions=[
            ext_optional.ExtOptional(),
            ext_strings.ExtStrings(),
            ext_math.ExtMath(),
            ext_bindings.ExtBindings(),
        ],
        functions=_FUNCTIONS,
    )


_STRING_LITERAL = re.compile(
    r"""[rRbB]{0,2}(\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""", re.DOTALL
)
_INDEXED = re.compile(r"""\[\s*\??\s*["']([A-Za-z_]\w*)["']\s*\]""")
_MEMBER = re.compile(
    r"(?<![\w.])(?P<root>[A-Za-z_]\w*)\s*\.\s*(?P<optional>\??)\s*(?P<name>[A-Za-z_]\w*)"
    r"(?P<call>\s*\()?(?:\s*\.\s*\??\s*(?P<field>[A-Za-z_]\w*))?"
)


@dataclass(frozen=True)
class Reference:
    """A use of ``root.name`` (and of its ``field``), such as ``steps.plan.output``."""

    root: str
    name: str
    field: str | None
    tested: bool
    """Whether the expression copes with its absence: ``?.`` or ``has()``."""


@lru_cache(maxsize=8192)
def references(source: str) -> tuple[Reference, ...]:
    """The members that an expression reads, those in string literals left out."""
    text = _STRING_LITERAL.sub("''", _INDEXED.sub(r".\1", source))
    found = []
    for match in _MEMBER.finditer(text):
        if match["call"]:
            continue
        tested = bool(match["optional"]) or bool(
            re.search(rf"has\(\s*{match['root']}\s*\.\s*{match['name']}\b", text)
        )
        found.append(Reference(match["root"], match["name"], match["field"], tested))
    return tuple(found)


@lru_cache(maxsize=8192)
def names_all(source: str, root: str) -> bool:
    """Whether an expression uses ``root`` other than by ``root.name``: all of it may be read."""
    text = _STRING_LITERAL.sub("''", _INDEXED.sub(r".\1", source))
    uses = len(re.findall(rf"(?<![\w.]){root}\b", text))
    return uses > sum(ref.root == root for ref in references(source))


def _first_line(message: str) -> str:
    line = message.split("\n", 1)[0].removeprefix("INVALID_ARGUMENT: ")
    line = re.sub(r"^ERROR: <input>:1:(\d+): ", r"column \1: ", line)
    line = line.removeprefix("ERROR: <input>:-1:-1: ")
    line = re.sub(r"^ERROR: <input>:(\d+):(\d+): ", r"line \1, column \2: ", line)
    return line.removesuffix(" (in container '')")


def shown(source: str) -> str:
    """An expression as a message quotes it: what is wrong with it has to fit in too."""
    return source if len(source) <= 200 else source[:199] + "…"


@dataclass(frozen=True)
class Expression:
    """One CEL expression over the variables ``names``.

    Raises:
        ExpressionError: at construction, where it does not compile.
    """

    source: str
    names: frozenset[str]

    def __post_init__(self) -> None:
        _ = self._program

    @cached_property
    def _program(self) -> Any:
        return _compile(self.source, self.names)

    @cached_property
    def uses(self) -> frozenset[str]:
        """The variables that it may read; the others need not be converted for it."""
        return frozenset(re.findall(r"[A-Za-z_]\w*", self.source)) & self.names

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """The value as JSON data.

        Raises:
            ExpressionError: something is absent, of the wrong type, or no JSON.
        """
        try:
            data = {name: variables[name] for name in self.uses if name in variables}
            result = self._program.eval(data=data)
            value = result.plain_value()
        except TypeError:
            raise ExpressionError(
                f"{shown(self.source)}: gives an optional value; add .orValue(…)"
            ) from None
        except RuntimeError as error:
            raise ExpressionError(f"{shown(self.source)}: {_first_line(str(error))}") from None
        if result.type() == cel.Type.ERROR:
            raise ExpressionError(f"{shown(self.source)}: {_reason(str(value))}")
        return _as_json(shown(self.source), value)


@lru_cache(maxsize=8192)
def _compile(source: str, names: frozenset[str]) -> Any:
    try:
        return _environment(names).compile(source)
    except RuntimeError as error:
        raise ExpressionError(f"{shown(source)}: {_first_line(str(error))}") from None


def _reason(error: str) -> str:
    """cel-cpp's error without its status code, and in words for the one that people meet most."""
    text = error.split(": ", 1)[-1]
    if missing := re.match(r'Key not found in map : "?([^"]*)"?', text):
        return f"there is no {missing[1]!r} (use .? and orValue where it may be absent)"
    return text


def _as_json(source: str, value: Any, depth: int = 0) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"{source}: gives {value}, which JSON cannot hold")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | dict) and depth == MAX_DEPTH:
        raise ExpressionError(f"{source}: is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, list):
        return [_as_json(source, item, depth + 1) for item in value]
    if isinstance(value, dict):  # cel-cpp's maps have another order in every process
        items = sorted(((_key(k), v) for k, v in value.items()), key=itemgetter(0))
        return {key: _as_json(source, item, depth + 1) for key, item in items}
    if isinstance(value, bytes | bytearray):
        raise ExpressionError(f"{source}: gives bytes, which JSON cannot hold")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.9f}".rstrip("0").rstrip(".") + "s"
    return str(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else compact_json(key)


@dataclass(frozen=True)
class Template:
    """Text with expressions in it.

    Raises:
        ExpressionError: at construction, where an expression does not compile or does not end.
    """

    source: str
    names: frozenset[str]

    def __post_init__(self) -> None:
        _ = self.parts

    @cached_property
    def parts(self) -> tuple[str | Expression, ...]:
        """Literal texts and expressions, in order."""
        return tuple(
            part if isinstance(part, str) else Expression(part[0], self.names)
            for part in _split(self.source)
        )

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return tuple(part for part in self.parts if isinstance(part, Expression))

    def render(self, variables: Mapping[str, Any]) -> Any:
        """The value of the only expression, typed; else the text.

        Raises:
            ExpressionError: an expression in it failed.
        """
        return self.render_with(lambda expression: expression.evaluate(variables))

    def render_with(self, evaluate: Callable[[Expression], Any]) -> Any:
        """``render``, with the expressions evaluated by the caller."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return evaluate(self.parts[0])
        return "".join(
            part if isinstance(part, str) else as_text(evaluate(part)) for part in self.parts
        )


def as_text(value: Any) -> str:
    """A value as it stands inside text: strings as they are, all else as compact JSON."""
    return value if isinstance(value, str) else compact_json(value)


@lru_cache(maxsize=8192)
def _split(source: str) -> tuple[str | tuple[str], ...]:
    """Literal strings, and one-tuples that hold an expression's source."""
    parts: list[str | tuple[str]] = []
    literal = ""
    position = 0
    while (start := source.find("$(", position)) >= 0:
        if start > 0 and source[start - 1] == "$" and start - 1 >= position:
            literal += source[position : start - 1] + "$("
            position = start + 2
            continue
        literal += source[position:start]
        end = _closing(source, start + 2)
        expression = source[start + 2 : end].strip()
        if not expression:
            raise ExpressionError("$() holds no expression")
        if literal:
            parts.append(literal)
            literal = ""
        parts.append((expression,))
        position = end + 1
    literal += source[position:]
    if literal or not parts:
        parts.append(literal)
    return tuple(parts)


def _closing(source: str, position: int) -> int:
    """Where the parenthesis opened before ``position`` closes, string literals passed over."""
    depth = 1
    start = position
    while position < len(source):
        character = source[position]
        if character in "\"'":
            literal = _STRING_LITERAL.match(source, position)
            if literal is None:
                break
            position = literal.end()
            continue
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
        position += 1
    raise ExpressionError(f"$({source[start : start + 40]}… is never closed")


def templates_in(data: Any, names: frozenset[str]) -> list[Template]:
    """The templates in all strings of a JSON value (keys are not templates)."""
    if isinstance(data, str):
        return [Template(data, names)]
    if isinstance(data, list):
        return [template for item in data for template in templates_in(item, names)]
    if isinstance(data, dict):
        return [template for item in data.values() for template in templates_in(item, names)]
    return []


def render_data(data: Any, names: frozenset[str], render: Callable[[Template], Any]) -> Any:
    """A JSON value with the templates in its strings rendered.

    Raises:
        ExpressionError: an expression in it failed.
    """
    if isinstance(data, str):
        return render(Template(data, names))
    if isinstance(data, list):
        return [render_data(item, names, render) for item in data]
    if isinstance(data, dict):
        return {key: render_data(item, names, render) for key, item in data.items()}
    return data
