"""Figures, what they are held against, and how both are shown."""

import json
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A number that was measured."""

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    """The target, where less is better."""
    least: float | None = None
    """The target, where more is better."""
    must: bool = False
    """Whether the target is about being right, not about being fast."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.most is None and self.least is None:
            return None
        below = self.most is None or self.value <= self.most
        return below and (self.least is None or self.value >= self.least)

    @property
    def target(self) -> str:
        """The target in words."""
        words = [f"<= {self.most:g}"] if self.most is not None else []
        return " ".join([*words, *([f">= {self.least:g}"] if self.least is not None else [])])


@dataclass
class Part:
    """What a part of the benchmark found."""

    name: str
    options: str = ""
    """The sizes that were asked for, as on the command line."""
    figures: list[Figure] = field(default_factory=list)
    details: Json = field(default_factory=dict)
    """What explains the figures; its shape is the part's own."""
    error: str | None = None
    """Why it was given up."""
    seconds: float = 0.0
    load: float = 0.0
    """The machine's load average of one minute, when the part began."""

    @property
    def command(self) -> str:
        """What makes these figures again."""
        return f"make bench BENCH_ARGS='{f'--only {self.name} {self.options}'.strip()}'"

    @property
    def right(self) -> bool:
        """Whether it came to its end, and nothing was lost or done twice."""
        return self.error is None and all(f.met is not False for f in self.figures if f.must)

    def to_json(self) -> Json:
        """The part as the report has it."""
        found: Json = {
            "command": self.command,
            "seconds": round(self.seconds, 1),
            "loadAverage": round(self.load, 2),
        }
        if self.error is not None:
            found["error"] = self.error
        found["figures"] = [
            {
                "name": figure.name,
                "value": round(figure.value, 3),
                "unit": figure.unit,
                "target": figure.target or None,
                "met": figure.met,
            }
            for figure in self.figures
        ]
        return {**found, "details": self.details}


def report(parts: list[Part], sizes: Json, version: str) -> Json:
    """The whole report. ``version``: the API server's."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "apiServer": version,
        },
        "sizes": sizes,
        "parts": {part.name: part.to_json() for part in parts},
    }


def table(parts: list[Part]) -> str:
    """The figures for people."""
    rows = [("", "", "target", "")]
    for part in parts:
        rows.append((part.name, "", "", f"load {part.load:.1f}"))
        for one in part.figures:
            verdict = {True: "met", False: "MISSED", None: ""}[one.met]
            value = f"{one.value:,.2f}".rstrip("0").rstrip(".") + f" {one.unit}".rstrip()
            rows.append((f"  {one.name}", value, one.target, verdict))
        if part.error is not None:
            rows.append((f"  given up: {part.error}", "", "", ""))
    names = [len(row[0]) for row in rows if row[1]]
    wide = max(names, default=0), max(len(row[1]) for row in rows), max(len(r[2]) for r in rows)
    return "\n".join(
        f"{name:<{wide[0]}}  {value:>{wide[1]}}  {target:<{wide[2]}}  {verdict}".rstrip()
        for name, value, target, verdict in rows
    )


def write(found: Json, to: Path) -> None:
    """Writes the report as JSON."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(found, indent=2) + "\n")
