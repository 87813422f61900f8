"""Every query of every dashboard's panels returns data, from a real Prometheus.

`make dashboards-test`: a Prometheus that scrapes every second stands beside the cluster there.
"""

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
from tests.cluster.lab import Lab
from tests.cluster.load import Load

PATIENCE = 180.0
"""Seconds until a query has failed to return data."""
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
