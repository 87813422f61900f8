"""``corral get``."""

import time
from collections.abc import Callable
from typing import Any

from corral.api.crd.kinds import Kind
from corral.api.types import Usage
from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.follow import console, show_end
from corral.cli.kinds import kind_named
from corral.cli.output import as_list, tidy, write
from corral.cli.view import RunView, duration, short_cost
from corral.plan.times import parse

Column = tuple[str, Callable[[dict[str, Any]], object], bool]
"""A header, what of an object is shown, and whether only by ``-o wide``."""


def get(cluster: Cluster, kind: str, name: str | None, namespace: str | None, form: str) -> Exit:
    """Shows one object, or all of a namespace, or (``namespace=None``) all there are."""
    of = kind_named(kind)
    if name is not None and namespace is None:
        raise CliError("one object has one namespace: -n, not -A", Exit.USAGE)
    if form == "tree" and (of.name != "Workflow" or name is None):
        raise CliError("-o tree is for one Workflow: corral get workflow NAME -o tree", Exit.USAGE)
    try:
        found = (
            cluster.objects(of, namespace)
            if name is None
            else [cluster.get(of, namespace or "", name)]
        )
    except ApiError as error:
        if error.status == 404 and error.details.get("name"):
            raise CliError(f"there is no {of.name} {name!r} in namespace {namespace!r}") from None
        raise
    if form == "tree":
        show_end(console(), RunView.of(found[0]))
    elif form in ("json", "yaml"):
        write(tidy(found[0]) if name is not None else as_list(found), form)
    elif not found:
        where = f"in namespace {namespace!r}" if namespace else "in any namespace"
        print(f"there are no {of.plural} {where}")
    else:
        wide, every = form == "wide", namespace is None
        for line in table(of, found, time.time(), wide=wide, namespaces=every):
            print(line)
    return Exit.OK


def table(
    kind: Kind, objects: list[dict[str, Any]], now: float, *, wide: bool, namespaces: bool
) -> list[str]:
    """A header and a line per object, as kubectl has them."""
    columns: list[Column] = [("NAME", lambda data: data["metadata"]["name"], False)]
    if namespaces:
        columns.insert(0, ("NAMESPACE", lambda data: data["metadata"]["namespace"], False))
    columns += [column for column in COLUMNS[kind.name] if wide or not column[2]]
    age = ("AGE", lambda data: _age(data, now), False)
    messages = [column for column in columns if column[0] == "MESSAGE"]
    columns = [column for column in columns if column[0] != "MESSAGE"] + [age, *messages]
    ordered = sorted(
        objects, key=lambda data: (data["metadata"].get("namespace", ""), data["metadata"]["name"])
    )
    cells = [[header for header, _, _ in columns]]
    cells += [[_cell(value(data)) for _, value, _ in columns] for data in ordered]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else " ".join(str(value).split())


def _age(data: dict[str, Any], now: float) -> str:
    created = data["metadata"].get("creationTimestamp")
    return duration(float(int(max(0.0, now - parse(created))))) if created else ""


def _at(*path: str) -> Callable[[dict[str, Any]], object]:
    def value(data: dict[str, Any]) -> object:
        found: Any = data
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return value


def _usage(data: dict[str, Any]) -> Usage | None:
    usage = (data.get("status") or {}).get("usage")
    return Usage.model_validate(usage) if usage else None


def _tokens(data: dict[str, Any]) -> object:
    usage = _usage(data)
    return f"{usage.input_tokens + usage.output_tokens:,}" if usage else None


def _ready(field: str) -> Callable[[dict[str, Any]], object]:
    def value(data: dict[str, Any]) -> object:
        conditions = (data.get("status") or {}).get("conditions") or []
        return next((c.get(field) for c in conditions if c.get("type") == "Ready"), None)

    return value


def _phase(data: dict[str, Any]) -> object:
    from corral.cli.tree import phase_text

    return phase_text(RunView.of(data))


COLUMNS: dict[str, list[Column]] = {
    "Workflow": [
        ("PHASE", _phase, False),
        ("PROGRESS", _at("status", "progress"), False),
        ("COST", lambda data: short_cost(_usage(data)), False),
        ("TOKENS", _tokens, True),
        ("MESSAGE", _at("status", "message"), True),
    ],
    "Agent": [
        ("READY", _ready("status"), False),
        ("MODEL", _at("spec", "modelRef", "name"), False),
        ("COST", lambda data: short_cost(_usage(data)), False),
        ("TYPE", _at("spec", "type"), True),
        ("MESSAGE", _ready("message"), True),
    ],
    "AgentPool": [
        ("AGENT", _at("spec", "agentRef", "name"), False),
        ("READY", _at("status", "readyReplicas"), False),
        ("BUSY", _at("status", "busyReplicas"), False),
        ("QUEUED", _at("status", "queuedSteps"), False),
        ("DESIRED", _at("status", "desiredReplicas"), False),
        ("RUNNING", _at("status", "runningSteps"), True),
        ("MESSAGE", _ready("message"), True),
    ],
    "Model": [
        ("PROVIDER", _at("spec", "provider"), False),
        ("MODEL", _at("spec", "name"), False),
        ("CIRCUIT", _at("status", "circuit"), False),
        ("BASEURL", _at("spec", "baseURL"), True),
        ("MESSAGE", _ready("message"), True),
    ],
}
