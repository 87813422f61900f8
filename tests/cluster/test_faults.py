"""Faults on a real cluster. Whatever is killed, a run ends as it would have without, and the model
server's journal holds every call once."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import REPO, Json, condition, phases, rows
from tests.cluster.lab import (
    SYSTEM,
    Lab,
    agent,
    lease,
    led_since,
    operators,
    replace_operator,
    restarts,
    step,
    workflow,
)
from tests.faults.rig import wait_until

RULES = {
    "latency": "300ms",
    "rules": [
        {"match": "^slow", "latency": "3s", "reply": "slow answer"},
        {"match": "^endless", "latency": "60s", "reply": "too late"},
        {"match": "^a", "latency": "200ms", "reply": "a"},
        {"match": "^b", "latency": "400ms", "reply": "b"},
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker", replicas=2, concurrency=8))
        yield made
        cluster.kubectl("delete", "workflows", "--all")


def chain(length: int, prefix: str = "a") -> list[Json]:
    steps = [step(f"{prefix}0")]
    return steps + [step(f"{prefix}{n}", f"{prefix}{n - 1}") for n in range(1, length)]


def test_ten_kills_of_the_operator_change_neither_the_end_nor_the_calls(lab: Lab) -> None:
    seed = int(os.environ.get("CORRAL_SEED") or random.randrange(10**6))
    print(f"CORRAL_SEED={seed}")
    draw = random.Random(seed)
    wide = step(
        "wide", "b1", input="b wide $(item)", forEach={"items": list(range(7)), "maxConcurrent": 2}
    )
    steps = [*chain(9), *chain(3, "b"), wide, step("last", "a8", "wide", input="b last")]
    inputs = {f"a{n}: go" for n in range(9)} | {f"b{n}: go" for n in range(3)} | {"b last"}
    inputs |= {f"b wide {n}" for n in range(7)}
    run = lab.start(workflow("killed", *steps))
    for _ in range(10):
        epoch = lease()["leaseTransitions"]
        [pod] = operators()
        time.sleep(draw.uniform(0, 0.9))
        processes.kill(processes.of_pod(pod))
        replace_operator(pod)
        led_since(epoch, 40)
    done = lab.cluster.finished("killed")
    assert done["status"]["phase"] == "Succeeded"
    assert set(phases(done).values()) == {"Succeeded"}
    assert rows(done)["wide"]["items"]["succeeded"] == 7
    lab.called_once_each(run, inputs)
    assert done["status"]["usage"]["requests"] == len(inputs) == 20


def test_a_step_whose_worker_is_killed_runs_again_elsewhere(lab: Lab) -> None:
    run = lab.start(workflow("bereft", step("slow"), step("after", "slow")))
    lab.until_called(run)
    [victim] = [pod for pod in lab.workers() if _holds(lab, pod, run)]
    processes.kill(processes.of_pod(victim))
    done = lab.cluster.finished("bereft")
    assert done["status"]["phase"] == "Succeeded", done["status"].get("message")
    # No retryStrategy: were the loss counted as a retry, the step would have failed.
    assert rows(done)["slow"]["attempts"] == 2
    assert rows(done)["after"]["attempts"] == 1
    calls = [call["attemptID"] for call in lab.calls(run) if call["lastUser"] == "slow: go"]
    assert calls == [f"{run}.slow.0.1.1", f"{run}.slow.0.1.2"]
    lab.ready("worker", 2)


def _holds(lab: Lab, pod: Json, run: str) -> bool:
    """Whether a worker's metrics say that it works."""
    name, namespace = pod["metadata"]["name"], lab.cluster.namespace
    path = f"/api/v1/namespaces/{namespace}/pods/{name}:8080/proxy/metrics"
    text = lab.cluster.kubectl("get", f"--raw={path}").stdout
    return any(
        "attempts_running" in line and not line.startswith("#") and float(line.split()[-1]) > 0
        for line in text.splitlines()
    )


@pytest.fixture
def two_operators() -> Iterator[None]:
    SYSTEM.kubectl("scale", "deployment/corral-operator", "--replicas=2")
    SYSTEM.kubectl("rollout", "status", "deployment/corral-operator", "--timeout=60s")
    yield
    SYSTEM.kubectl("scale", "deployment/corral-operator", "--replicas=1")
    deadline = time.monotonic() + 60
    while len(SYSTEM.list("pods", "--selector=app.kubernetes.io/component=operator")) > 1:
        assert time.monotonic() < deadline, "the second operator does not go"
        time.sleep(0.2)
    led_since(0, 30)


def _leader() -> Json:
    [pod] = [p for p in operators() if p["metadata"]["uid"] == lease()["holderIdentity"]]
    return pod


@pytest.mark.usefixtures("two_operators")
def test_a_second_operator_takes_over_from_one_that_died_or_froze(lab: Lab) -> None:
    run = lab.start(workflow("orphaned", *chain(2), step("slow", "a1"), step("end", "slow")))
    lab.until_called(run, 2)
    first, epoch = _leader(), lease()["leaseTransitions"]
    processes.kill(processes.of_pod(first))
    SYSTEM.kubectl("delete", "pod", first["metadata"]["name"], "--force", "--grace-period=0")
    led_since(epoch, 20)
    assert lab.cluster.finished("orphaned")["status"]["phase"] == "Succeeded"
    lab.called_once_each(run, {"a0: go", "a1: go", "slow: go", "end: go"})

    SYSTEM.kubectl("rollout", "status", "deployment/corral-operator", "--timeout=60s")
    run = lab.start(workflow("frozen", step("slow"), *chain(12), step("end", "slow", "a11")))
    lab.until_called(run, 3)
    first, epoch = _leader(), lease()["leaseTransitions"]
    pids = processes.of_pod(first)
    processes.kill(pids, signal.SIGSTOP)
    try:
        taken = led_since(epoch, 20)
        assert taken["holderIdentity"] != first["metadata"]["uid"]
        lab.until_called(run, 6)
    finally:
        processes.kill(pids, signal.SIGCONT)
    done = lab.cluster.finished("frozen")
    assert done["status"]["phase"] == "Succeeded"
    lab.called_once_each(run, {f"a{n}: go" for n in range(12)} | {"slow: go", "end: go"})
    assert lease()["holderIdentity"] == taken["holderIdentity"], "the thawed one led again"
    name = first["metadata"]["name"]

    def said() -> str:
        logs = [SYSTEM.kubectl("logs", name, *of, check=False) for of in (("--previous",), ())]
        return "".join(log.stdout for log in logs)

    # It reads so in the Lease, or hears it from a worker, whichever is asked first.
    wait_until(lambda: "somebody else" in said(), "the thawed one says why it ends")


@pytest.fixture
def impatient_kubelet() -> Iterator[None]:
    """A kubelet that asks the operator every second whether it lives, and not every ten."""
    probe = {"periodSeconds": 1, "timeoutSeconds": 1, "terminationGracePeriodSeconds": 1}
    containers = [{"name": "operator", "livenessProbe": probe}]
    change = json.dumps({"spec": {"template": {"spec": {"containers": containers}}}})
    rollout = ("rollout", "status", "deployment/corral-operator", "--timeout=60s")
    SYSTEM.kubectl("patch", "deployment", "corral-operator", f"--patch={change}")
    SYSTEM.kubectl(*rollout)
    yield
    SYSTEM.kubectl("rollout", "undo", "deployment/corral-operator")
    SYSTEM.kubectl(*rollout)
    led_since(0, 30)


@pytest.mark.usefixtures("impatient_kubelet")
def test_an_operator_that_stands_still_is_started_again_and_goes_on(lab: Lab) -> None:
    led_since(0, 30)
    [pod] = operators()
    run = lab.start(workflow("stood-still", step("slow"), *chain(4), step("end", "slow", "a3")))
    lab.until_called(run, 2)
    epoch, before = lease()["leaseTransitions"], restarts()
    processes.kill(processes.of_pod(pod), signal.SIGSTOP)
    led_since(epoch, 60)
    assert restarts() > before
    assert lab.cluster.finished("stood-still")["status"]["phase"] == "Succeeded"
    lab.called_once_each(run, {f"a{n}: go" for n in range(4)} | {"slow: go", "end: go"})


def _quiet(lab: Lab, pool: str, timeout: float = 15) -> None:
    """Waits until no worker of the pool works any more."""
    deadline = time.monotonic() + timeout
    while any(_holds(lab, pod, "") for pod in lab.workers(pool)):
        assert time.monotonic() < deadline, f"it still works after {timeout:g} s"
        time.sleep(0.2)


def test_a_deleted_workflow_stops_at_once_and_leaves_nothing(lab: Lab) -> None:
    run = lab.start(workflow("dropped", step("endless"), step("never", "endless")))
    lab.until_called(run)
    lab.cluster.kubectl("delete", "workflow", "dropped")
    _quiet(lab, "worker")
    assert {call["lastUser"] for call in lab.calls(run)} == {"endless: go"}


def test_the_same_name_made_again_in_mid_run_is_another_run(lab: Lab) -> None:
    first = lab.start(workflow("twice", step("slow"), step("a1", "slow")))
    lab.until_called(first)
    lab.cluster.kubectl("delete", "workflow", "twice")
    second = lab.start(workflow("twice", step("slow", input="b other"), step("a1", "slow")))
    done = lab.cluster.finished("twice")
    assert done["metadata"]["uid"] == second == done["status"]["runID"]
    assert rows(done)["slow"]["output"] == "b"
    assert done["status"]["usage"]["requests"] == 2
    lab.called_once_each(second, {"b other", "a1: go"})
    assert {call["lastUser"] for call in lab.calls(first)} == {"slow: go"}


def test_a_deleted_pool_or_agent_or_model_stops_what_runs_and_leaves_no_pods(lab: Lab) -> None:
    cluster = lab.cluster
    for kind, rest in (("agentpool", "agent"), ("agent", "agentpool"), ("model", "agentpool")):
        name = f"gone-{kind}"
        model = {
            "provider": "simulated",
            "timeout": "5m",
            "simulation": {"latency": "4m", "reply": "done"},
        }
        made = [
            {
                "apiVersion": "corral.dev/v1alpha1",
                "kind": "Model",
                "metadata": {"name": name},
                "spec": model,
            },
            *agent(name, model=name),
            workflow(name, step("one", agent=name), step("two", "one", agent=name)),
        ]
        if kind == "agentpool":  # else the Agent gets a default pool in its place
            made[1]["spec"]["defaultPool"] = "Disabled"
        cluster.apply(yaml.safe_dump_all(made))
        cluster.wait("workflow", name, lambda w: phases(w).get("one") == "Running", "running")
        cluster.kubectl("delete", kind, name)
        cluster.gone("pods", f"corral.dev/pool={name}", timeout=15)
        cluster.wait("workflow", name, lambda w: phases(w)["one"] == "Queued", "one waits again")
        cluster.kubectl("delete", "workflow", name)
        cluster.kubectl("delete", rest, name)


def test_a_deleted_namespace_goes_with_everything_that_runs_in_it() -> None:
    with fresh_namespace() as cluster:
        lab = Lab(cluster)
        lab.build(RULES, *agent("worker"))
        run = lab.start(workflow("doomed", step("endless")))
        lab.until_called(run)
        cluster.kubectl("delete", "namespace", cluster.namespace, "--timeout=60s")
        done = cluster.kubectl("get", "namespace", cluster.namespace, check=False)
        assert "NotFound" in done.stderr
        made = SYSTEM.kubectl("create", "namespace", cluster.namespace)
        assert made.returncode == 0


@pytest.mark.parametrize("component", ["kube-apiserver", "etcd"])
def test_runs_go_on_when_the_control_plane_is_killed(lab: Lab, component: str) -> None:
    before = restarts()
    name = f"without-{component}"
    run = lab.start(workflow(name, step("slow"), *chain(6), step("end", "slow", "a5")))
    lab.until_called(run, 2)
    processes.kill(processes.of_component(component))
    deadline = time.monotonic() + 60
    while lab.cluster.kubectl("get", "--raw=/readyz", check=False).returncode != 0:
        assert time.monotonic() < deadline, "the API server does not come back"
        time.sleep(0.2)
    done = lab.cluster.finished(name)
    assert done["status"]["phase"] == "Succeeded"
    lab.called_once_each(run, {f"a{n}: go" for n in range(6)} | {"slow: go", "end: go"})
    # Told by a watch alone: nothing but its own creation asks for this run's first pass.
    again = lab.start(workflow(f"{name}-after", step("a0")))
    assert lab.cluster.finished(f"{name}-after")["status"]["phase"] == "Succeeded"
    lab.called_once_each(again, {"a0: go"})
    assert restarts() == before


def test_writes_of_others_in_between_cost_no_call_twice(lab: Lab) -> None:
    wide = step("wide", input="a $(item)", forEach={"items": list(range(12))})
    run = lab.start(workflow("contended", *chain(6, "b"), wide))
    count = 0
    label = [str(REPO / ".cluster/bin/kubectl"), f"--namespace={lab.cluster.namespace}"]
    label += ["label", "--overwrite", "workflow", "contended"]
    while condition(lab.cluster.get("workflow", "contended"), "Finished") != "True":
        count += 1
        assert count < 500
        writers = [
            subprocess.Popen(
                [*label, f"count={count}-{n}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for n in range(2)
        ]
        for writer in writers:
            writer.wait()
    done = lab.cluster.get("workflow", "contended")
    assert done["status"]["phase"] == "Succeeded"
    lab.called_once_each(run, {f"b{n}: go" for n in range(6)} | {f"a {n}" for n in range(12)})


def test_a_quiet_operator_writes_nothing_but_its_lease(lab: Lab) -> None:
    lab.start(workflow("settled", step("a0")))
    lab.start(workflow("waiting-for-nobody", step("a0", agent="nobody")))
    lab.cluster.finished("settled")
    lab.cluster.wait("workflow", "waiting-for-nobody", lambda w: "status" in w, "seen")
    time.sleep(15)  # usage of Agents is written with some delay
    before, spent = _everything(), _cpu_seconds()
    time.sleep(60)
    assert _everything() == before
    spent = _cpu_seconds() - spent
    assert spent < 6, f"an idle operator used {spent:.1f} s of CPU in a minute"


def _everything() -> dict[str, str]:
    kinds = "workflows,agents,agentpools,models,pods,events"
    listed = json.loads(SYSTEM.kubectl("get", kinds, "-A", "--output=json").stdout)["items"]
    return {
        "/".join((obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])): (
            obj["metadata"]["resourceVersion"]
        )
        for obj in listed
    }


def _cpu_seconds() -> float:
    """CPU that the operator's processes have used."""
    ticks = 0
    for pid in processes.of_pod(_leader()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
