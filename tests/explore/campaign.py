"""Many explorations, on all cores."""

import logging
import multiprocessing
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

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
