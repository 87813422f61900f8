"""Each row of the table in docs/guides/degradation.md, taken away, and what becomes of runs.

What other modules take away already is named in ``COVERED``.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, reason, rows, why
from tests.cluster.lab import Lab, agent, searches, served_model, step, tool_server, workflow

COVERED = {
    "model provider": "tests/cluster/test_models.py::"
    "test_an_open_circuit_lets_one_probe_through_at_a_time_and_outlives_its_operator",
    "worker": "tests/cluster/test_faults.py::"
    "test_a_step_whose_worker_is_killed_runs_again_elsewhere",
    "node": "tests/unit/plan/test_pool.py::"
    "test_a_lost_worker_is_replaced_at_once_and_kept_only_where_it_is_waited_for",
    "API server": "tests/cluster/test_faults.py::test_runs_go_on_when_the_control_plane_is_killed",
    "etcd": "tests/cluster/test_fault_calls.py::test_a_full_etcd_is_waited_for",
    "artifact store": "tests/cluster/test_outputs.py::"
    "test_nothing_is_lost_while_the_store_is_not_there",
    "operator": "tests/cluster/test_faults.py::"
    "test_ten_kills_of_the_operator_change_neither_the_end_nor_the_calls",
}
"""By row of the table: the test that takes it away."""
OWN = {
    "rate limit of a model": "test_a_model_that_asks_to_wait_is_left_alone_for_that_long",
    "tool server": "test_a_tool_server_that_is_down_is_left_alone_and_found_again",
    "DNS": "test_without_dns_calls_of_names_fail_and_operator_and_workers_go_on",
}
WAIT = 10
RULES: Json = {"latency": "50ms", "rules": [], "faults": {"retryAfterSeconds": WAIT}}
PATIENT: Json = {
    "retryStrategy": {"limit": 100, "backoff": {"duration": "200ms", "maxDuration": "1s"}}
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.make(
            served_model("patient", {"circuitBreaker": {"failureThreshold": 1000}}),
            {
                "apiVersion": "corral.dev/v1alpha1",
                "kind": "Model",
                "metadata": {"name": "near"},
                "spec": {"provider": "simulated", "simulation": {"reply": "ok"}},
            },
        )
        made.build(
            RULES,
            *tool_server(),
            *agent("worker", model="patient"),
            *agent("near", model="near"),
        )
        yield made


def test_a_model_that_asks_to_wait_is_left_alone_for_that_long(lab: Lab) -> None:
    lab.answer_by({**RULES, "rules": [{"match": "^limited", "times": 1, "fault": "RateLimit"}]})
    run = lab.start(
        workflow("limited", step("one", input="limited"), step("two", "one", input="limited"))
    )
    held = lab.cluster.wait(
        "workflow", "limited", lambda w: reason(w, "Reconciling") == "ModelLimited", "held back"
    )
    assert "Model 'patient' limits the rate of requests" in why(held, "Reconciling")
    model = lab.cluster.wait("model", "patient", lambda m: "retryAt" in m["status"], "left alone")
    assert model["status"]["circuit"] == "Closed"
    assert lab.cluster.finished("limited")["status"]["phase"] == "Succeeded"
    first, second, _ = [datetime.fromisoformat(call["time"]) for call in lab.calls(run)]
    assert (second - first).total_seconds() > WAIT - 0.5


def _usable(lab: Lab) -> set[float]:
    """What the workers of tool steps say of the tool server: 1 if it is usable, 0 if not."""
    found = ""
    for pod in lab.cluster.list("pods", "--selector=corral.dev/pool=corral-tools"):
        path = f"/api/v1/namespaces/{lab.cluster.namespace}/pods/{pod['metadata']['name']}:8080"
        done = lab.cluster.kubectl("get", f"--raw={path}/proxy/metrics", check=False)
        found += done.stdout
    series = 'corral_worker_tool_server_usable{server="tool-server"} '
    return {
        float(line.removeprefix(series)) for line in found.splitlines() if line.startswith(series)
    }


def test_a_tool_server_that_is_down_is_left_alone_and_found_again(lab: Lab) -> None:
    search = searches(*"abcdefgh", **PATIENT)
    lab.cluster.kubectl("scale", "deployment/tool-server", "--replicas=0")
    lab.cluster.gone("pods", "app=tool-server", timeout=60)
    lab.make(workflow("without-tools", search))

    def left_alone() -> bool:
        shown = lab.cluster.get("workflow", "without-tools").get("status", {})
        told = [one.get("message", "") for one in shown.get("attention", [])]
        return any("left alone for a moment" in message for message in told)

    end = time.monotonic() + 90
    while not left_alone():
        assert time.monotonic() < end, "the tool server is asked on and on"
        time.sleep(0.3)
    assert 0.0 in _usable(lab)
    lab.cluster.kubectl("scale", "deployment/tool-server", "--replicas=1")
    done = lab.cluster.finished("without-tools", timeout=120)
    assert done["status"]["phase"] == "Succeeded"
    assert rows(done)["search"]["items"]["succeeded"] == 8
    assert 1.0 in _usable(lab)


@contextmanager
def no_dns() -> Iterator[None]:
    """CoreDNS answers nothing, while inside."""
    pids = processes.of_component("coredns")
    processes.kill(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.alone
def test_without_dns_calls_of_names_fail_and_operator_and_workers_go_on(lab: Lab) -> None:
    with no_dns():
        # A worker that has talked to the model keeps its connection: new ones have to resolve.
        lab.cluster.kubectl("delete", "pods", "--selector=corral.dev/pool=worker", "--wait=false")
        lab.make(workflow("named", step("one", **PATIENT)))
        lab.make(workflow("by-address", step("one", agent="near")))
        assert lab.cluster.finished("by-address")["status"]["phase"] == "Succeeded"
        waiting = lab.cluster.wait(
            "workflow",
            "named",
            lambda w: "ModelUnavailable" in str(w.get("status", {}).get("steps")),
            "failing",
            120,
        )
        assert waiting["status"]["phase"] == "Running"
    assert lab.cluster.finished("named", timeout=120)["status"]["phase"] == "Succeeded"
