"""Every query of every dashboard's panels returns data, from a real Prometheus.

`make dashboards-test`: a Prometheus that scrapes every second stands beside the cluster there.
"""

import itertools
import math
import time
from collections.abc import Iterator

import pytest

from cluster import observe
from grafana.asked import Asked, asked
from grafana.panels import VARIABLES
from grafana.prometheus_api import Prometheus
from grafana.queries import OR_ELSE
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

PATIENCE = 180.0
"""Seconds until a query has failed to return data."""
PRICE = '{inputPerMillionUSD: "100", outputPerMillionUSD: "300"}'
FAULTS = {
    "Alerts",
    "Alerts that fire",
    "Conflicts, by resource",
    "Missed times",
    "Passes that were not finished, by queue",
    "Times missed, by CronWorkflow",
    "Unexpected errors",
}
"""Panels that show zeros while there is no fault."""
MORE = {"Known cost", "Unpriced calls", "Steps that fail", "Succeeded", "Failed"}
"""Numbers of which a zero would be wrong."""
MODELS = simulated("steady", "latency: 400ms", PRICE) + simulated(
    "flaky", "latency: 200ms\nfailurePercent: 25", PRICE
)


class Load:
    """A team at work: a little of everything that the dashboards show."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.count = lab, itertools.count()

    def build(self) -> None:
        """Makes Models, Agents, their pools, a template and the servers."""
        self.lab.cluster.apply(MODELS)
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


@pytest.fixture(scope="module")
def prometheus(at: observe.Addresses) -> Prometheus:
    return Prometheus(at.prometheus)


@pytest.fixture(scope="module")
def load(prometheus: Prometheus) -> Iterator[Load]:
    with fresh_namespace() as cluster:
        made = Load(Lab(cluster))
        made.build()
        yield made


def has_data(prometheus: Prometheus, query: Asked, since: float) -> bool:
    """Whether there has been a number, apart from zeros that stand for nothing at all."""
    expr = query.expr.split(OR_ELSE)[0]
    found = prometheus.over(expr, since, time.time(), 1)
    values = [float(value) for one in found for _, value in one["values"]]
    if query.panel in MORE:
        return any(value > 0 for value in values)
    return not all(map(math.isnan, values))


def test_every_query_of_every_panel_returns_data(load: Load, prometheus: Prometheus) -> None:
    since = time.time()
    everything = set(asked("30s", "5m", namespace=load.lab.cluster.namespace))
    left = {query for query in everything if query.panel not in FAULTS}
    assert {query.panel for query in everything - left} == FAULTS
    while left := {query for query in left if not has_data(prometheus, query, since)}:
        assert time.time() < since + PATIENCE, "\n".join(sorted(map(str, left)))
        load.wave()
        time.sleep(2)
    for query in everything - left:
        assert prometheus.now(query.expr), query


def test_variables_offer_what_there_is(load: Load, prometheus: Prometheus) -> None:
    namespace = load.lab.cluster.namespace
    for name, query in VARIABLES.items():
        metric, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        expr = f"group by ({label}) ({metric.replace('$namespace', namespace)})"
        found = {one["metric"].get(label) for one in prometheus.now(expr)}
        # Pools have the names of their Agents here.
        team = {"worker", "writer", "searcher", "silent", "narrow", "scaled"}
        assert found >= ({namespace} if name == "namespace" else team), name
