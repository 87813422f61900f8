"""A team at work, to look at on dashboards: ``python -m tests.cluster.load``, or `make load`.

In a namespace of its own, until the time is over or somebody ends it.
"""

import argparse
import itertools
import time
from contextlib import suppress

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, simulated
from tests.cluster.lab import (
    Lab,
    agent,
    each,
    from_template,
    served_model,
    step,
    template,
    tool_server,
    workflow,
)

PAUSE = 4.0
"""Seconds between two waves."""
_PRICE = '{inputPerMillionUSD: "100", outputPerMillionUSD: "300"}'
_MODELS = simulated("steady", "latency: 400ms", _PRICE) + simulated(
    "flaky", "latency: 200ms\nfailurePercent: 25", _PRICE
)


class Load:
    """A team at work: a little of everything that the dashboards show."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.count = lab, itertools.count()

    def build(self) -> None:
        """Makes Models, Agents, their pools, a template and the servers."""
        self.lab.cluster.apply(_MODELS)
        silent = served_model("silent", {"timeout": "1s"})
        narrow = served_model("narrow", {"limits": {"maxInFlight": 1}})
        report = template(
            "report",
            step("plan", agent="writer"),
            step("parts", "plan", agent="searcher", input="$(item)", **each("north", "south")),
            step("write", "parts", agent="writer"),
        )
        self.lab.make(silent, narrow, report)
        limited = {
            "budget": {"period": "Daily", "maxCostUSD": "20.00"},
            "limits": {"maxCostUSD": "0.10"},
        }
        scaling = {
            "minReplicas": 0,
            "maxReplicas": 3,
            "targetStepsPerReplica": 2,
            "scaleDownStabilization": "1s",
        }
        self.lab.build(
            # What a call cost that no answer ended, nobody knows.
            {"latency": "150ms", "rules": [{"match": "^unknown", "fault": "Hang"}]},
            *agent(),
            *agent("writer", model="steady", more=limited),
            *agent("searcher", model="flaky"),
            *agent("silent", model="silent"),
            *agent("narrow", model="narrow"),
            *agent("scaled", model="steady", autoscaling=scaling, concurrency=2),
            *tool_server(),
        )

    def wave(self) -> None:
        """Makes some runs of each kind."""
        number = next(self.count)
        search: Json = {
            "name": "search",
            "tool": {
                "mcp": {"url": "http://tool-server/mcp"},
                "name": "search",
                "arguments": {"query": "$(item)"},
            },
            **each("a", "b"),
        }
        large: Json = {"name": "size", "transform": "$(arguments.text)"}
        budget = {"maxCostUSD": "1.00"}
        wide = each(*(str(item) for item in range(8)))
        patient: Json = {"retryStrategy": {"limit": 5, "backoff": {"duration": "200ms"}}}
        if number % 4 == 0:
            # Meanwhile its pool goes down to nothing.
            every = step("all", agent="scaled", input="$(item)", **wide)
            self.lab.make(workflow(f"wide-{number}", every))
        self.lab.make(
            from_template(f"report-{number}", "report", budget=budget),
            workflow(
                f"narrow-{number}", step("all", agent="narrow", input="$(item)", **each(*"abcd"))
            ),
            workflow(f"fragile-{number}", step("one", agent="searcher")),
            workflow(f"patient-{number}", step("one", agent="searcher", **patient)),
            workflow(f"tools-{number}", search, step("sum", "search")),
            workflow(f"silent-{number}", step("one", agent="silent", input="unknown")),
            # More than the journal keeps: it has to be stored.
            workflow(f"large-{number}", large, arguments={"text": f"{number} " * 3000}),
        )


def main() -> None:
    """Makes waves of runs until the time is over; what they made goes with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    wanted = parser.parse_args()
    with fresh_namespace() as cluster, suppress(KeyboardInterrupt):
        load = Load(Lab(cluster))
        load.build()
        print(f"a team works in namespace {cluster.namespace} for {wanted.minutes:g} minutes")
        until = time.monotonic() + wanted.minutes * 60
        while time.monotonic() < until:
            load.wave()
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
