"""What pydantic found wrong, in words that say what to write instead."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from corral.api.types import GEP2257, MONEY
from corral.cli.manifests import FieldPath

NAME_WORDS = (
    "is no valid name: lower-case letters, digits and '-', with a letter or digit at both ends"
)
_PATTERNS = {
    GEP2257: "is no duration such as 90s, 5m or 1h30m",
    MONEY: 'is no amount of US dollars such as "0.25", with at most six decimals',
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": NAME_WORDS,
    r"^[a-z][a-zA-Z0-9_]{0,62}$": "is no valid name here: a lower-case letter, then letters, "
    "digits and '_' (expressions say steps.NAME)",
    r"^https?://.+": "is no http:// or https:// address",
}
_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def explain(
    error: ValidationError, data: Any, known: Sequence[FieldPath]
) -> Iterator[tuple[FieldPath, str]]:
    """(field, message) per wrong field, in the order of the errors.

    Args:
        data: what was validated; tells fields from the names of union branches in the errors.
        known: paths of fields that exist, indices left out, for "did you mean".
    """
    found: dict[FieldPath, list[str]] = {}
    for details in error.errors(include_url=False):
        path = _path(details["loc"], data)
        found.setdefault(path, []).append(_message(details, path, known))
    for path, messages in found.items():
        if path[-1:] == ("tolerateFailures",):
            yield path, "must be a number of items or a percentage such as 20%"
        else:
            yield path, " or ".join(dict.fromkeys(messages))


def _path(location: tuple[int | str, ...], data: Any) -> FieldPath:
    path: list[int | str] = []
    for number, part in enumerate(location):
        here = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if here:
            data = data[part]
            path.append(part)
        elif number == len(location) - 1 and isinstance(data, dict) and isinstance(part, str):
            path.append(part)  # a field that is missing
    return tuple(path)


def _message(details: ErrorDetails, path: FieldPath, known: Sequence[FieldPath]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return "there is no such field" + _did_you_mean(path, known)
        case "missing":
            return "must be set"
        case "string_pattern_mismatch":
            words = _PATTERNS.get(context["pattern"])
            return f"{value!r} " + (words or f"does not match {context['pattern']}")
        case "literal_error" | "enum":
            return f"must be {context['expected']}, not {value!r}"
        case "string_too_long" | "string_too_short" | "too_long" | "too_short":
            return _length(kind, value, context)
        case "value_error":
            return str(context["error"])
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_describe(value)}"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]}, not {value}"
    return details["msg"][:1].lower() + details["msg"][1:]


def _length(kind: str, value: Any, context: dict[str, Any]) -> str:
    unit = "characters" if kind.startswith("string") else "items"
    if kind.endswith("short"):
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} {unit}"
    return f"must have at most {context['max_length']} {unit}; it has {len(value)}"


def _describe(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"{str(value).lower()} (text needs quotes)"
        case int() | float():
            return f"the number {value} (text needs quotes)"
        case str():
            return f"the text {value[:40]!r}"
        case list():
            return "a list"
        case dict():
            return "an object"
    return type(value).__name__


def _did_you_mean(path: FieldPath, known: Sequence[FieldPath]) -> str:
    plain = tuple(part for part in path if isinstance(part, str))
    if not plain:
        return ""
    siblings = [other[-1] for other in known if other[:-1] == plain[:-1]]
    return similar(plain[-1], [str(name) for name in siblings])


def similar(name: str, names: Sequence[str]) -> str:
    """``; did you mean 'x'?`` where something is spelt nearly so, else nothing."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    if not close:  # a difference in case or in underscores only
        close = [n for n in names if n.lower() == name.lower().replace("_", "")]
    return f"; did you mean {close[0]!r}?" if close else ""
