"""What is said of many explorations: a JSON file, and a table on a page."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.explore.campaign import Finding, undisturbed
from tests.explore.scenarios import SCENARIOS

BEGIN, END = "<!-- begin: make explore -->", "<!-- end: make explore -->"
COLUMNS = {
    "differences": "",
    "duplicateEffects": "duplicate effect",
    "orphanPods": "pods",
    "leftOver": "left over",
}
"""How many explorations had a problem that begins so."""
Report = dict[str, Any]


def report(findings: Iterable[Finding], total: int, seconds: float) -> Report:
    """What was found, by scenario.

    Args:
        total: plans that there are.
    """
    by_scenario: dict[str, list[Finding]] = {}
    for finding in findings:
        by_scenario.setdefault(finding.scenario, []).append(finding)
    scenarios = {name: _scenario(by_scenario[name]) for name in SCENARIOS if name in by_scenario}
    return {
        "plans": total,
        "explored": sum(map(len, by_scenario.values())),
        "seconds": round(seconds),
        "failing": sum(one["differences"] for one in scenarios.values()),
        "scenarios": scenarios,
    }


def _scenario(findings: list[Finding]) -> Report:
    failing = [one for one in findings if one.problems]
    kinds = sorted({one.kind for one in findings})
    return {
        "calls": len(undisturbed(findings[0].scenario).calls),
        "explored": {kind: sum(one.kind == kind for one in findings) for kind in kinds},
        "operators": sum(one.operators for one in findings),
        **{
            name: sum(any(text.startswith(begin) for text in one.problems) for one in failing)
            for name, begin in COLUMNS.items()
        },
        "failingPlans": [
            {"run": one.command, "problems": one.problems}
            for one in sorted(failing, key=lambda one: one.plan)
        ],
    }


def table(found: Mapping[str, Any]) -> str:
    """A report as Markdown."""
    scenarios: Mapping[str, Any] = found["scenarios"]
    kinds = sorted({kind for one in scenarios.values() for kind in one["explored"]})
    rows = [
        [
            name,
            one["calls"],
            *(one["explored"].get(kind, 0) for kind in kinds),
            sum(one["explored"].values()),
            one["operators"],
            *(one[column] for column in COLUMNS),
        ]
        for name, one in scenarios.items()
    ]
    totals = [sum(row[column] for row in rows) for column in range(1, len(kinds) + 8)]
    bad = ("differences", "duplicate effects", "orphan pods", "left over")
    head = ["scenario", "calls", *kinds, "all plans", "operators", *bad]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows, ["all", *totals]]
    text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return f"{found['explored']} of {found['plans']} plans were explored.\n\n{text}"


def write(found: Report, file: Path, page: Path | None) -> None:
    """Writes the report, and its table between the page's marks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2) + "\n")
    if page is not None:
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}")
