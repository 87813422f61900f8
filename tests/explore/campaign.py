"""Many explorations, on all cores, and what is said of them."""

import json
import logging
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.explore import oracle
from tests.explore.exploration import Outcome, explore
from tests.explore.plans import Call, Plan, plans
from tests.explore.scenarios import SCENARIOS

START_OF_ALL = "chain"
"""The scenario in which an operator's start is explored: it is the same in all others."""


@dataclass(frozen=True)
class Finding:
    """What one exploration showed."""

    scenario: str
    plan: str
    kind: str
    problems: tuple[str, ...]
    operators: int

    @property
    def command(self) -> str:
        """How to see it alone."""
        return f"python -m tests.explore {self.scenario} --plan {self.plan}"


@dataclass
class Summary:
    """What all explorations of one scenario showed."""

    calls: int
    kinds: Counter[str] = field(default_factory=Counter)
    operators: int = 0
    failing: list[Finding] = field(default_factory=list)

    def count(self, prefix: str) -> int:
        """Explorations with a problem that begins so."""
        return sum(any(text.startswith(prefix) for text in one.problems) for one in self.failing)


@cache
def undisturbed(scenario: str) -> Outcome:
    """The run that all others are compared with.

    Raises:
        AssertionError: it has problems itself.
    """
    outcome = explore(SCENARIOS[scenario], Plan())
    problems = [*outcome.problems, *oracle.differences(outcome.end, outcome.end, Plan())]
    assert not problems, f"{scenario} without a fault: {problems}"
    return outcome


def worth_exploring(scenario: str) -> dict[int, Call]:
    """The calls until the end state is reached; those of the start in one scenario only."""
    calls = undisturbed(scenario).calls
    first = next(number for number, call in calls.items() if call.verb != "GET")
    last = max(n for n, call in calls.items() if call.verb != "GET")
    begin = 1 if scenario == START_OF_ALL else first
    # The one after the last change shows the state from which nothing should happen any more.
    return {number: call for number, call in calls.items() if begin <= number <= last + 1}


def judge(scenario: str, plan: Plan) -> Finding:
    """Explores, and compares with the undisturbed run."""
    expected = undisturbed(scenario)
    found = explore(SCENARIOS[scenario], plan)
    problems = [*found.problems]
    if not problems:
        problems = [*oracle.differences(found.end, expected.end, plan)]
    return Finding(scenario, str(plan), plan.kind, tuple(problems), found.operators)


def _judge(task: tuple[str, Plan]) -> Finding:
    return judge(*task)


def _quiet() -> None:
    logging.basicConfig(level=logging.CRITICAL)


def all_plans(scenarios: Iterable[str]) -> list[tuple[str, Plan]]:
    """Every plan of every scenario, in an order that lets an early end show something of all."""
    found = [
        (name, plan)
        for name in scenarios
        for plan in plans(worth_exploring(name))
        if SCENARIOS[name].operator_killed or not plan.kills_operator
    ]
    random.Random(1).shuffle(found)
    return found


def run(tasks: Sequence[tuple[str, Plan]], processes: int) -> Iterator[Finding]:
    """Explores, on several cores."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_quiet) as pool:
        yield from pool.imap_unordered(_judge, tasks, chunksize=4)


def told(findings: Iterable[Finding], total: int, seconds_at_most: float) -> Iterator[Finding]:
    """Passes on until time is over, and tells the terminal how far it is and what fails."""
    started, failing = time.monotonic(), 0
    for number, finding in enumerate(findings, 1):
        if finding.problems:
            failing += 1
            print(f"  {finding.command}\n    " + "\n    ".join(finding.problems[:4]))
        if number % 100 == 0 or number == total:
            seconds = time.monotonic() - started
            print(f"{number} of {total} plans, {failing} with differences, {seconds:.0f} s")
            sys.stdout.flush()
        yield finding
        if time.monotonic() - started > seconds_at_most:
            print(f"time is over after {number} of {total} plans")
            return


def summarise(findings: Iterable[Finding]) -> dict[str, Summary]:
    """By scenario."""
    found: dict[str, Summary] = {}
    for one in findings:
        if one.scenario not in found:
            found[one.scenario] = Summary(calls=len(undisturbed(one.scenario).calls))
        summary = found[one.scenario]
        summary.kinds[one.kind] += 1
        summary.operators += one.operators
        if one.problems:
            summary.failing.append(one)
    return {name: found[name] for name in SCENARIOS if name in found}


def report(summaries: dict[str, Summary], seconds: float) -> dict[str, Any]:
    """The report, as it is written."""
    return {
        "seconds": round(seconds),
        "plans": sum(sum(one.kinds.values()) for one in summaries.values()),
        "failing": sum(len(one.failing) for one in summaries.values()),
        "scenarios": {
            name: {
                "calls": one.calls,
                "plans": dict(sorted(one.kinds.items())),
                "operators": one.operators,
                "differences": len(one.failing),
                "duplicateEffects": one.count("duplicate"),
                "orphans": one.count("pods") + one.count("worker-"),
                "failing": [
                    {"run": found.command, "problems": found.problems}
                    for found in sorted(one.failing, key=lambda found: found.plan)
                ],
            }
            for name, one in summaries.items()
        },
    }


BEGIN, END = "<!-- begin: make explore -->", "<!-- end: make explore -->"


def table(summaries: dict[str, Summary]) -> str:
    """The summary as Markdown."""
    kinds = sorted({kind for one in summaries.values() for kind in one.kinds})
    head = ["scenario", "calls", *kinds, "all", "differences", "duplicate effects", "orphans"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, one in summaries.items():
        counts = [str(one.kinds[kind]) for kind in kinds]
        orphans = one.count("pods") + one.count("worker-")
        bad = [str(len(one.failing)), str(one.count("duplicate")), str(orphans)]
        rows.append([name, str(one.calls), *counts, str(sum(one.kinds.values())), *bad])
    totals = [sum(int(row[column]) for row in rows[2:]) for column in range(1, len(head))]
    rows.append(["all", *map(str, totals)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(summaries: dict[str, Summary], seconds: float, file: Path, page: Path | None) -> None:
    """Writes the report, and the summary between the page's marks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report(summaries, seconds), indent=2) + "\n")
    if page is not None:
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{table(summaries)}\n\n{END}{after}")
