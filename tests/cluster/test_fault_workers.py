"""Workers, and the way to them, that break: every result is recorded once."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from corral.api.attempt import KEYS_DIR
from tests.cluster import processes
from tests.cluster.harness import Json, phases, rows, why
from tests.cluster.lab import (
    Lab,
    agent,
    keyed_server,
    served_model,
    step,
    tool_server,
    workflow,
)
from tests.faults.calls import after, before, drop, lose_every_other, refuse, spoilt, twice
from tests.faults.oracle import LAST_QUIET, RULES, Oracle, observed, small_run
from tests.faults.rig import Rig, shortly, wait_until

TO_WORKERS = r"^\w+ /workers/"
SENDS = r"^POST /workers/[^/]+/message:send"
ASKED = [{"match": "^hang", "latency": "1500ms", "reply": "late"}, *RULES["rules"]]


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with observed(
        {"rules": ASKED}, *agent("worker", replicas=2, concurrency=8), *tool_server()
    ) as made:
        yield made


def kill_worker_at(lab: Lab, target: str) -> None:
    """Kills the processes of the worker that a call went to."""
    address = target.split("/")[2]
    [pod] = [pod for pod in lab.workers() if pod["status"].get("podIP") == address]
    processes.kill(processes.of_pod(pod))


FAULTS: dict[str, dict[str, Any]] = {
    "is-lost-on-its-way": {"fault": drop, "every_other": True},
    "gives-an-answer-that-is-lost": {"fault": lose_every_other()},
    "arrives-twice": {"fault": twice},
    "gives-half-an-answer": {"fault": spoilt(lambda body: body[: len(body) // 2]), "times": 6},
    "gives-an-empty-answer": {"fault": spoilt(lambda _: b"{}"), "times": 6},
    "meets-a-proxy-s-502": {"fault": spoilt(lambda _: b"<h1>Bad Gateway</h1>"), "times": 6},
    "is-unauthorized": {"fault": refuse(401), "every_other": True},
}
"""What happens to each call to a worker that is about a run of that name."""


def test_runs_end_as_ever_whatever_happens_to_each_call_to_a_worker(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    with ExitStack() as stack:
        rules = {}
        for name, fault in FAULTS.items():
            made = small_run(name)
            made["spec"]["suspend"] = True
            uid = lab.start(made)
            rules[name] = stack.enter_context(rig.proxy.breaking(TO_WORKERS, about=uid, **fault))
        for name in FAULTS:
            lab.cluster.patch("workflow", name, {"spec": {"suspend": None}})
        for name in FAULTS:
            oracle.ends_well(name)
        oracle.settled()
    for name, rule in rules.items():
        assert 4 <= len(rule.met) < 60, f"each {name}: {len(rule.met)}"


def test_workers_that_can_t_be_reached_and_are_not_gone_are_waited_for(
    rig: Rig, oracle: Oracle, lab: Lab
) -> None:
    run = lab.start(small_run("unreached"))
    lab.until_called(run)
    with rig.proxy.breaking(TO_WORKERS, drop, seconds=shortly(60)) as rule:
        oracle.holds("unreached")
    assert rule.met


def test_a_worker_that_dies_before_it_has_heard_costs_no_call(rig: Rig, lab: Lab) -> None:
    deaths: list[str] = []

    def die() -> None:
        deaths.append(str(rule.met[0].target))
        kill_worker_at(lab, deaths[0])

    with rig.proxy.breaking(SENDS, before(die), times=1) as rule:
        run = lab.start(workflow("unheard", step("a0"), step("a1", "a0")))
        done = lab.cluster.finished("unheard")
    assert len(deaths) == 1
    assert set(phases(done).values()) == {"Succeeded"}
    assert rows(done)["a0"]["attempts"] == 2
    lab.called_once_each(run, {"a0: go", "a1: go"})
    lab.ready("worker", 2)


def use(name: str, *after: str, **fields: Any) -> Json:
    """A step that has a file deleted: an effect of which the tool server counts each."""
    call = {"name": "delete", "arguments": {"name": name}, "mcp": {"url": "http://tool-server/mcp"}}
    made: Json = {"name": name, "tool": call, **fields}
    return made | ({"dependsOn": list(after)} if after else {})


def test_a_worker_that_dies_after_the_effect_is_replaced_and_the_effect_is_one(
    rig: Rig, lab: Lab
) -> None:
    deaths: list[str] = []

    def die() -> None:
        deaths.append(rule.met[0].target)
        pods = lab.workers("corral-tools")
        processes.kill([pid for pod in pods for pid in processes.of_pod(pod)])

    with rig.proxy.breaking(SENDS, after(die), times=1) as rule:
        run = lab.start(workflow("once", use("first"), use("second", "first")))
        done = lab.cluster.finished("once")
    assert len(deaths) == 1
    assert set(phases(done).values()) == {"Succeeded"}, done["status"]
    assert rows(done)["first"]["attempts"] == 2
    calls = [(c["attemptID"], c["outcome"]) for c in lab.calls(run, "tool-server")]
    assert calls == [
        (f"{run}.first.0.1.1", "Answered"),
        (f"{run}.first.0.1.2", "Repeated"),
        (f"{run}.second.0.1.1", "Answered"),
    ]


def test_a_worker_that_hangs_is_given_up_and_its_late_result_changes_nothing(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    again = {"limit": 8, "onErrors": ["Timeout"], "backoff": {"duration": "100ms"}}
    run = lab.start(
        workflow("hung", step("hang", timeout="3s", retryStrategy=again), step("a1", "hang"))
    )
    lab.until_called(run)
    [sent] = [c for c in rig.proxy.calls if ":send" in c.target and run.encode() in c.body]
    address = sent.target.split("/")[2]
    [frozen] = [pod for pod in lab.workers() if pod["status"].get("podIP") == address]
    pids = processes.of_pod(frozen)
    processes.kill(pids, signal.SIGSTOP)
    try:
        done = lab.cluster.finished("hung")
        before = done["metadata"]["resourceVersion"]
        assert processes.of_pod(frozen) == pids, "it ended before anybody gave it up"
    finally:
        if processes.of_pod(frozen):
            processes.kill(pids, signal.SIGCONT)
    assert set(phases(done).values()) == {"Succeeded"}, done["status"]
    assert rows(done)["hang"]["attempts"] >= 2
    assert rows(done)["hang"]["output"] == "late"
    oracle.settled()
    now = lab.cluster.get("workflow", "hung")
    assert [rows(now)[name] for name in rows(now)] == [rows(done)[name] for name in rows(done)]
    asked = Counter(call["attemptID"] for call in lab.calls(run))
    assert set(asked.values()) == {1}
    # What the late attempts used is booked, and what they said is not.
    assert now["status"]["usage"]["requests"] == len(asked), (before, now["status"]["usage"])


def hold_key(lab: Lab, pod: Json, key: str | None) -> None:
    """Changes the Secret, or deletes it, and waits until the worker has it so."""
    lab.cluster.kubectl("delete", "secret", "key", "--ignore-not-found")
    if key is not None:
        lab.cluster.kubectl("create", "secret", "generic", "key", f"--from-literal=openai={key}")
    # The kubelet looks at Secrets once a minute, and whenever a pod changes.
    name, (pid, *_) = pod["metadata"]["name"], processes.of_pod(pod)
    file = Path(f"/proc/{pid}/root{KEYS_DIR}/keyed/key")

    def mounted() -> bool:
        lab.cluster.kubectl("annotate", "--overwrite", "pod", name, f"looked-at={time.monotonic()}")
        return (file.read_text() if file.exists() else None) == key

    wait_until(mounted, f"the key is {key}", 120)


def test_a_key_that_is_rotated_or_deleted_in_mid_run_is_told_of_and_taken_up_again(
    lab: Lab, oracle: Oracle
) -> None:
    lab.cluster.kubectl("create", "secret", "generic", "key", "--from-literal=openai=wrong")
    secret = {"apiKeySecretRef": {"name": "key", "key": "openai"}}
    model = served_model("keyed", {"baseURL": "http://keyed-server/v1", **secret})
    rules = {"latency": "3s", "rules": [{"match": ".", "reply": "yes"}]}
    lab.make(*keyed_server("keyed-server", rules, "right"), model, *agent("keyed", "keyed"))
    lab.cluster.kubectl("rollout", "status", "deployment/keyed-server", "--timeout=60s")
    lab.ready("keyed", 1)
    [pod] = lab.workers("keyed")
    lab.start(workflow("wrong-key", step("a", agent="keyed")))
    assert rows(lab.cluster.finished("wrong-key"))["a"]["reason"] == "Auth"

    hold_key(lab, pod, "right")
    steps = [step("a", agent="keyed"), step("b", "a", agent="keyed"), step("c", "b", agent="keyed")]
    run = lab.start(workflow("mid-run", *steps))
    lab.cluster.wait("workflow", "mid-run", lambda w: phases(w).get("a") == "Running", "running")
    hold_key(lab, pod, None)
    told = "Model keyed has no API key: Secret key has no key openai"
    lab.cluster.wait("workflow", "mid-run", lambda w: told in why(w, "Reconciling"), "told why")
    lab.cluster.wait("agent", "keyed", lambda a: told in why(a, "Ready"), "told why")
    hold_key(lab, pod, "right")
    done = lab.cluster.finished("mid-run")
    assert set(phases(done).values()) == {"Succeeded"}, done["status"]
    assert done["status"]["usage"]["requests"] == 3
    assert run == done["status"]["runID"]
    assert [one["metadata"]["uid"] for one in lab.workers("keyed")] == [pod["metadata"]["uid"]]
    lab.cluster.kubectl("delete", "agentpool/keyed", "agent/keyed")
    lab.cluster.gone("pods", "corral.dev/pool=keyed", 90)
    oracle.settled()


def test_workers_whose_labels_are_taken_off_stay_the_pool_s_or_are_replaced(
    lab: Lab, oracle: Oracle
) -> None:
    run = lab.start(small_run("unlabelled"))
    lab.until_called(run)
    first, second = (pod["metadata"]["name"] for pod in lab.workers())
    lab.cluster.kubectl("label", "pod", first, "corral.dev/pool-", "corral.dev/slot-")
    lab.cluster.kubectl("label", "pod", second, "corral.dev/revision-")
    oracle.ends_well("unlabelled")
    wait_until(
        lambda: second not in {pod["metadata"]["name"] for pod in lab.workers()}, "it is replaced"
    )
    oracle.settled()


def test_a_worker_that_says_no_more_that_it_is_one_is_replaced(lab: Lab, oracle: Oracle) -> None:
    lost = lab.workers()[0]["metadata"]
    lab.cluster.kubectl("label", "pod", lost["name"], "app.kubernetes.io/component-")
    wait_until(
        lambda: lost["uid"] not in {pod["metadata"]["uid"] for pod in lab.cluster.list("pods")},
        "it is gone",
    )
    lab.start(small_run("one-less"))
    oracle.holds("one-less")


def test_all_is_quiet_in_the_end(oracle: Oracle) -> None:
    oracle.settled(LAST_QUIET)
