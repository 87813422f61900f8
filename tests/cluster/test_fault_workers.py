"""Workers, and the way to them, that break: every result is recorded once."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cluster import processes
from tests.cluster.harness import Json, phases, rows
from tests.cluster.lab import Lab, agent, step, tool_server, workflow
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
    finally:
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


def test_workers_whose_labels_are_taken_off_stay_the_pool_s_or_are_replaced(
    lab: Lab, oracle: Oracle
) -> None:
    run = lab.start(small_run("unlabelled"))
    lab.until_called(run)
    first, second = (pod["metadata"]["name"] for pod in lab.workers())
    lab.cluster.kubectl("label", "pod", first, "corral.dev/pool-", "corral.dev/slot-")
    lab.cluster.kubectl("label", "pod", second, "corral.dev/revision-")
    oracle.holds("unlabelled")
    assert second not in {pod["metadata"]["name"] for pod in lab.workers()}


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
