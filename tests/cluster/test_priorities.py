"""Who gets a free worker first, lists from ConfigMaps, and people who are asked at the end."""

import json
from collections.abc import Iterator

import pytest

from corral.plan.state import from_journal
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Cluster, condition, manifest, rows, simulated, why
from tests.cluster.lab import Lab, each, step, workflow


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        cluster.apply(
            simulated("slow", "latency: 700ms\nreply: done")
            + manifest("Agent", "worker", "{modelRef: {name: slow}}")
            + manifest("AgentPool", "worker", "{agentRef: {name: worker}, concurrency: 1}")
        )
        cluster.kubectl("wait", "--for=condition=Ready", "agentpool", "--all", "--timeout=90s")
        yield Lab(cluster)


@pytest.fixture
def urgent(lab: Lab) -> Iterator[str]:
    """A PriorityClass; they are the cluster's, so it has a name of its own."""
    name = f"{lab.cluster.namespace}-urgent"
    made = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": 1000,
    }
    lab.cluster.kubectl("create", "--filename=-", input=json.dumps(made))
    yield name
    lab.cluster.kubectl("delete", "priorityclass", name)


def starts(cluster: Cluster, name: str, at: str) -> list[float]:
    """When each item of a step was started, the first one first."""
    run = from_journal(cluster.get("workflow", name)["status"]["journal"])
    return sorted(node.started for node in run.steps[at].nodes if node.started is not None)


def test_a_workflow_of_a_higher_priority_gets_every_worker_that_becomes_free(
    lab: Lab, urgent: str
) -> None:
    lab.make(workflow("usual", step("many", **each(*range(9)))))
    lab.cluster.wait("workflow", "usual", lambda w: w["status"].get("startedAt"), "started")
    lab.make(workflow("rush", step("few", **each(1, 2, 3)), priorityClassName=urgent))
    lab.cluster.finished("rush")
    lab.cluster.finished("usual")
    rush = starts(lab.cluster, "rush", "few")
    # What ran goes on, and nothing more of it begins.
    assert [at for at in starts(lab.cluster, "usual", "many") if rush[0] < at < rush[-1]] == []


def test_a_priority_class_that_is_not_there_is_waited_for(lab: Lab, urgent: str) -> None:
    lab.make(workflow("nobody", step("one"), priorityClassName=f"{urgent}-not"))
    found = lab.cluster.wait(
        "workflow", "nobody", lambda w: condition(w, "Reconciling") == "True", "waiting", 10
    )
    assert f"there is no PriorityClass '{urgent}-not'" in why(found, "Reconciling")
    assert "startedAt" not in found["status"]
    lab.cluster.patch("workflow", "nobody", {"spec": {"priorityClassName": urgent}})
    lab.cluster.finished("nobody")


def test_the_items_of_a_fan_out_may_be_the_lines_of_a_config_map(lab: Lab) -> None:
    each_line = {"forEach": {"configMapKeyRef": {"name": "lines", "key": "k"}}}
    lab.make(
        workflow(
            "lines",
            {"name": "sizes", "transform": "$(item.n * 2)", **each_line},
            output="$(steps.sizes.outputs)",
        )
    )
    found = lab.cluster.wait(
        "workflow", "lines", lambda w: "is not there" in w["status"].get("message", ""), "waiting"
    )
    assert "key 'k' of ConfigMap 'lines' is not there" in found["status"]["message"]
    lab.cluster.kubectl("create", "configmap", "lines", '--from-literal=k={"n": 1}\n\n{"n": 2}\n')
    assert lab.cluster.finished("lines")["status"]["output"] == [2, 4]


def test_a_person_may_be_asked_once_all_is_over(lab: Lab) -> None:
    me = {"kind": "Group", "name": "system:masters"}
    asks = {"prompt": "$(workflow.phase)?", "approvers": [me], "allowSelfApproval": True}
    lab.make(
        workflow(
            "signed",
            {"name": "sum", "transform": "$(1 + 1)"},
            onExit=[{"name": "sign", "approval": asks}],
        )
    )
    lab.cluster.wait(
        "workflow", "signed", lambda w: rows(w)["sign"]["phase"] == "Waiting", "waiting"
    )
    (request,) = lab.cluster.list("approvalrequests", "--selector=corral.dev/workflow=signed")
    assert request["spec"]["prompt"] == "Succeeded?"
    user = json.loads(lab.cluster.kubectl("auth", "whoami", "--output=json").stdout)
    by = user["status"]["userInfo"]["username"]
    decision = {"spec": {"decision": {"verdict": "Approve", "by": by}}}
    lab.cluster.patch("approvalrequest", request["metadata"]["name"], decision)
    assert rows(lab.cluster.finished("signed"))["sign"]["phase"] == "Succeeded"
