"""What is wrong with a file, in the form ``FILE:LINE: Kind/name: field: message``."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from corral.cli.manifests import Document, FieldPath, path_text


@dataclass(frozen=True)
class Finding:
    """A problem, or a warning: something that may be right in the cluster."""

    file: str
    line: int
    document: int
    kind: str | None
    name: str | None
    field: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}"]
        if self.warning:
            parts.append("warning")
        if self.kind:
            parts.append(f"{self.kind}/{self.name or '?'}")
        if self.field:
            parts.append(self.field)
        return ": ".join([*parts, self.message])

    def to_json(self) -> dict[str, Any]:
        """For ``-o json``."""
        return {
            "file": self.file,
            "line": self.line,
            "document": self.document,
            "kind": self.kind,
            "name": self.name,
            "field": self.field or None,
            "severity": "warning" if self.warning else "error",
            "message": self.message,
        }


def finding(document: Document, path: FieldPath, message: str, *, warning: bool = False) -> Finding:
    """A finding about a field of a document."""
    data = document.data if isinstance(document.data, dict) else {}
    metadata = data.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    kind, name = data.get("kind"), names.get("name", names.get("generateName"))
    return Finding(
        file=document.file,
        line=document.line(path),
        document=document.number,
        kind=kind if isinstance(kind, str) else None,
        name=name if isinstance(name, str) else None,
        field=path_text(path),
        message=message,
        warning=warning,
    )


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are no warnings."""
    return [found for found in findings if not found.warning]


def count(number: int, noun: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
