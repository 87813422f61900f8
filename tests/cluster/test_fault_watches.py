"""Watches that break, fall silent or tell nonsense: what is to be done is done all the same."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.harness import phases
from tests.cluster.lab import Lab, agent, step, workflow
from tests.faults import events
from tests.faults.calls import LISTS, as_of, refuse
from tests.faults.oracle import LAST_QUIET, RULES, Oracle, observed, small_run
from tests.faults.proxy import Change, Proxy
from tests.faults.rig import Rig, wait_until

WATCHES = r"watch="


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with observed(RULES, *agent("worker", replicas=2)) as made:
        yield made


def _refused_anew(status: int) -> Callable[[Proxy], int]:
    """Watches that are cut, and refused when they begin again."""

    def fault(proxy: Proxy) -> int:
        with proxy.breaking(WATCHES, refuse(status, "Expired"), times=8) as rule:
            cut = proxy.cut(WATCHES)
            wait_until(lambda: len(rule.met) >= 2, "watches begin again")
        return cut

    return fault


BREAKS: dict[str, Callable[[Proxy], int]] = {
    "error-410": lambda proxy: proxy.tell(WATCHES, events.error(410)),
    "error-500": lambda proxy: proxy.tell(WATCHES, events.error(500)),
    "status-410": _refused_anew(410),
    "status-500": _refused_anew(500),
    "status-403": _refused_anew(403),
    "cut": lambda proxy: proxy.cut(WATCHES),
    # Until kopf's own patience ends, after 65 s.
    "silent": lambda proxy: proxy.silence(WATCHES),
}


@pytest.mark.parametrize("name", BREAKS)
def test_new_runs_are_seen_again_after_the_watches_were(oracle: Oracle, name: str) -> None:
    oracle.lab.start(small_run(f"during-{name}"))
    wait_until(lambda: oracle.rig.proxy.watching(WATCHES) >= 7, "all kinds are watched")
    assert BREAKS[name](oracle.rig.proxy) >= 7
    begun = time.monotonic()
    oracle.lab.start(small_run(f"after-{name}"))
    oracle.lab.cluster.wait(
        "workflow", f"after-{name}", lambda w: "startedAt" in w.get("status", {}), "begun", 120
    )
    print(f"{name}: served again after {time.monotonic() - begun:.1f} s")
    oracle.ends_well(f"during-{name}")
    oracle.ends_well(f"after-{name}")


TALES: dict[str, Callable[[], Change]] = {
    "are-doubled": lambda: events.doubled,
    "come-in-another-order": events.swapped,
    "are-lost-every-other": events.thinned,
}


@pytest.mark.parametrize("name", TALES)
def test_a_run_on_workers_that_are_made_meanwhile_ends_as_ever_though_events(
    oracle: Oracle, name: str
) -> None:
    lab = oracle.lab
    with oracle.rig.proxy.breaking(WATCHES, change=TALES[name]()) as rule:
        lab.make(*agent(name, replicas=1), small_run(name, agent=name))
        oracle.holds(name, timeout=240)
        assert len(rule.met) > 5
    for kind in ("agentpool", "agent"):
        lab.cluster.kubectl("delete", kind, name)
    lab.cluster.gone("pods", f"corral.dev/pool={name}", timeout=90)


def test_what_no_watch_told_of_is_found(rig: Rig, lab: Lab, oracle: Oracle) -> None:
    slow = lab.start(workflow("hidden-end", step("slow", input="slow one"), step("late", "slow")))
    lab.until_called(slow)
    with rig.proxy.breaking(r"/workflows\?.*watch=", change=events.hidden):
        lab.start(small_run("hidden-begin"))
        lab.cluster.kubectl("delete", "workflow", "hidden-end")
        stopped = workflow("hidden-stop", step("slow", input="slow too"), step("never", "slow"))
        lab.start(stopped)
        lab.until_called(lab.cluster.get("workflow", "hidden-stop")["metadata"]["uid"], timeout=200)
        lab.cluster.patch("workflow", "hidden-stop", {"spec": {"shutdown": "Terminate"}})
        done = lab.cluster.finished("hidden-stop", 200)
        oracle.holds("hidden-begin")
    assert done["status"]["phase"] == "Stopped", done["status"]
    assert phases(done)["never"] == "Omitted"
    assert {call["lastUser"] for call in lab.calls(slow)} == {"slow one"}


def test_an_old_list_deletes_nothing_and_sends_nothing_twice(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    lab.start(workflow("long-gone", step("a0")))
    lab.cluster.finished("long-gone")
    run = lab.start(small_run("listed-as-it-was"))
    lab.until_called(run)
    version = lab.cluster.get("workflow", "listed-as-it-was")["metadata"]["resourceVersion"]
    lab.cluster.kubectl("delete", "workflow", "long-gone")
    lab.until_called(run, 4)
    rig.operator.kill()
    with rig.proxy.breaking(LISTS.pattern, as_of(version, rig.read)) as rule:
        rig.start()
        oracle.holds("listed-as-it-was")
        lab.start(small_run("not-in-the-list"))
        met = len(rule.met)
        oracle.holds("not-in-the-list")
        wait_until(lambda: len(rule.met) > met + 16, "stores were compared twice", 200)
        assert lab.cluster.get("workflow", "not-in-the-list")["status"]["phase"] == "Succeeded"


def test_all_is_quiet_in_the_end(oracle: Oracle) -> None:
    oracle.settled(LAST_QUIET)
