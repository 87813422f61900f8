"""Manifests in files: what they hold, and where in the file each field stands."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from corral.cli.errors import CliError, Exit

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"
MAX_NODES = 1_000_000
"""YAML nodes of one document with its aliases spelt out; more is an attack or a mistake."""

FieldPath = tuple[str | int, ...]
_PATH_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_path(text: str) -> FieldPath:
    """``spec.steps[1].name`` as ``("spec", "steps", 1, "name")``."""
    return tuple(
        int(match[1]) if match[1] is not None else match[2] for match in _PATH_PART.finditer(text)
    )


def path_text(path: FieldPath) -> str:
    """The inverse of ``parse_path``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class ManifestSyntaxError(ValueError):
    """A file that is no YAML; ``line`` is where."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    """One object of a file."""

    file: str
    number: int
    """From 1, within the file."""
    data: Any
    node: yaml.Node | None = field(repr=False, default=None)
    """None where positions are unknown (JSON that is no YAML)."""

    def line(self, path: FieldPath = ()) -> int:
        """The line of a field, or of the nearest thing around it that is there."""
        node = self.node
        if node is None:
            return 1
        line: int = node.start_mark.line + 1
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            node, line = found
        return line


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item, item.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    return None


class _ManifestLoader(_Loader):  # type: ignore[misc]  # its base depends on the platform
    """YAML as Kubernetes reads it: dates stay text, and a key may stand once only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ManifestSyntaxError(
                    f"the key {key.value!r} stands here twice; first on line {seen[key.value]}",
                    line,
                )
            seen[key.value] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_ManifestLoader.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def read(paths: Sequence[str], *, recursive: bool = False) -> Iterator[tuple[str, str]]:
    """The files' names and texts; of a directory those that end as manifests do.

    Args:
        recursive: whether those of the directories below count, hidden ones aside.

    Raises:
        CliError: a file can't be read; exit code 2.
    """
    for path in paths:
        if path == STDIN:
            yield "stdin", sys.stdin.read()
            continue
        found = [Path(path)]
        if found[0].is_dir():
            found = sorted(_in_folder(found[0], recursive))
            if not found:
                raise CliError(f"{path}: no {', '.join(SUFFIXES)} files in there", Exit.USAGE)
        for file in found:
            yield str(file), _text(file)


def _in_folder(folder: Path, recursive: bool) -> Iterator[Path]:
    for file in folder.rglob("*") if recursive else folder.iterdir():
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix in SUFFIXES and file.is_file() and not hidden:
            yield file


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", newline="") as opened:  # line ends as they are
            return opened.read()
    except UnicodeDecodeError:
        raise CliError(f"{file}: is no UTF-8 text", Exit.USAGE) from None
    except OSError as error:
        raise CliError(f"{file}: {error.strerror or error}", Exit.USAGE) from None


def documents(file: str, text: str) -> Iterator[Document]:
    """The objects in a file's text; empty documents are passed over, Lists taken apart.

    Raises:
        ManifestSyntaxError: it is neither YAML nor JSON.
    """
    number = 0
    try:
        loader = _ManifestLoader(text)
        while loader.check_node():
            number += 1
            node = loader.get_node()
            _count(node, {})
            data = loader.construct_document(node)
            if data is not None:
                yield from _items(Document(file, number, data, node))
    except yaml.MarkedYAMLError as error:
        if not number and (as_json := _json(text)) is not None:
            yield Document(file, 1, as_json)
            return
        mark = error.problem_mark or error.context_mark
        raise ManifestSyntaxError(
            f"is no YAML: {error.problem or error.context}", mark.line + 1 if mark else 1
        ) from None
    except yaml.YAMLError as error:
        raise ManifestSyntaxError(f"is no YAML: {error}", 1) from None
    except RecursionError:
        raise ManifestSyntaxError("is nested too deeply", 1) from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _items(document: Document) -> Iterator[Document]:
    data = document.data
    is_list = isinstance(data, dict) and data.get("kind") == "List"
    if not is_list or not isinstance(data.get("items"), list):
        yield document
        return
    for index, item in enumerate(data["items"]):
        node = document.node
        for part in ("items", index):
            found = _child(node, part) if node is not None else None
            node = found[0] if found else None
        yield Document(document.file, document.number, item, node)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The document's nodes with aliases spelt out: a few lines can stand for billions."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise ManifestSyntaxError("an alias refers to what it is in", node.start_mark.line + 1)
        return known[id(node)]
    known[id(node)] = -1
    total = 1
    if isinstance(node, yaml.MappingNode):
        total += sum(_count(key, known) + _count(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(item, known) for item in node.value)
    if total > MAX_NODES:
        raise ManifestSyntaxError("the aliases in it stand for too much", node.start_mark.line + 1)
    known[id(node)] = total
    return total
