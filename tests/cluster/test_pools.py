"""Pools of workers on a real cluster: made, scaled, replaced, rolled out, and what keeps them."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from corral.plan.pods import DO_NOT_EVICT
from tests.cluster.harness import (
    REPO,
    Cluster,
    Json,
    agent,
    condition,
    journal,
    manifest,
    model_server,
    phases,
    pool,
    reason,
    rows,
    simulated,
    why,
    workflow,
)
from tests.cluster.lab import operator_metrics

OF_POOL = "--selector=corral.dev/pool="
SLOW = "latency: 3s\nreply: late"
AT_ONCE = "autoscaling: {minReplicas: 0, maxReplicas: 3, targetStepsPerReplica: 2,"


def steps_of(who: str, items: int = 0, name: str = "a") -> str:
    each = f", forEach: {{items: {list(range(items))}}}" if items else ""
    return f"steps: [{{name: {name}, agentRef: {{name: {who}}}, input: go{each}}}]"


def pods(cluster: Cluster, name: str) -> list[Json]:
    """A pool's pods that are not on their way out."""
    found = cluster.list("pods", OF_POOL + name)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def ready(count: int) -> Any:
    """Whether a pool has settled at so many workers."""

    def check(found: Json) -> bool:
        status = found.get("status", {})
        numbers = [status.get(f, 0) for f in ("replicas", "readyReplicas", "desiredReplicas")]
        return numbers == [count] * 3 and condition(found, "Ready") == "True"

    return check


def test_a_default_pool_is_made_for_the_first_step_and_gives_way_to_another(
    cluster: Cluster,
) -> None:
    cluster.apply(simulated("fast") + agent("worker", "fast"))
    cluster.wait("agent", "worker", lambda a: condition(a, "Ready") == "True", "ready")
    assert cluster.list("agentpools") == []
    cluster.apply(workflow("first", steps_of("worker")))
    assert cluster.finished("first")["status"]["phase"] == "Succeeded"
    made = cluster.get("agentpool", "worker-default")
    owner = cluster.get("agent", "worker")["metadata"]
    (reference,) = made["metadata"]["ownerReferences"]
    assert (reference["kind"], reference["uid"], reference["controller"]) == (
        "Agent",
        owner["uid"],
        True,
    )
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "corral",
        "corral.dev/agent": "worker",
    }
    cluster.apply(pool("worker"))
    cluster.gone("agentpool", "corral.dev/agent=worker")
    cluster.gone("pod", "corral.dev/pool=worker-default", timeout=60)
    cluster.apply(workflow("second", steps_of("worker")))
    assert cluster.finished("second")["status"]["phase"] == "Succeeded"
    assert [found["metadata"]["name"] for found in cluster.list("agentpools")] == ["worker"]


def test_a_pool_is_scaled_by_hand_and_by_the_work(cluster: Cluster) -> None:
    cluster.apply(
        simulated("slow", SLOW)
        + agent("fixed", "slow")
        + pool("fixed", "concurrency: 1")
        + agent("elastic", "slow")
        + pool("elastic", f"concurrency: 2\n{AT_ONCE} scaleDownStabilization: 2s}}")
    )
    cluster.wait("agentpool", "fixed", ready(1), "at one worker")
    cluster.wait("agentpool", "elastic", ready(0), "without a worker")
    assert pods(cluster, "elastic") == []
    cluster.kubectl("scale", "agentpool/fixed", "--replicas=2")
    cluster.apply(workflow("work", steps_of("elastic", 6)))
    cluster.wait("agentpool", "fixed", ready(2), "at two workers")
    cluster.wait("agentpool", "elastic", lambda p: p["status"]["readyReplicas"] == 3, "at three")
    assert cluster.finished("work")["status"]["phase"] == "Succeeded"
    cluster.kubectl("scale", "agentpool/fixed", "--replicas=0")
    cluster.wait("agentpool", "fixed", ready(0), "at no worker")
    cluster.wait("agentpool", "elastic", ready(0), "without a worker again")
    cluster.gone("pod", "app.kubernetes.io/component=worker")
    scale = "/apis/corral.dev/v1alpha1/namespaces/{}/agentpools/fixed/scale"
    found = json.loads(cluster.kubectl("get", "--raw=" + scale.format(cluster.namespace)).stdout)
    assert "corral.dev/pool=fixed" in found["status"]["selector"]
    refused = cluster.kubectl("scale", "agentpool/elastic", "--replicas=2", check=False)
    assert "replicas can't change while autoscaling is set" in refused.stderr
    # Nobody is there for it, and that is said.
    cluster.apply(workflow("stuck", steps_of("fixed")))
    stuck = cluster.wait(
        "workflow", "stuck", lambda w: reason(w, "Reconciling") == "NoCapacity", "told why", 10
    )
    assert why(stuck, "Reconciling") == "NoCapacity: Agent 'fixed': pool fixed has replicas: 0"
    cluster.kubectl("scale", "agentpool/fixed", "--replicas=1")
    assert cluster.finished("stuck")["status"]["phase"] == "Succeeded"


KILLER = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: default}
spec:
  hostPID: true
  terminationGracePeriodSeconds: 0
  containers:
  - name: killer
    image: localhost/corral:dev
    imagePullPolicy: IfNotPresent
    command: [sleep, "300"]
    securityContext: {privileged: true, runAsUser: 0}
"""
KILL = """
import os, pathlib, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        ours = sys.argv[1] in (process / "cgroup").read_text().replace("_", "-")
        if ours and b"worker" in (process / "cmdline").read_bytes():
            os.kill(int(process.name), 9)
            print("killed", process.name)
    except OSError:
        pass
"""


@pytest.fixture
def killer(cluster: Cluster) -> Iterator[str]:
    """A pod from which the node's processes can be killed."""
    name = f"killer-{cluster.namespace}"
    cluster.kubectl("create", "--namespace=default", "-f", "-", input=KILLER.replace("NAME", name))
    yield name
    cluster.kubectl("delete", "--namespace=default", "pod", name, "--wait=false")


def test_dead_workers_are_replaced_and_their_work_is_done_elsewhere(
    cluster: Cluster, killer: str
) -> None:
    cluster.apply(
        simulated("slow", SLOW.replace("3s", "6s"))
        + agent("killed", "slow")
        + pool("killed")
        + agent("deleted", "slow")
        + pool("deleted")
    )
    names = ("killed", "deleted")
    for name in names:
        cluster.wait("agentpool", name, ready(1), "at one worker")
    ready_to_kill = ("wait", "--namespace=default", "--for=condition=Ready", "--timeout=60s")
    cluster.kubectl(*ready_to_kill, f"pod/{killer}")
    before = {name: pods(cluster, name)[0]["metadata"] for name in names}
    cluster.apply("".join(workflow(name, steps_of(name)) for name in names))
    for name in names:
        cluster.wait("workflow", name, lambda w: phases(w)["a"] == "Running", "running")
    cluster.kubectl("delete", "pod", before["deleted"]["name"], "--force", "--grace-period=0")
    kill = ("exec", "--namespace=default", killer, "--", "python", "-c", KILL)
    assert "killed" in cluster.kubectl(*kill, before["killed"]["uid"]).stdout
    for name in names:
        found = cluster.finished(name)
        assert found["status"]["phase"] == "Succeeded"
        assert rows(found)["a"]["attempts"] == 2
        cluster.wait("agentpool", name, ready(1), "at one worker again")
        (pod,) = pods(cluster, name)
        assert pod["metadata"]["uid"] != before[name]["uid"]


RULES = """
rules:
- {match: ^long, latency: 15s, reply: long}
- {match: ., reply: short}
"""


def later(step: str, prompt: str, wait: str) -> str:
    """A run that begins at once, and asks after a while."""
    ask = f"{{name: {step}, dependsOn: [pause], agentRef: {{name: talker}}, input: {prompt}}}"
    return f"steps: [{{name: pause, wait: {{duration: {wait}}}}}, {ask}]"


def updated(found: Json) -> bool:
    """Whether a pool's steps are all taken by one worker, of the newest revision."""
    return why(found, "Ready").startswith("RollingOut: 1 of 1 workers are ready in the new")


def asked_by(which: str, prompt: str) -> str:
    """What the model server calls a prompt under these instructions."""
    text = f"You are the {which} one.\n{prompt}"
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_new_revision_rolls_out_under_a_step_that_runs(cluster: Cluster) -> None:
    said = "instructions: You are the {} one."
    cluster.apply(
        model_server(RULES) + agent("talker", "served", said.format("old")) + pool("talker")
    )
    cluster.kubectl("rollout", "status", "deployment/model-server", "--timeout=60s")
    cluster.wait("agentpool", "talker", ready(1), "at one worker")
    old = pods(cluster, "talker")[0]["metadata"]
    first = cluster.get("agent", "talker")["status"]["revision"]

    # New workers can't start: for runs that have begun the old one goes on as it is.
    cluster.apply(
        workflow("meanwhile", later("before", "go", "8s"))
        + workflow("across", later("running", "long", "9s"))
    )
    for name in ("meanwhile", "across"):
        cluster.wait("workflow", name, lambda w: w["status"].get("startedAt"), "begun")
    cluster.patch("agentpool", "talker", {"spec": {"template": {"nodeSelector": {"planet": "x"}}}})
    cluster.apply(agent("talker", "served", said.format("new")))
    cluster.wait("agent", "talker", lambda a: a["status"]["revision"] != first, "changed")
    cluster.wait("agentpool", "talker", lambda p: "Unschedulable" in why(p, "Ready"), "told why")
    cluster.apply(workflow("fresh", steps_of("talker")))
    assert cluster.finished("meanwhile")["status"]["phase"] == "Succeeded"
    assert cluster.get("pod", old["name"])["metadata"]["uid"] == old["uid"]

    # They can: what runs goes on where it is, what comes gets the new one.
    cluster.wait("workflow", "across", lambda w: phases(w)["running"] == "Running", "running")
    cluster.patch("agentpool", "talker", {"spec": {"template": {"nodeSelector": None}}})
    rolling = cluster.wait("agentpool", "talker", updated, "of the new revision")
    numbers = ("replicas", "readyReplicas", "updatedReplicas", "busyReplicas")
    assert [rolling["status"][name] for name in numbers] == [2, 1, 1, 1]
    fresh = cluster.finished("fresh")
    assert fresh["status"]["phase"] == "Succeeded"
    across = cluster.get("workflow", "across")
    assert phases(across)["running"] == "Running", "the new worker waited for the old one"
    across = cluster.finished("across")
    assert across["status"]["phase"] == "Succeeded"
    assert rows(across)["running"]["attempts"] == 1
    cluster.wait("agentpool", "talker", ready(1), "at one worker")
    (pod,) = pods(cluster, "talker")
    assert pod["metadata"]["uid"] != old["uid"]
    asked = {one["attemptID"].split(".")[1]: one["digest"] for one in journal(cluster)}
    assert asked == {
        "before": asked_by("old", "go"),
        "running": asked_by("old", "long"),
        "a": asked_by("new", "go"),
    }

    # A change of the Model rolls the pods too; one of the price does not.
    change = {"spec": {"price": {"inputPerMillionUSD": "9", "outputPerMillionUSD": "9"}}}
    cluster.patch("model", "served", change)
    cluster.patch("model", "served", {"spec": {"timeout": "21s"}})
    cluster.wait(
        "agentpool",
        "talker",
        lambda p: (
            ready(1)(p) and pods(cluster, "talker")[0]["metadata"]["uid"] != pod["metadata"]["uid"]
        ),
        "of another worker",
    )


TEMPLATE = """
template:
  labels: {tier: gold, corral.dev/pool: forged, app.kubernetes.io/name: forged}
  annotations: {note: hello, corral.dev/worker-config: forged}
  env: [{name: GREETING, value: hi}, {name: POD_UID, value: forged}]
  resources: {requests: {memory: 600Mi}}
"""


def test_the_pool_s_template_reaches_the_pod_without_what_is_reserved(cluster: Cluster) -> None:
    cluster.apply(simulated("fast") + agent("shaped", "fast") + pool("shaped", TEMPLATE))
    cluster.wait("agentpool", "shaped", ready(1), "at one worker")
    (pod,) = cluster.list("pods")
    assert pod["metadata"]["labels"] == {
        "tier": "gold",
        "app.kubernetes.io/name": "corral",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "corral",
        "app.kubernetes.io/part-of": "corral",
        "corral.dev/agent": "shaped",
        "corral.dev/pool": "shaped",
        "corral.dev/revision": pod["metadata"]["labels"]["corral.dev/revision"],
        "corral.dev/slot": "0",
    }
    assert pod["metadata"]["annotations"]["note"] == "hello"
    assert "forged" not in json.dumps(pod)
    (container,) = pod["spec"]["containers"]
    assert {"name": "GREETING", "value": "hi"} in container["env"]
    assert container["resources"]["limits"]["memory"] == "600Mi"
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("AgentPool", "shaped")


KEYED = """
provider: openai
name: gpt-5-mini
baseURL: http://127.0.0.1:9/v1
apiKeySecretRef: {name: missing, key: openai}
"""
BROKEN = {
    "keyless": ("", "Model keyed has no API key: Secret missing has no key openai"),
    "nowhere": ("template: {nodeSelector: {planet: mars}}", "Unschedulable: 0/1 nodes"),
    "too-large": ("template: {resources: {requests: {memory: 900Gi}}}", "Insufficient memory"),
    "impossible": (
        "template: {resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}}",
        "pods can't be made: ",
    ),
    "unmade": ("", "no AgentPool names it, and its defaultPool is Disabled"),
}
FIXED = {
    "nowhere": {"nodeSelector": None},
    "too-large": {"resources": None},
    "impossible": {"resources": None},
}


@pytest.fixture
def broken(cluster: Cluster) -> Iterator[Cluster]:
    """Agents whose workers can't start, each for another reason, and a Workflow for each."""
    made = manifest("Model", "keyed", KEYED) + simulated("fast")
    for name, (spec, _) in BROKEN.items():
        model = "keyed" if name == "keyless" else "fast"
        made += agent(name, model, "defaultPool: Disabled" if name == "unmade" else "")
        made += "" if name == "unmade" else pool(name, spec)
        made += workflow(name, steps_of(name))
    cluster.apply(made)
    yield cluster


def test_a_worker_that_can_t_start_is_told_of_and_recovers_when_mended(broken: Cluster) -> None:
    cluster = broken
    for name, (_, message) in BROKEN.items():
        waits = (
            "workflow",
            name,
            lambda w, text=message: text in why(w, "Reconciling"),
            "told why",
            30,
        )
        found = cluster.wait(*waits)
        assert reason(found, "Reconciling") == "NoCapacity"
        assert message in found["status"]["message"]
        assert phases(found) == {"a": "Queued"}
        of_agent = cluster.wait(
            "agent", name, lambda a, text=message: text in why(a, "Ready"), "told why", 10
        )
        assert condition(of_agent, "Ready") == "False"
        assert condition(of_agent, "Reconciling") == "True"
        if name != "unmade":
            of_pool = cluster.wait(
                "agentpool", name, lambda p, text=message: text in why(p, "Ready"), "told why", 10
            )
            assert (condition(of_pool, "Ready"), reason(of_pool, "Ready")) == ("False", "PodFailed")
    assert cluster.list("events", "--field-selector=reason=PodFailed") != []
    cluster.kubectl("create", "secret", "generic", "missing", "--from-literal=openai=key")
    for name, changes in FIXED.items():
        cluster.patch("agentpool", name, {"spec": {"template": changes}})
    cluster.apply(pool("unmade"))
    for name in ("unmade", *FIXED):
        assert cluster.finished(name)["status"]["phase"] == "Succeeded"
        cluster.wait("agent", name, lambda a: condition(a, "Ready") == "True", "ready again")
        cluster.wait("agentpool", name, ready(1), "at one worker")
    # The kubelet looks at Secrets once a minute or so.
    found = cluster.finished("keyless", timeout=150)
    assert rows(found)["a"]["reason"] == "ModelUnavailable"


def test_a_bad_pool_does_not_disturb_a_good_one_of_the_same_agent(cluster: Cluster) -> None:
    bad = manifest("AgentPool", "bad", "agentRef: {name: two}\n" + BROKEN["nowhere"][0])
    cluster.apply(simulated("fast") + agent("two", "fast") + bad)
    cluster.wait(
        "agent", "two", lambda a: "pool bad" in why(a, "Ready"), "told of the bad pool", 30
    )
    cluster.apply(pool("two"))
    cluster.wait("agent", "two", lambda a: condition(a, "Ready") == "True", "ready")
    cluster.wait("agentpool", "two", ready(1), "at one worker")
    cluster.apply(workflow("through", steps_of("two")))
    assert cluster.finished("through")["status"]["phase"] == "Succeeded"
    cluster.kubectl("delete", "agentpool", "two")
    cluster.wait(
        "agent", "two", lambda a: "pool bad" in why(a, "Ready"), "told of the bad pool", 30
    )
    cluster.kubectl("delete", "agentpool", "bad")
    cluster.wait("agent", "two", lambda a: condition(a, "Ready") == "True", "ready without any")


NONE_LEFT = "autoscaling: {minReplicas: 0, maxReplicas: 2, targetStepsPerReplica: 2,"


def test_work_that_comes_while_a_pool_goes_to_zero_is_done_once(cluster: Cluster) -> None:
    cluster.apply(
        model_server(RULES)
        + agent("tidal", "served")
        + pool("tidal", f"concurrency: 2\n{NONE_LEFT} scaleDownStabilization: 1s}}")
    )
    cluster.kubectl("rollout", "status", "deployment/model-server", "--timeout=60s")
    workers: set[str] = set()
    names = [f"wave-{number}" for number in range(3)]
    for number, name in enumerate(names):
        cluster.apply(workflow(name, steps_of("tidal", 4)))
        cluster.finished(name)
        workers |= {pod["metadata"]["uid"] for pod in cluster.list("pods", OF_POOL + "tidal")}
        if number == 0:  # the next comes while its workers go
            cluster.wait("agentpool", "tidal", lambda p: not p["status"]["desiredReplicas"], "done")
        elif number == 1:  # the next comes to an empty pool
            cluster.wait("agentpool", "tidal", ready(0), "without a worker")
    found = cluster.all_finished(*names)
    attempts = [one["attemptID"] for one in journal(cluster)]
    wanted = {f"{found[name]['metadata']['uid']}.a.{item}.1" for name in names for item in range(4)}
    # An attempt that a worker on its way out refused was made again, and never ran there.
    assert len(attempts) == len(wanted)
    assert {attempt.rsplit(".", 1)[0] for attempt in attempts} == wanted
    assert len(workers) >= 4, "the pool never went to zero"


def test_two_pools_of_an_agent_share_what_waits(cluster: Cluster) -> None:
    scaling = "concurrency: 1\nautoscaling: {minReplicas: 0, maxReplicas: 4}"
    pools = "".join(
        manifest("AgentPool", name, f"agentRef: {{name: shared}}\n{scaling}")
        for name in ("east", "west")
    )
    cluster.apply(simulated("slow", SLOW) + agent("shared", "slow") + pools)
    for name in ("east", "west"):
        cluster.wait("agentpool", name, ready(0), "without a worker")
    before = reactions(cluster.namespace)
    cluster.apply(workflow("work", steps_of("shared", 4)))
    for name in ("east", "west"):
        cluster.wait("agentpool", name, ready(2), "at two workers")
    assert cluster.finished("work")["status"]["phase"] == "Succeeded"
    made = cluster.list("events", "--field-selector=reason=Scheduled")
    assert len(made) == 4, "each pool grew for what was the other's"
    assert reactions(cluster.namespace) > before


def reactions(namespace: str) -> int:
    """How often it was measured how soon a pod was made for steps that wait."""
    head = f'corral_pool_reaction_seconds_count{{namespace="{namespace}"}} '
    lines = operator_metrics().splitlines()
    return sum(int(float(line.removeprefix(head))) for line in lines if line.startswith(head))


def test_evicted_workers_end_what_they_run_and_go_one_at_a_time(cluster: Cluster) -> None:
    budget = (REPO / "manifests/autoscaling/disruption-budget.yaml").read_text()
    cluster.apply(
        simulated("slow", SLOW)
        + agent("researcher", "slow")
        + pool("researcher", "replicas: 2\nconcurrency: 1")
    )
    cluster.apply(budget)
    cluster.wait("agentpool", "researcher", ready(2), "at two workers")
    # How many there should be, the disruption controller reads from the pool's scale subresource.
    counts = ("expectedPods", "currentHealthy", "disruptionsAllowed")
    cluster.wait(
        "pdb",
        "researcher",
        lambda b: [b.get("status", {}).get(name) for name in counts] == [2, 2, 1],
        "told of both workers",
    )
    first, second = pods(cluster, "researcher")
    assert first["metadata"]["annotations"].items() >= DO_NOT_EVICT.items()
    cluster.apply(workflow("work", steps_of("researcher", 2)))
    both = ("workflow", "work", lambda w: rows(w)["a"].get("items", {}).get("running") == 2)
    cluster.wait(*both, "running on both workers")

    def evict(pod: Json) -> str:
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{name}/eviction"
        asked = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": cluster.namespace},
        }
        words = ("create", f"--raw={path}", "--filename=-")
        return cluster.kubectl(*words, input=json.dumps(asked), check=False).stderr

    assert evict(first) == ""
    assert "violate the pod's disruption budget" in evict(second)
    found = cluster.finished("work")
    assert rows(found)["a"]["items"]["succeeded"] == 2
    assert "NoCapacity" not in json.dumps(found["status"])
    cluster.wait("agentpool", "researcher", ready(2), "at two workers again")
    uids = {pod["metadata"]["uid"] for pod in pods(cluster, "researcher")}
    assert first["metadata"]["uid"] not in uids
    assert second["metadata"]["uid"] in uids
