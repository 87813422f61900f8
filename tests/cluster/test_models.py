"""Limits and circuits of Models, as the model server's journal saw them kept."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, reason, rows, why
from tests.cluster.lab import (
    Lab,
    agent,
    each,
    kill_operator,
    operator_metrics,
    served_model,
    step,
    workflow,
)

LATENCY = 0.4
IN_FLIGHT, PER_MINUTE = 4, 120
REST = 6.0
PATIENT: Json = {
    "retryStrategy": {"limit": 30, "backoff": {"duration": "100ms", "maxDuration": "500ms"}}
}
HEALTHY: Json = {"latency": f"{LATENCY * 1000:.0f}ms", "rules": []}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        limits = {"maxInFlight": IN_FLIGHT, "requestsPerMinute": PER_MINUTE}
        breaker = {"failureThreshold": 3, "resetAfter": f"{REST:.0f}s"}
        made.make(
            served_model("limited", {"limits": limits}),
            served_model("flaky", {"circuitBreaker": breaker}),
            served_model("narrow", {"name": "gpt-5-nano", "limits": {"maxInFlight": 1}}),
        )
        moved = {"fallbackModels": [{"modelRef": {"name": "narrow"}}]}
        made.build(
            HEALTHY,
            *agent("one", model="limited", concurrency=16),
            *agent("two", model="limited", concurrency=16),
            *agent("three", model="flaky", concurrency=16),
            *agent("four", model="flaky", more=moved, concurrency=16),
        )
        yield made


def moments(calls: list[Json]) -> list[float]:
    """When calls arrived, in seconds, earliest first."""
    return sorted(datetime.fromisoformat(call["time"]).timestamp() for call in calls)


def until(what: str, holds: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not {what} within {timeout:g} s"
        time.sleep(0.2)


def metric(line: str) -> str:
    """The value of a series of the operator; empty if it has none."""
    found = [one for one in operator_metrics().splitlines() if one.startswith(line)]
    return found[0].rpartition(" ")[2] if found else ""


def most_at_once(calls: list[float]) -> int:
    return max(sum(begun <= call < begun + LATENCY for begun in calls) for call in calls)


def most_in_a_minute(calls: list[float]) -> int:
    return max(sum(first <= call < first + 60 for call in calls) for first in calls)


def test_two_agents_together_never_pass_the_limits_of_their_model(lab: Lab) -> None:
    items = each(*range(100))
    runs = [
        lab.start(workflow(name, step("all", agent=name, input=f"{name} $(item)", **items)))
        for name in ("one", "two")
    ]
    held = lab.cluster.wait(
        "workflow", "two", lambda w: reason(w, "Reconciling") == "ModelLimited", "held back"
    )
    assert "Model 'limited' is at its limit" in why(held, "Reconciling")
    assert "spec.limits." in rows(held)["all"]["message"]
    series = f'{{model="limited",namespace="{lab.cluster.namespace}"'
    assert 0 < float(metric("corral_model_attempts_in_flight" + series)) <= IN_FLIGHT
    assert metric("corral_model_attempts_held_back" + series)
    done = lab.cluster.all_finished("one", "two", timeout=200)
    assert {run["status"]["phase"] for run in done.values()} == {"Succeeded"}
    calls = {run: moments(lab.calls(run)) for run in runs}
    assert [len(of_run) for of_run in calls.values()] == [100, 100]
    together = sorted(moment for of_run in calls.values() for moment in of_run)
    assert most_at_once(together) == IN_FLIGHT
    assert most_in_a_minute(together) == PER_MINUTE
    # Fair shares: neither has been done with much of its work before the other.
    assert 20 < sum(moment < together[100] for moment in calls[runs[0]]) < 80


@pytest.mark.alone  # it kills the operator
def test_an_open_circuit_lets_one_probe_through_at_a_time_and_outlives_its_operator(
    lab: Lab,
) -> None:
    failing = {**HEALTHY, "rules": [{"match": "^probe", "fault": "ServerError"}]}
    lab.answer_by(failing)
    probed = step("all", agent="three", input="probe $(item)", **each(*range(8)), **PATIENT)
    run = lab.start(workflow("probing", probed))
    lab.cluster.wait(
        "model", "flaky", lambda m: m["status"].get("circuit") == "Open", "an open circuit"
    )
    waiting = lab.cluster.wait(
        "workflow", "probing", lambda w: reason(w, "Reconciling") == "CircuitOpen", "held back"
    )
    assert "Model 'flaky' failed several times in a row" in why(waiting, "Reconciling")
    assert "Open" in lab.cluster.kubectl("get", "cmodel", "flaky").stdout
    opened = len(lab.calls(run))  # those that were under way when it opened
    until("probed", lambda: len(lab.calls(run)) > opened)
    series = f'{{model="flaky",namespace="{lab.cluster.namespace}"}}'
    assert float(metric("corral_circuit_state" + series)) > 0
    kill_operator()
    assert lab.cluster.get("model", "flaky")["status"]["circuit"] != "Closed"
    until("probed again", lambda: len(lab.calls(run)) > opened + 1)
    lab.answer_by(HEALTHY)
    done = lab.cluster.finished("probing")
    assert done["status"]["phase"] == "Succeeded"
    assert rows(done)["all"]["items"]["succeeded"] == 8
    calls = lab.calls(run)
    probes = [call for call in calls if call["outcome"] != "Answered"][opened:]
    last = moments(calls)[opened - 1]
    for before, after in pairwise([last, *moments(probes)]):
        assert after - before > REST - 0.5, "two probes within its rest"
    closed = lab.cluster.wait(
        "model", "flaky", lambda m: m["status"]["circuit"] == "Closed", "a closed circuit"
    )
    assert "retryAt" not in closed["status"]
    events = lab.cluster.events("flaky", "CircuitClosed")
    assert {"CircuitOpen", "CircuitHalfOpen", "CircuitClosed"} <= events.keys()


def test_a_fallback_with_a_limit_is_asked_within_it_when_many_fail_at_once(lab: Lab) -> None:
    first = {"match": "^moved", "times": 6, "fault": "ServerError"}
    lab.answer_by({**HEALTHY, "rules": [first]})
    moved = step("all", agent="four", input="moved $(item)", **each(*range(6)))
    run = lab.start(workflow("moved", moved))
    done = lab.cluster.finished("moved")
    # No retryStrategy: it went on with the other Model, which is no retry.
    assert done["status"]["phase"] == "Succeeded", done["status"].get("message")
    moved_on = [call for call in lab.calls(run) if call["model"] == "gpt-5-nano"]
    assert len(moved_on) >= 3
    assert most_at_once(moments(moved_on)) == 1
    lab.cluster.kubectl("delete", "workflow", "moved")
