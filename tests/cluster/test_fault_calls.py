"""Calls to the API server that go wrong on their way: the end is as it would have been without."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from tests.cluster.harness import Json, reason, why
from tests.cluster.lab import agent
from tests.faults.calls import drop, late, lose_every_other, refuse, twice
from tests.faults.oracle import INPUTS, LAST_QUIET, RULES, Oracle, observed, small_run
from tests.faults.rig import HASTE, shortly

WRITES = r"^(POST|PUT|PATCH|DELETE) /api(?!.*/leases/)"
ANY = r"^\w+ /(api|openid)"


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with observed(RULES, *agent("worker", replicas=2, concurrency=8)) as made:
        yield made


REFUSALS = 12 if HASTE == 1 else 5
"""Refusals in a row: the operator waits up to 10 s after each, so that 12 take a minute."""
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "is-lost-on-its-way": (WRITES, {"fault": drop, "every_other": True}),
    "gives-an-answer-that-is-lost": (WRITES, {"fault": lose_every_other()}),
    "arrives-twice": (WRITES, {"fault": twice}),
    "meets-a-conflict": (WRITES, {"fault": refuse(409, "Conflict"), "every_other": True}),
    "is-late": (WRITES, {"fault": late(0.3)}),
    "meets-a-500": (WRITES, {"fault": refuse(500, "InternalError"), "times": REFUSALS}),
    "is-forbidden": (WRITES, {"fault": refuse(403, "Forbidden"), "times": REFUSALS}),
    "is-too-much": (WRITES, {"fault": refuse(429, "TooManyRequests", retry_after=2), "times": 3}),
}
"""What happens to each write that is about a run of that name, and when."""
WITH_WORKERS = ("is-lost-on-its-way", "gives-an-answer-that-is-lost", "meets-a-conflict")
"""Runs with an Agent and a pool of that name, which is made meanwhile: a pod takes its time."""


@pytest.mark.timeout(900)
def test_runs_end_as_ever_and_workers_are_made_whatever_happens_to_each_write(
    oracle: Oracle,
) -> None:
    lab = oracle.lab
    with ExitStack() as stack:
        rules = {
            name: stack.enter_context(oracle.rig.proxy.breaking(pattern, about=name, **fault))
            for name, (pattern, fault) in FAULTS.items()
        }
        for name in WITH_WORKERS:
            lab.make(*agent(name, replicas=1))
        for name in FAULTS:
            lab.start(small_run(name, agent=name if name in WITH_WORKERS else "worker"))
        for name in FAULTS:
            oracle.ends_well(name, timeout=300)
        for name in WITH_WORKERS:
            # Written with some delay, and with faults of its own.
            lab.cluster.wait("agent", name, lambda a: _requests(a) >= len(INPUTS), "all booked")
        oracle.settled()
    for name, rule in rules.items():
        assert 2 <= len(rule.met) < 80, f"each {name}: {len(rule.met)}"
    for name in WITH_WORKERS:
        assert _requests(lab.cluster.get("agent", name)) == len(INPUTS), f"each {name}"
    limited = [call for call in rules["is-too-much"].met if "/events" not in call.target]
    for target in {str(call) for call in limited}:
        times = [call.at for call in limited if str(call) == target]
        assert len(times) > 1, f"{target} was not tried again"
        assert all(b - a > 1.9 for a, b in pairwise(times)), f"{target} came too soon: {times}"
    for name in WITH_WORKERS:
        lab.cluster.kubectl("delete", f"agentpool/{name}", f"agent/{name}")
    for name in WITH_WORKERS:
        lab.cluster.gone("pods", f"corral.dev/pool={name}", 90)


def _requests(agent: Json) -> int:
    """The model calls that are booked on an Agent."""
    booked: int = agent.get("status", {}).get("usage", {}).get("requests", 0)
    return booked


def test_who_may_make_no_pods_says_so_and_makes_them_once_it_may(oracle: Oracle) -> None:
    lab, name = oracle.lab, "forbidden-pods"
    with oracle.rig.proxy.breaking(r"^POST .*/pods$", refuse(403, "Forbidden")):
        lab.make(*agent(name, replicas=1), small_run(name, agent=name))
        found = lab.cluster.wait(
            "agentpool", name, lambda p: reason(p, "Ready") == "PodFailed", "told of"
        )
        assert "pods can't be made" in why(found, "Ready")
        lab.cluster.wait(
            "workflow", name, lambda w: "pods can't be made" in why(w, "Reconciling"), "told of"
        )
    oracle.holds(name)


def test_an_api_server_that_answers_nothing_but_503_for_long_is_waited_for(
    oracle: Oracle,
) -> None:
    oracle.lab.start(small_run("before-503"))
    answer = refuse(503, "ServiceUnavailable")
    with oracle.rig.proxy.breaking(ANY, answer, seconds=shortly(90)) as rule:
        oracle.lab.start(small_run("during-503"))
        for name in ("before-503", "during-503"):
            oracle.ends_well(name, timeout=300)
    oracle.settled()
    assert oracle.rig.operator.exit_code is None
    assert 3 < len(rule.met) < 20 * shortly(90), "calls while nothing but 503 was answered"


def test_a_full_etcd_is_waited_for(oracle: Oracle) -> None:
    proxy = oracle.rig.proxy

    def alarm(action: str) -> Any:
        body = {"action": action, "memberID": 0, "alarm": "NOSPACE"}
        return proxy.fetch("POST", "http://127.0.0.1:2379/v3/maintenance/alarm", body)

    oracle.lab.start(small_run("out-of-space"))
    oracle.lab.until_called(oracle.lab.cluster.get("workflow", "out-of-space")["metadata"]["uid"])
    assert alarm("ACTIVATE")["alarms"][0]["alarm"] == "NOSPACE"
    try:
        done = oracle.lab.cluster.kubectl("label", "agent", "worker", "full=1", check=False)
        assert "space exceeded" in done.stderr
    finally:
        assert alarm("DEACTIVATE")
    oracle.holds("out-of-space")
    oracle.lab.start(small_run("after-the-flood"))
    oracle.holds("after-the-flood")


def test_all_is_quiet_in_the_end(oracle: Oracle) -> None:
    oracle.settled(LAST_QUIET)
