"""Objects of corral's kinds, read from documents as strictly as an author would wish."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from corral.api.crd.kinds import GROUP, KINDS, VERSION, Kind
from corral.api.types import Resource
from corral.cli.findings import Finding, finding
from corral.cli.manifests import Document
from corral.cli.rules import broken_rules, field_paths
from corral.cli.words import NAME_WORDS, explain, similar

API_VERSION = f"{GROUP}/{VERSION}"
BY_NAME = {kind.name: kind for kind in KINDS}
MAX_OBJECT = 3 * 1024 * 1024 // 2
"""Bytes that the API server takes."""
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9][-a-z0-9]*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_MAX_NAME = 63
_SUFFIX = 5
"""Characters that the API server adds to a generateName."""


@dataclass(frozen=True)
class Loaded:
    """An object of a file, of a kind of corral's whose spec could be read."""

    document: Document
    kind: Kind
    name: str
    """For a generateName, that."""
    namespace: str | None
    spec: Resource

    @property
    def key(self) -> tuple[str, str, str]:
        """What there can be only one of."""
        return self.kind.name, self.namespace or "", self.name

    @property
    def generated(self) -> bool:
        """Whether the API server makes up the name."""
        return "name" not in self.document.data["metadata"]


def is_foreign(data: Any) -> bool:
    """Whether it is a proper object of somebody else's kind (a Secret, a Deployment)."""
    return (
        isinstance(data, dict)
        and isinstance(data.get("apiVersion"), str)
        and isinstance(data.get("kind"), str)
        and data["apiVersion"].split("/")[0] != GROUP
    )


def load(document: Document) -> tuple[Loaded | None, list[Finding]]:
    """The object, if its spec can be read, and what is wrong with it by itself."""
    data = document.data
    if not isinstance(data, dict):
        return None, [finding(document, (), "must be an object with apiVersion, kind and metadata")]
    wrong = list(_type_problems(document, data))
    if wrong:
        return None, wrong
    kind = BY_NAME[data["kind"]]
    found = list(_metadata_problems(document, data))
    found += [
        finding(document, (key,), "there is no such field" + similar(str(key), _TOP))
        for key in data
        if key not in _TOP
    ]
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        return None, [*found, finding(document, (), f"holds what JSON can't: {error}")]
    if len(text.encode()) > MAX_OBJECT:
        size = f"{len(text.encode()):,} bytes; the API server takes at most {MAX_OBJECT:,}"
        return None, [*found, finding(document, (), f"has {size}")]
    if "spec" not in data:
        return None, [*found, finding(document, ("spec",), "must be set")]
    try:
        spec = kind.spec.model_validate_json(
            json.dumps(data["spec"]), strict=True, extra="forbid", by_alias=True, by_name=False
        )
    except ValidationError as error:
        known = [path[1:] for path in field_paths(kind.name) if path[:1] == ("spec",) and path[1:]]
        for path, message in explain(error, data["spec"], known):
            found.append(finding(document, ("spec", *path), message))
        return None, found
    if any(f.field.startswith("metadata") for f in found):
        return None, found
    metadata = data["metadata"]
    loaded = Loaded(
        document,
        kind,
        metadata.get("name") or metadata["generateName"],
        metadata.get("namespace"),
        spec,
    )
    whole = {"metadata": {"name": loaded.name, **metadata}, "spec": spec.to_json()}
    found += [finding(document, path, message) for path, message in broken_rules(kind, whole)]
    return loaded, found


def _type_problems(document: Document, data: dict[str, Any]) -> Iterator[Finding]:
    for key in ("apiVersion", "kind"):
        if not isinstance(data.get(key), str) or not data[key]:
            yield finding(document, (key,), "must be set, to a string")
            return
    if data["kind"] not in BY_NAME:
        kinds = ", ".join(BY_NAME)
        hint = similar(data["kind"], list(BY_NAME)) or f"; there are {kinds}"
        yield finding(document, ("kind",), f"{GROUP} has no kind {data['kind']!r}{hint}")
    elif data["apiVersion"] != API_VERSION:
        yield finding(
            document, ("apiVersion",), f"must be {API_VERSION}, not {data['apiVersion']!r}"
        )


def _metadata_problems(document: Document, data: dict[str, Any]) -> Iterator[Finding]:
    metadata = data.get("metadata")
    if not isinstance(metadata, dict):
        yield finding(document, ("metadata",), "must be set, to an object with a name")
        return
    if "name" in metadata:
        yield from _name_problems(document, "name", metadata["name"], _NAME, _MAX_NAME)
    elif "generateName" in metadata:
        prefix = metadata["generateName"]
        limit = _MAX_NAME - _SUFFIX
        yield from _name_problems(document, "generateName", prefix, _PREFIX, limit)
    else:
        yield finding(document, ("metadata", "name"), "must be set")
    if "namespace" in metadata:
        namespace = metadata["namespace"]
        yield from _name_problems(document, "namespace", namespace, _NAME, _MAX_NAME)
    for field in ("labels", "annotations"):
        values = metadata.get(field)
        if values is None:
            continue
        if not isinstance(values, dict):
            yield finding(document, ("metadata", field), "must be an object of strings")
            continue
        for key, value in values.items():
            path = ("metadata", field, str(key))
            if not isinstance(value, str):
                yield finding(document, path, f"must be a string: put {value!r} into quotes")
            elif field == "labels" and (len(value) > 63 or not _LABEL_VALUE.fullmatch(value)):
                yield finding(document, path, f"{value!r} is no valid label value")


def _name_problems(
    document: Document, field: str, name: Any, pattern: re.Pattern[str], limit: int
) -> Iterator[Finding]:
    path = ("metadata", field)
    if not isinstance(name, str):
        yield finding(document, path, f"must be a string: put {name!r} into quotes")
    elif len(name) > limit:
        yield finding(document, path, f"must have at most {limit} characters; it has {len(name)}")
    elif not pattern.fullmatch(name):
        yield finding(document, path, f"{name!r} {NAME_WORDS}")
