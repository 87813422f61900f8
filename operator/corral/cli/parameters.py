"""Arguments that a person gives a run: read, given their types, and checked before they are sent.

A value stands as text where the parameter's schema takes text, else it is read as JSON. Where there
is no schema, the argument's present value tells: text stays text, all else is JSON.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.cli.errors import CliError, Exit
from corral.cli.words import similar

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def pairs(given: Iterable[str], option: str) -> Iterator[tuple[str, str]]:
    """``NAME=VALUE`` taken apart.

    Raises:
        CliError: one is of another form, or there are two of a name.
    """
    seen: set[str] = set()
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise CliError(f"{option} {text!r}: must be NAME=VALUE", Exit.USAGE)
        if name in seen:
            raise CliError(f"{option} {name}: is given twice", Exit.USAGE)
        seen.add(name)
        yield name, value


@dataclass(frozen=True)
class Given:
    """What was given on the command line, untyped, and in a file, typed."""

    texts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, parameters: list[str] | None, file: str | None) -> "Given":
        """From the options ``-p`` and ``--parameter-file``.

        Raises:
            CliError: an option is of the wrong form, or the file can't be read.
        """
        return cls(dict(pairs(parameters or [], "-p")), _file(file) if file else {})

    def __bool__(self) -> bool:
        return bool(self.texts or self.values)

    @property
    def names(self) -> frozenset[str]:
        """The parameters that were given."""
        return frozenset([*self.texts, *self.values])


def _file(path: str) -> dict[str, Any]:
    from corral.cli.manifests import ManifestSyntaxError, documents, read

    ((file, text),) = read([path])
    try:
        found = [document.data for document in documents(file, text)]
    except ManifestSyntaxError as error:
        raise CliError(f"{file}:{error.line}: {error}", Exit.USAGE) from None
    if not found:
        return {}
    if len(found) > 1 or not isinstance(found[0], dict):
        raise CliError(f"{file}: must hold one object of parameters", Exit.USAGE)
    return found[0]


def arguments(
    given: Given, present: Mapping[str, Any] | None, schema: Mapping[str, Any] | None, spec: Any
) -> dict[str, Any]:
    """The run's arguments: those present, with what was given in their place.

    Args:
        present: the arguments that the Workflow has.
        schema: the template's ``parameters``; None where no template is named.
        spec: where there is no schema, what may refer to the arguments.

    Raises:
        CliError: a parameter is unknown or breaks the schema; exit code 4. All are told at once.
    """
    merged = dict(present or {}) | dict(given.values)
    if schema is None:
        _known_by_use(given, present or {}, spec)
        for name, text in given.texts.items():
            is_text = isinstance((present or {}).get(name), str)
            merged[name] = text if is_text else _json_or_text(text)
        return merged
    properties = schema.get("properties") or {}
    _declared(merged | dict(given.texts), schema, properties)
    for name, text in given.texts.items():
        merged[name] = _typed(text, schema, properties.get(name, {}))
    problems = list(problems_of(merged, schema))
    if problems:
        raise CliError("nothing was sent:\n" + "\n".join(problems), Exit.REFUSED)
    return merged


def arguments_used(spec: Any) -> frozenset[str]:
    """The arguments that a spec's expressions may read."""
    found = re.findall(r"\barguments\s*\.\s*\??\s*([A-Za-z_]\w*)", json.dumps(spec))
    return frozenset(found)


def takes_others(schema: Mapping[str, Any]) -> bool:
    """Whether a schema says that there may be parameters that it does not name."""
    return bool(schema.get("additionalProperties") or schema.get("patternProperties"))


def _known_by_use(given: Given, present: Mapping[str, Any], spec: Any) -> None:
    known = arguments_used(spec) | set(present)
    for name in [*given.values, *given.texts]:
        if name not in known:
            raise CliError(_unknown(name, known, "the Workflow uses"), Exit.REFUSED)


def _declared(
    names: Iterable[str], schema: Mapping[str, Any], properties: Mapping[str, Any]
) -> None:
    """Names that no property has are mistakes, unless the schema says that it takes others."""
    if takes_others(schema):
        return
    for name in names:
        if name not in properties:
            raise CliError(_unknown(name, properties, "there are"), Exit.REFUSED)


def _unknown(name: str, known: Iterable[str], there_are: str) -> str:
    names = sorted(known)
    listed = f"; {there_are} {', '.join(names)}" if names else f"; {there_are} none"
    return f"there is no parameter {name!r}{similar(name, names) or listed}"


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _typed(text: str, schema: Mapping[str, Any], own: Any) -> Any:
    """Text if the schema takes it, else JSON if it takes that, else what it comes closer to."""
    from referencing.exceptions import Unresolvable

    try:
        return _closest(text, _validator(schema).evolve(schema=own), own)
    except Unresolvable:
        return _json_or_text(text)  # problems_of says what is wrong


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An empty registry: the default one would fetch remote references.
    return Draft202012Validator(schema, registry=Registry())


def _closest(text: str, validator: Any, own: Any) -> Any:
    if validator.is_valid(text):
        return text
    value = _json_or_text(text)
    if isinstance(value, str) or validator.is_valid(value):
        return value
    is_of_a_wrong_type = any(error.validator == "type" for error in validator.iter_errors(value))
    return text if is_of_a_wrong_type and _takes_text(own) else value


def _takes_text(own: Any) -> bool:
    kinds = own.get("type") if isinstance(own, dict) else None
    return kinds is None or kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


def problems_of(values: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """What breaks the schema once the defaults are filled in, as the operator will do."""
    from jsonschema import Draft202012Validator, SchemaError
    from referencing.exceptions import Unresolvable

    properties = schema.get("properties") or {}
    whole = {
        name: own["default"]
        for name, own in properties.items()
        if isinstance(own, dict) and "default" in own
    } | dict(values)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as wrong:
        yield f"the template's parameters are no JSON Schema: {wrong.message}"
        return
    for name in schema.get("required") or []:
        if name not in whole:
            yield f"parameter {name!r}: must be given: -p {name}=…"
    try:
        errors = sorted(_validator(schema).iter_errors(whole), key=lambda e: e.json_path)
    except Unresolvable as unresolvable:
        yield f"the template's parameters: the reference {unresolvable.ref} does not resolve"
        return
    for error in errors:
        if error.validator == "required" and not error.path:
            continue
        first, *rest = [*error.path] or [""]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
        about = f"parameter {str(first) + where!r}: " if first != "" else ""
        yield about + error.message
