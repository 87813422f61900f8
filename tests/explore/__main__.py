"""Explores crashes; see docs/design/crash-exploration.md.

python -m tests.explore                                  everything, on all cores
python -m tests.explore chain budget                     some scenarios
python -m tests.explore chain --plan kill-after@33       one plan, with the operator's log
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from tests.explore import campaign, report
from tests.explore.plans import Plan
from tests.explore.scenarios import SCENARIOS

REPO = Path(__file__).parents[2]
REPORT = REPO / ".explore/report.json"
PAGE = REPO / "docs/design/crash-exploration.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.explore", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; absent: all")
    parser.add_argument("--plan", type=Plan.parse, help="one plan, with the log on stderr")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=60, help="end after so long")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    names = arguments.scenarios or list(SCENARIOS)
    if arguments.plan is not None:
        return _one(names, arguments.plan)
    started = time.monotonic()
    logging.basicConfig(level=logging.CRITICAL)
    tasks = campaign.all_plans(names)
    running = campaign.run(tasks, arguments.processes)
    findings = list(campaign.told(running, len(tasks), 60 * arguments.minutes))
    found = report.report(findings, len(tasks), time.monotonic() - started)
    report.write(found, REPORT, None if arguments.scenarios else PAGE)
    print(report.table(found))
    print(f"report: {REPORT.relative_to(REPO)}")
    return 1 if found["failing"] else 0


def _one(names: list[str], plan: Plan) -> int:
    failing = 0
    for name in names:
        calls = campaign.undisturbed(name).calls
        for number, fault in plan.faults:
            if number in calls:
                print(f"{fault} at call {number}: {calls[number].verb} {calls[number].target}")
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        finding = campaign.judge(name, plan)
        failing += bool(finding.problems)
        print(f"{name} {plan}:", *(finding.problems or ["as without a fault"]), sep="\n  ")
    return 1 if failing else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have the same order in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.explore", *sys.argv[1:]])
    sys.exit(main())
