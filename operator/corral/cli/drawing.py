"""A graph as text that others draw: Mermaid and Graphviz's DOT."""

from collections.abc import Iterator
from dataclasses import dataclass, field

_SHAPES = {
    "agent": (("(", ")"), "box", "rounded,filled"),
    "approval": (("{{", "}}"), "hexagon", "filled"),
    "wait": (("([", "])"), "box", "rounded,filled,dashed"),
    "workflow": (("[[", "]]"), "box3d", "filled"),
    "tool": (("[", "]"), "component", "filled"),
    "transform": (("[/", "/]"), "parallelogram", "filled"),
}
_COLOURS = {
    "Succeeded": ("#d3f0d3", "#2e7d32"),
    "Failed": ("#f8d0d0", "#c62828"),
    "Running": ("#cfe8fc", "#1565c0"),
    "Queued": ("#e3f2fd", "#64b5f6"),
    "Waiting": ("#fff3cd", "#b28704"),
    "Cancelled": ("#ffe0b2", "#e65100"),
    "Skipped": ("#eeeeee", "#9e9e9e"),
    "Omitted": ("#eeeeee", "#9e9e9e"),
    "Pending": ("#ffffff", "#757575"),
}
"""(inside, line) by phase."""


@dataclass(frozen=True)
class Box:
    """A step."""

    id: str
    """Unique; letters, digits, ``_`` and ``.`` only."""
    kind: str
    """A key of ``_SHAPES``, or ``steps`` where ``inside`` is."""
    lines: tuple[str, ...]
    """The label; the first is the name."""
    phase: str | None = None
    inside: tuple["Box", ...] = ()


@dataclass(frozen=True)
class Arrow:
    """One comes after another."""

    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Drawing:
    """Boxes, and arrows between them."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...] = ()
    _by_id: dict[str, Box] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_id.update({box.id: box for box in _all(self.boxes)})

    def box(self, id_: str) -> Box:
        """The box of that id."""
        return self._by_id[id_]

    def phases(self) -> list[str]:
        """The phases in it, sorted."""
        return sorted({box.phase for box in self._by_id.values() if box.phase})


def _all(boxes: tuple[Box, ...]) -> Iterator[Box]:
    for box in boxes:
        yield box
        yield from _all(box.inside)


def mermaid(drawing: Drawing) -> str:
    """A Mermaid flowchart."""
    lines = ["---", f"title: {_yaml_text(drawing.title)}", "---", "flowchart TD"]
    for box in drawing.boxes:
        lines += _mermaid_box(box, "  ")
    for arrow in drawing.arrows:
        label = f'|"{_mermaid_text(arrow.label)}"|' if arrow.label else ""
        lines.append(f"  {arrow.source} -->{label} {arrow.target}")
    for phase in drawing.phases():
        inside, line = _COLOURS[phase]
        lines.append(f"  classDef {phase} fill:{inside},stroke:{line},color:#111")
    for phase in drawing.phases():
        groups = [box.id for box in _all(drawing.boxes) if box.phase == phase and box.inside]
        if groups:
            lines.append(f"  class {','.join(groups)} {phase}")
    return "\n".join(lines) + "\n"


def _mermaid_box(box: Box, indent: str) -> Iterator[str]:
    text = "<br/>".join(_mermaid_text(line) for line in box.lines)
    if box.inside:
        yield f'{indent}subgraph {box.id}["{text}"]'
        for inner in box.inside:
            yield from _mermaid_box(inner, indent + "  ")
        yield f"{indent}end"
        return
    (opened, closed), *_ = _SHAPES[box.kind]
    phase = f":::{box.phase}" if box.phase else ""
    yield f'{indent}{box.id}{opened}"{text}"{closed}{phase}'


def _mermaid_text(text: str) -> str:
    """Mermaid has no escapes but entities, whose ``&`` it writes as ``#``."""
    return "".join(
        character if character.isalnum() or character in _HARMLESS else f"#{ord(character)};"
        for character in text
    )


_HARMLESS = " _-.,:=!?+*/()[]{}$'≤≥…"


def _yaml_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def dot(drawing: Drawing) -> str:
    """A digraph in DOT."""
    lines = [
        f"digraph {_dot_text(drawing.title)} {{",
        "  compound=true;",
        f"  label={_dot_text(drawing.title)};",
        '  labelloc="t";',
        '  node [fontname="Helvetica", fontsize=11, fillcolor="#ffffff"];',
        '  edge [fontname="Helvetica", fontsize=9];',
    ]
    for box in drawing.boxes:
        lines += _dot_box(box, "  ")
    for arrow in drawing.arrows:
        lines.append(f"  {_dot_arrow(drawing, arrow)}")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_box(box: Box, indent: str) -> Iterator[str]:
    text = _dot_text("\n".join(box.lines))
    inside, line = _COLOURS.get(box.phase or "", ("", ""))
    if box.inside:
        yield f"{indent}subgraph {_dot_text('cluster_' + box.id)} {{"
        yield f"{indent}  label={text};"
        if box.phase:
            yield f'{indent}  style="filled"; fillcolor="{inside}"; color="{line}";'
        for inner in box.inside:
            yield from _dot_box(inner, indent + "  ")
        yield f"{indent}}}"
        return
    _, shape, style = _SHAPES[box.kind]
    colours = f', fillcolor="{inside}", color="{line}"' if box.phase else ""
    yield f'{indent}{_dot_text(box.id)} [label={text}, shape={shape}, style="{style}"{colours}];'


def _dot_arrow(drawing: Drawing, arrow: Arrow) -> str:
    """DOT draws arrows between nodes only; those of a cluster are cut at its edge."""
    source, target = drawing.box(arrow.source), drawing.box(arrow.target)
    options = [f"label={_dot_text(arrow.label)}"] if arrow.label else []
    if source.inside:
        options.append(f"ltail={_dot_text('cluster_' + source.id)}")
    if target.inside:
        options.append(f"lhead={_dot_text('cluster_' + target.id)}")
    while source.inside:
        source = source.inside[-1]
    while target.inside:
        target = target.inside[0]
    shown = f" [{', '.join(options)}]" if options else ""
    return f"{_dot_text(source.id)} -> {_dot_text(target.id)}{shown};"


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
