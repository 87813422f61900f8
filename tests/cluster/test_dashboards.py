"""What stands beside a cluster sees it: every query of every panel returns data, traces are kept.

`make dashboards-test`: a Prometheus that scrapes every second stands there, and a trace store.
"""

import json
import math
import time
import urllib.request
import uuid
from collections.abc import Iterator
from decimal import Decimal

import pytest

from cluster import observe
from corral.cli.trace_store import load as kept
from corral.cli.trace_view import Trace
from corral.tracing.otlp_json import read, written
from corral.tracing.span import Span
from grafana.asked import Asked, asked
from grafana.panels import VARIABLES
from grafana.prometheus_api import Prometheus
from grafana.queries import OR_ELSE
from tests.cluster.conftest import fresh_namespace
from tests.cluster.lab import Lab, from_template
from tests.cluster.load import Load
from tests.cluster.terminal import corral

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


def test_the_trace_store_has_all_of_a_run_with_what_it_cost(
    load: Load, at: observe.Addresses
) -> None:
    cluster = load.lab.cluster
    load.lab.make(from_template("traced", "report"))
    status = cluster.finished("traced", 120)["status"]
    until = time.time() + PATIENCE
    while True:
        done = corral(cluster, "trace", "traced", "--store", at.traces, "-o", "json")
        # It notes what the store does not have yet.
        if done.returncode == 0 and not done.stderr:
            break
        assert time.time() < until, done.stderr
        time.sleep(1)
    found = Trace.of(read(json.loads(done.stdout)))
    assert [line.span.name for line in found.lines if line.parent is None] == [
        "invoke_workflow traced"
    ]
    assert found.used.cost == Decimal(status["usage"]["costUSD"])
    assert found.used.requests == status["usage"]["requests"]


def test_the_trace_store_shows_a_span_once_that_was_sent_twice(at: observe.Addresses) -> None:
    trace_id, now = uuid.uuid4().hex, float(int(time.time()))
    span = Span(trace_id, "1" * 16, None, "twice", now, now + 1, resource={"service.name": "x"})
    for _ in range(2):
        request = urllib.request.Request(
            f"{at.otlp}/v1/traces",
            json.dumps(written([span])).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
    assert kept(at.traces, trace_id) == [span]
