"""``corral get``."""

import time
from collections.abc import Callable
from typing import Any

from corral.api.crd.kinds import Kind
from corral.api.types import Usage
from corral.cli.cluster import Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.follow import console, show_end
from corral.cli.kinds import kind_named
from corral.cli.lookup import object_of
from corral.cli.output import as_list, tidy, write
from corral.cli.view import RunView, duration, short_cost
from corral.plan.times import parse

Column = tuple[str, Callable[[dict[str, Any]], object], bool]
"""A header, what of an object is shown, and whether only by ``-o wide``."""


def get(
    cluster: Cluster,
    kind: str,
    name: str | None,
    namespace: str | None,
    form: str,
    selector: str | None = None,
) -> Exit:
    """Shows one object, or all of a namespace, or (``namespace=None``) all there are."""
    if name is None and "/" in kind:
        kind, _, name = kind.partition("/")
    of = kind_named(kind)
    if name is not None and namespace is None:
        raise CliError("one object has one namespace: -n, not -A", Exit.USAGE)
    if name is not None and selector is not None:
        raise CliError("--selector is for several objects, not for one by name", Exit.USAGE)
    if form == "tree" and (of.name != "Workflow" or name is None):
        raise CliError("-o tree is for one Workflow: corral get workflow NAME -o tree", Exit.USAGE)
    found = (
        cluster.objects(of, namespace, selector)
        if name is None
        else [object_of(cluster, of, namespace or "", name)]
    )
    if form == "tree":
        show_end(console(), RunView.of(found[0]))
    elif form in ("json", "yaml"):
        write(tidy(found[0]) if name is not None else as_list(found), form)
    elif form == "name":
        for data in found:
            print(f"{of.singular}.corral.dev/{data['metadata']['name']}")
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


def _parameters(data: dict[str, Any]) -> list[str]:
    """A template's parameters; those that must be given with a star."""
    schema = data["spec"].get("parameters") or {}
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    return [
        f"{name}*" if name in required and "default" not in own else name
        for name, own in properties.items()
    ]


def _verdict(data: dict[str, Any]) -> object:
    decision = data["spec"].get("decision")
    return decision["verdict"] if decision else "waits"


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
    "WorkflowTemplate": [
        ("STEPS", lambda data: len(data["spec"].get("steps") or []), False),
        ("PARAMETERS", lambda data: ", ".join(_parameters(data)), False),
    ],
    "CronWorkflow": [
        ("SCHEDULE", _at("spec", "schedule"), False),
        ("ZONE", lambda data: data["spec"].get("timeZone", "UTC"), False),
        ("SUSPENDED", lambda data: "yes" if data["spec"].get("suspend") else "no", False),
        ("ACTIVE", lambda data: len((data.get("status") or {}).get("active") or []), False),
        ("NEXT", _at("status", "nextScheduleTime"), False),
        ("LAST", _at("status", "lastScheduleTime"), True),
        ("MISSED", _at("status", "missed"), True),
        ("MESSAGE", _ready("message"), True),
    ],
    "ApprovalRequest": [
        ("WORKFLOW", _at("spec", "workflowRef", "name"), False),
        ("STEP", _at("spec", "step"), False),
        ("VERDICT", _verdict, False),
        ("BY", _at("spec", "decision", "by"), False),
        ("TOOL", _at("spec", "tool", "name"), True),
        ("EXPIRES", _at("spec", "expiresAt"), True),
        ("MESSAGE", _at("spec", "prompt"), True),
    ],
}
