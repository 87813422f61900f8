"""The API reference: a table for every kind, and for every object that it consists of."""

from collections.abc import Iterator

from corral.api.crd.kinds import GROUP, KINDS, VERSION, Kind
from corral.api.crd.schema import (
    ANY_FIELDS,
    INT_OR_STRING,
    REFERENCE,
    RULES,
    Node,
    structural,
)
from corral.api.types import GEP2257, MONEY

HEADER = f"""\
<!-- Generated from operator/corral/api, do not edit: make generate -->
# API reference

API group `{GROUP}`, version `{VERSION}`. All kinds are namespaced, and
`kubectl get corral` lists them all. `kubectl explain` shows the same texts.

- *duration* is text such as `250ms`, `90s`, `5m` or `1h30m` (GEP-2257).
- *money* is US dollars as decimal text, to a millionth: `"0.25"`.
- *JSON* is any value, *JSON object* an object with any fields.
- References name objects of the same namespace.

Beside the rules below, admission policies (`manifests/admission`) see to it that

- only the operator's account writes a status,
- a started Workflow is not edited, but for `suspend`, `shutdown`, `parallelism`, `budget`,
  `activeDeadline`, `deadline`, `ttlAfterFinished` and `priorityClassName`,
- the annotation `{GROUP}/created-by` of a Workflow, if there is one, names whoever created it,
  and never changes; that of a CronWorkflow names whoever last changed its `workflowSpec`,
- an ApprovalRequest is decided by whom it names, in their own name.
"""
TABLE = "| Field | Type | Default | Required | Description | Rules |\n|---|---|---|---|---|---|\n"
NAMED_PATTERNS = {GEP2257: "duration", MONEY: "money"}
BOUNDS = (
    ("minLength", "maxLength", "character"),
    ("minimum", "maximum", ""),
    ("minItems", "maxItems", "item"),
    ("minProperties", "maxProperties", "field"),
)


def reference() -> str:
    """The whole document, as Markdown."""
    specs = structural([kind.spec for kind in KINDS])
    statuses = structural([kind.status for kind in KINDS if kind.status])
    objects = {**statuses, **specs}
    use = {kind.name: list(_reachable(kind, objects)) for kind in KINDS}
    shared = {name for name in objects if sum(name in names for names in use.values()) > 1}
    parts = [HEADER]
    for kind in KINDS:
        parts.append(_kind(kind))
        parts += [
            _object(name, objects[name], objects, defaults=name in specs)
            for name in use[kind.name]
            if name not in shared
        ]
    parts.append("## Shared objects\n")
    parts += [
        _object(name, objects[name], objects, defaults=name in specs)
        for name in sorted(shared)
        if "properties" in objects[name]
    ]
    return "\n".join(parts)


def _reachable(kind: Kind, objects: dict[str, Node]) -> Iterator[str]:
    """Names of the objects of a kind, each after the first that refers to it."""
    seen: set[str] = set()

    def walk(name: str) -> Iterator[str]:
        if name not in seen and "properties" in objects[name]:
            seen.add(name)
            yield name
            for child in objects[name]["properties"].values():
                for target in _references(child):
                    yield from walk(target)

    yield from walk(kind.spec.__name__)
    if kind.status:
        yield from walk(kind.status.__name__)


def _references(node: Node) -> Iterator[str]:
    if "$ref" in node:
        yield node["$ref"].removeprefix(REFERENCE)
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from _references(node[key])


def _kind(kind: Kind) -> str:
    short = f"`kubectl get {kind.short}`"
    lines = [
        f"## {kind.name}",
        "",
        kind.description,
        "",
        f"Short name: {short}. Spec: {_link(kind.spec.__name__)}, "
        + (f"status: {_link(kind.status.__name__)}." if kind.status else "no status.")
        + (" It has a scale subresource." if kind.scale else ""),
        "",
        "Rules:",
        "",
        *(f"- {message}" for _, message in kind.rules),
    ]
    return "\n".join(lines) + "\n"


def _object(name: str, node: Node, objects: dict[str, Node], *, defaults: bool) -> str:
    required = node.get("required", [])
    rows = [
        f"| `{field}` | {_type(child, objects)} | {_default(child) if defaults else ''} "
        f"| {'yes' if field in required else ''} | {_escape(child['description'])} "
        f"| {_escape(_rules(child, objects))} |"
        for field, child in node["properties"].items()
    ]
    text = f"### {name}\n\n{node['description']}\n\n{TABLE}" + "\n".join(rows) + "\n"
    rules = [rule["message"] for rule in node.get(RULES, [])]
    if "oneOf" in node:
        rules.append(
            "exactly one of " + ", ".join(f"`{one['required'][0]}`" for one in node["oneOf"])
        )
    if rules:
        text += "\nRules:\n\n" + "".join(f"- {rule}\n" for rule in rules)
    return text


def _type(node: Node, objects: dict[str, Node]) -> str:
    match node:
        case {"$ref": str(reference)}:
            name = reference.removeprefix(REFERENCE)
            return _link(name) if "properties" in objects[name] else _type(objects[name], objects)
        case {"pattern": str(pattern)} if pattern in NAMED_PATTERNS:
            return NAMED_PATTERNS[pattern]
        case {"type": "array", "items": items}:
            return f"list of {_type(items, objects)}"
        case {"type": "object", "additionalProperties": values}:
            return f"map of {_type(values, objects)}"
        case {"type": "object"} if node.get(ANY_FIELDS):
            return "JSON object"
        case {"format": "date-time"}:
            return "time"
        case {"type": str(name)}:
            return name
    return "integer or string" if node.get(INT_OR_STRING) else "JSON"


def _default(node: Node) -> str:
    if "default" not in node:
        return ""
    default = node["default"]
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _rules(node: Node, objects: dict[str, Node]) -> str:
    """Bounds, values and messages, of a list's or a map's members too."""
    found = []
    target = node
    if "$ref" in node:
        target = objects[node["$ref"].removeprefix(REFERENCE)]
    named = target.get("pattern") in NAMED_PATTERNS
    if "enum" in target:
        found.append("one of " + ", ".join(f"`{word}`" for word in target["enum"]))
    elif not named and target.get("format") != "date-time":
        found += _bounds(target)
        if "pattern" in target:
            found.append(f"matches `{target['pattern']}`")
    found += [rule["message"] for rule in node.get(RULES, [])]
    for key in ("items", "additionalProperties"):
        if key in target and (members := _rules(target[key], objects)):
            found.append(f"each: {members}")
    return "; ".join(found)


def _bounds(node: Node) -> Iterator[str]:
    """``1 to 63 characters``, ``at least 0``."""
    for low, high, unit in BOUNDS:
        match node.get(low), node.get(high):
            case None, None:
                continue
            case None, most:
                text, last = f"at most {most}", most
            case least, None:
                text, last = f"at least {least}", least
            case least, most:
                text, last = f"{least} to {most}", most
        yield f"{text} {unit}{'' if last == 1 else 's'}" if unit else text


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
