"""A node that is unreachable with workers on it: frozen, not killed, so that it comes back.

Needs a second node (``make node-test`` adds one) and, by Kubernetes' own patience, two minutes.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import TAINT
from tests.cluster import processes
from tests.cluster.harness import Cluster, Json, rows
from tests.cluster.lab import Lab, agent, served_model, step, workflow

RULES = {
    "rules": [
        {"match": "^alive", "latency": "280s", "reply": "done"},
        {"match": ".", "latency": "20s", "reply": "done"},
    ]
}
POLICIES = ("Retry", "Wait", "Fail")


@pytest.fixture
def second() -> Iterator[str]:
    """The name of a node that may be frozen; it thaws in the end."""
    nodes = Cluster("default").list("nodes")
    found = [
        node["metadata"]["name"]
        for node in nodes
        if any(taint["key"] == TAINT for taint in node["spec"].get("taints", []))
    ]
    if not found:
        pytest.skip("the cluster has no second node: `make node-test` adds one")
    yield found[0]
    for pid in processes.of_component("kubelet-2"):
        os.kill(pid, signal.SIGCONT)


def on(node: str) -> Json:
    """A pool's template: on that node, or on another if it is not there."""
    prefers = [
        {
            "weight": 100,
            "preference": {
                "matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
                ]
            },
        }
    ]
    return {
        "tolerations": [{"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": prefers}},
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }


def test_steps_on_a_node_that_is_gone_are_tried_again_waited_for_or_failed(
    cluster: Cluster, second: str
) -> None:
    lab = Lab(cluster)
    names = [*(policy.lower() for policy in POLICIES), "alive"]
    patient = served_model("patient")
    patient["spec"]["timeout"] = "5m"
    made = [patient]
    for name, policy in zip(names, (*POLICIES, "Retry"), strict=True):
        more = {"limits": {"timeout": "5m"}}
        made += agent(name, "patient", more, onWorkerLost=policy, template=on(second))
    lab.build(RULES, *made)
    pods = {name: lab.workers(name)[0] for name in names}
    assert {pod["spec"]["nodeName"] for pod in pods.values()} == {second}
    steps = {name: step("a", agent=name, input=f"{name}: go") for name in names}
    runs = {name: lab.start(workflow(name, steps[name])) for name in names}
    for run in runs.values():
        lab.until_called(run, timeout=150)

    # The node is gone, but for one worker: the kubelet is silent, and that worker answers.
    frozen = [pid for name in names[:3] for pid in processes.of_pod(pods[name])]
    processes.kill(processes.of_component("kubelet-2"), signal.SIGSTOP)
    processes.kill(frozen, signal.SIGSTOP)
    try:
        failed = cluster.finished("fail", timeout=180)
        cluster.wait(
            "workflow",
            "retry",
            lambda w: "may overlap" in rows(w)["a"].get("message", ""),
            "given up on the lost worker",
        )
        alive, waiting = (cluster.get("workflow", name) for name in ("alive", "wait"))
    finally:
        thaw(frozen)  # within two minutes, after which workers end what they run by themselves

    for found in (alive, waiting):
        assert (rows(found)["a"]["phase"], rows(found)["a"]["attempts"]) == ("Running", 1)
    cluster.patch("workflow", "alive", {"spec": {"shutdown": "Terminate"}})
    row = rows(failed)["a"]
    assert (row["phase"], row["reason"], row["attempts"]) == ("Failed", "WorkerLost", 1)
    assert "can't be reached; this may still run there" in row["message"]
    row = rows(cluster.finished("retry", timeout=120))["a"]
    assert (row["phase"], row["attempts"]) == ("Succeeded", 2)
    assert "may overlap with the next attempt" in row["message"]
    [other] = [pod for pod in lab.workers("retry") if pod["spec"].get("nodeName") != second]
    assert other["metadata"]["uid"] != pods["retry"]["metadata"]["uid"]
    waited = cluster.finished("wait", timeout=120)
    assert (rows(waited)["a"]["phase"], rows(waited)["a"]["attempts"]) == ("Succeeded", 1)
    assert [len(lab.calls(runs[name])) for name in names] == [2, 1, 1, 1]
    # What the lost attempts used is told once they are reached, and counts.
    for name, requests in (("retry", 2), ("fail", 1)):
        cluster.wait(
            "workflow",
            name,
            lambda w, n=requests: w["status"].get("usage", {}).get("requests") == n,
            f"charged for {requests} requests",
        )
    for name in names:
        cluster.wait("agentpool", name, lambda p: p["status"]["replicas"] == 1, "at one worker")
    for name in ("wait", "alive"):
        kept = {pod["metadata"]["uid"] for pod in lab.workers(name)}
        assert len(kept) == 1
    gone = {pods[name]["metadata"]["uid"] for name in ("retry", "fail")}
    left = {pod["metadata"]["uid"] for name in ("retry", "fail") for pod in lab.workers(name)}
    assert not left & gone


def thaw(frozen: list[int]) -> None:
    """Lets the node go on; some of its processes may have ended."""
    for pid in [*processes.of_component("kubelet-2"), *frozen]:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)
