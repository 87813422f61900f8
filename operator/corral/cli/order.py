"""Moves the steps and keys of a manifest's text without writing the rest of it anew.

What YAML libraries write is never quite what was read: quotes, widths, and comments that stay with
the line above when what they are about moves. Here whole lines are moved, with the comments above
them, and of flow style (``{…}``, ``[…]``) the texts of the entries. The result is read again: where
it would mean anything else, the document stays as it was.
"""

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import yaml

from corral.api.workflow import NestedStep, Step
from corral.cli.manifests import ManifestSyntaxError, documents

_STEPS = {
    "Workflow": ("spec",),
    "WorkflowTemplate": ("spec",),
    "CronWorkflow": ("spec", "workflowSpec"),
}
_LONE_DASH = re.compile(r"( *)-[ \t]*([#&!].*)?$")


def ordered(file: str, text: str) -> str:
    """The text with its steps and their keys in order.

    Raises:
        ManifestSyntaxError: it is no YAML.
    """
    before = _meaning(file, text)
    better = text
    try:
        for level in _LEVELS:
            better = _pass(better, level)
        same = better == text or _meaning(file, better) == before
    except (yaml.YAMLError, ManifestSyntaxError):
        same = False
    return better if same else text


def _meaning(file: str, text: str) -> list[Any]:
    """What the documents say, steps by name where their order is free."""
    found = []
    for document in documents(file, text):
        data = document.data
        for steps in _step_lists(data):
            steps.sort(key=lambda step: str(step.get("name")) if isinstance(step, dict) else "")
        found.append(data)
    return found


def _step_lists(data: Any) -> Iterator[list[Any]]:
    spec = data
    for key in _STEPS.get(str(data.get("kind")), ()) if isinstance(data, dict) else ():
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or spec is data:
        return
    for key in ("steps", "onExit"):
        steps = spec.get(key)
        if isinstance(steps, list):
            for step in steps:
                nested = step.get("steps") if isinstance(step, dict) else None
                if isinstance(nested, list):
                    yield nested
            yield steps


@dataclass(frozen=True)
class _Entry:
    """A part of the text that can change places with its siblings: offsets, end not included."""

    start: int
    end: int


@dataclass(frozen=True)
class _Move:
    """Entries, and the order in which they should stand."""

    entries: tuple[_Entry, ...]
    order: tuple[int, ...]


def _pass(text: str, level: Callable[[str], Iterator[_Move]]) -> str:
    """All moves of one level; they don't overlap."""
    moves = sorted(level(text), key=lambda move: move.entries[0].start, reverse=True)
    for move in moves:
        pieces = [text[entry.start : entry.end] for entry in move.entries]
        gaps = [text[one.end : other.start] for one, other in pairwise(move.entries)]
        moved = [pieces[index] for index in move.order]
        middle = "".join(piece + gap for piece, gap in zip(moved, [*gaps, ""], strict=True))
        text = text[: move.entries[0].start] + middle + text[move.entries[-1].end :]
    return text


def _graphs(text: str) -> Iterator[tuple[yaml.SequenceNode, type[NestedStep], bool]]:
    """(a list of steps, their model, whether they are nested)."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            for document in _objects(node) if node is not None else ():
                yield from _of_object(document)
    finally:
        loader.dispose()


def _objects(node: yaml.Node) -> Iterator[yaml.Node]:
    items = _value(node, "items")
    kind = _value(node, "kind")
    if isinstance(kind, yaml.ScalarNode) and kind.value == "List":
        yield from items.value if isinstance(items, yaml.SequenceNode) else []
    else:
        yield node


def _of_object(node: yaml.Node) -> Iterator[tuple[yaml.SequenceNode, type[NestedStep], bool]]:
    kind = _value(node, "kind")
    path = _STEPS.get(kind.value) if isinstance(kind, yaml.ScalarNode) else None
    spec: yaml.Node | None = node
    for key in path or ():
        spec = _value(spec, key)
    if path is None or spec is None:
        return
    for key in ("steps", "onExit"):
        steps = _value(spec, key)
        if isinstance(steps, yaml.SequenceNode):
            yield steps, Step, False
            for step in steps.value:
                nested = _value(step, "steps")
                if isinstance(nested, yaml.SequenceNode):
                    yield nested, NestedStep, True


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                found: yaml.Node = value
                return found
    return None


def _keys(text: str, *, nested: bool) -> Iterator[_Move]:
    for steps, model, inside in _graphs(text):
        if inside is nested:
            for step in steps.value:
                if isinstance(step, yaml.MappingNode):
                    yield from _keys_of(text, step, _reference(model))


def _keys_of(text: str, step: yaml.MappingNode, reference: dict[str, int]) -> Iterator[_Move]:
    names = [key.value for key, _ in step.value]
    order = sorted(range(len(names)), key=lambda n: (reference.get(names[n], len(reference)), n))
    if order == list(range(len(names))):
        return
    pairs = [(key, value) for key, value in step.value]
    if step.flow_style:
        yield from _flow(text, [(key.start_mark, value.end_mark) for key, value in pairs], order)
    else:
        yield from _block(text, [(key, value) for key, value in pairs], order, dashes=False)


def _lists(text: str, *, nested: bool) -> Iterator[_Move]:
    for steps, _, inside in _graphs(text):
        if inside is not nested:
            continue
        order = _topological(steps)
        if order is None or order == list(range(len(order))):
            continue
        if steps.flow_style:
            yield from _flow(
                text, [(step.start_mark, step.end_mark) for step in steps.value], order
            )
        else:
            yield from _block(text, [(step, step) for step in steps.value], order, dashes=True)


_LEVELS: tuple[Callable[[str], Iterator[_Move]], ...] = (
    lambda text: _keys(text, nested=True),
    lambda text: _lists(text, nested=True),
    lambda text: _keys(text, nested=False),
    lambda text: _lists(text, nested=False),
)
"""From the inside out: what is inside moves along with what it is in."""


@cache
def _reference(model: type[NestedStep]) -> dict[str, int]:
    fields = [field.alias or name for name, field in model.model_fields.items()]
    return {name: index for index, name in enumerate(fields)}


def _topological(steps: yaml.SequenceNode) -> list[int] | None:
    """Each after what it depends on, else as they stand; None where that can't be."""
    names: dict[str, int] = {}
    for index, step in enumerate(steps.value):
        name = _value(step, "name")
        if not isinstance(name, yaml.ScalarNode) or name.value in names:
            return None
        names[name.value] = index
    waits: list[set[int]] = []
    for step in steps.value:
        listed = _value(step, "dependsOn")
        found = listed.value if isinstance(listed, yaml.SequenceNode) else []
        waits.append({names[one.value] for one in found if one.value in names})
    order: list[int] = []
    ready = [index for index, before in enumerate(waits) if not before]
    heapq.heapify(ready)
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for other, before in enumerate(waits):
            if index in before:
                before.discard(index)
                if not before:
                    heapq.heappush(ready, other)
    return order if len(order) == len(waits) else None


def _flow(
    text: str, marks: Sequence[tuple[yaml.Mark, yaml.Mark]], order: Sequence[int]
) -> Iterator[_Move]:
    entries = tuple(_Entry(start.index, end.index) for start, end in marks)
    gaps = [text[a.end : b.start] for a, b in pairwise(entries)]
    if not any("#" in gap for gap in gaps):  # whose comment it is nobody knows
        yield _Move(entries, tuple(order))


def _block(
    text: str, nodes: Sequence[tuple[yaml.Node, yaml.Node]], order: Sequence[int], *, dashes: bool
) -> Iterator[_Move]:
    """Whole lines; but of a step's first key only what stands behind the dash."""
    starts = [first.start_mark for first, _ in nodes]
    if dashes:
        starts_at = [_dash(text, mark.index) for mark in starts]
    else:
        starts_at = [mark.index for mark in starts]
    if None in starts_at:
        return
    begins = [index for index in starts_at if index is not None]
    columns = [index - (text.rfind("\n", 0, index) + 1) for index in begins]
    if len(set(columns)) != 1:
        return
    entries = []
    floor = 0
    for number, (_, last) in enumerate(nodes):
        begin = begins[number]
        if number or dashes:
            begin = _with_comments(text, floor, begin, columns[0])
        end = _last_content(text, last)
        limit = begins[number + 1] if number + 1 < len(nodes) else len(text)
        end = _with_inner_comments(text, end, limit, columns[0])
        entries.append(_Entry(begin, end))
        floor = end
    yield _Move(tuple(entries), tuple(order))


def _dash(text: str, index: int) -> int | None:
    """Where the dash of the item is whose first word is at ``index``: on its line, or above it."""
    line = text.rfind("\n", 0, index) + 1
    head = text[line:index]
    while not (found := _LONE_DASH.match(head)):
        if line == 0 or (head.strip() and not head.lstrip().startswith("#")):
            return None
        start = text.rfind("\n", 0, line - 1) + 1
        head, line = text[start : line - 1], start
    return line + found.end(1)


def _last_content(text: str, node: yaml.Node) -> int:
    """The end of the last line of a node's content; comments behind it are of that line."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end: int = node.end_mark.index
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        # It ends where the next line begins, behind the empty lines that may be part of it.
        header = text[node.start_mark.index : _line_end(text, node.start_mark.index)]
        if "+" in header.split("#")[0]:
            return end - 1 if text[end - 1] == "\n" else end
        end = len(text[:end].rstrip(" \t\r\n"))
    return _line_end(text, end)


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _with_comments(text: str, floor: int, begin: int, column: int) -> int:
    """The start of the comment lines right above, which are about what comes: not above a gap."""
    while True:
        line = text.rfind("\n", 0, begin) + 1
        if line == 0:
            return begin
        above = text.rfind("\n", 0, line - 1) + 1
        content = text[above : line - 1]
        indent = len(content) - len(content.lstrip(" "))
        if above < floor or not content.lstrip(" ").startswith("#") or indent != column:
            return begin
        begin = above + column


def _with_inner_comments(text: str, end: int, limit: int, column: int) -> int:
    """The end of the comment lines below that are indented more: they are about what is above."""
    while True:
        start = end + 1
        if start >= limit:
            return end
        stop = _line_end(text, start)
        content = text[start:stop]
        indent = len(content) - len(content.lstrip(" "))
        if stop > limit or not content.lstrip(" ").startswith("#") or indent <= column:
            return end
        end = stop
