"""Operators that die, hang, are cut off, are absent, or lose their clock in the middle of runs."""

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import Lab, agent, lease, led_since, step, workflow
from tests.faults.calls import after, before, drop, held_until
from tests.faults.oracle import LAST_QUIET, RULES, Oracle, observed, small_run
from tests.faults.proxy import Call
from tests.faults.rig import HASTE, Rig, wait_until

KILLS = 40 if HASTE == 1 else 6
EFFECTIVE = r"^(POST|PUT|PATCH|DELETE) /(api(?!.*(/leases/|/token|/events))|workers/)"
"""Calls that change something."""
LIBRARIES = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with observed(RULES, *agent("worker", replicas=2)) as made:
        yield made


def test_an_operator_that_is_killed_before_or_after_any_call_changes_nothing(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    seed = int(os.environ.get("CORRAL_SEED") or random.randrange(10**6))
    print(f"CORRAL_SEED={seed}")
    draw = random.Random(seed)
    done: list[Call] = []
    runs = [f"killed-{n}" for n in range(1 if HASTE > 1 else 4)]
    uids = [lab.start(small_run(name)) for name in runs]
    for _ in range(KILLS):
        when, spared = draw.choice((before, after)), draw.randrange(4)
        with rig.proxy.breaking(EFFECTIVE, when(rig.operator.kill), spare=spared, times=1) as rule:
            wait_until(
                lambda: rule.met or _all_ended(lab, runs), "it is killed, or has nothing to do"
            )
        if not rule.met:
            break
        wait_until(lambda: rig.operator.exit_code is not None, "it is dead")
        done += rule.met
        rig.start()
    print(*(f"{call.status} {call}" for call in done), sep="\n")
    assert len(done) > 2
    for name in runs:
        oracle.ends_well(name)
    oracle.settled()
    assert len(set(uids)) == len(runs)


def _all_ended(lab: Lab, names: list[str]) -> bool:
    return all("finishedAt" in lab.cluster.get("workflow", n).get("status", {}) for n in names)


def test_a_leader_that_is_cut_off_and_whose_write_arrives_late_changes_nothing(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    first, epoch, release = rig.operator, lease()["leaseTransitions"], threading.Event()
    second = rig.join("second", **_ports(100))
    run = lab.start(workflow("other", step("slow", input="slow"), step("a0", "slow")))
    lab.until_called(run)
    writes = r"^PUT .*/workflows/cut-off/"
    with rig.proxy.breaking(writes, held_until(release), by="rigged", spare=2) as held:
        lab.start(small_run("cut-off"))
        wait_until(lambda: held.met, "a write is on its way")
        with rig.proxy.breaking(r"^\w+ /api", drop, by="rigged"):
            taken = led_since(epoch, 60)
            assert taken["holderIdentity"] == "second"
            oracle.ends_well("cut-off")
            release.set()
            wait_until(lambda: held.met[0].status != 0, "the late write has arrived")
            assert held.met[0].status == 409
            wait_until(lambda: first.exit_code is not None, "the first has heard of the second")
    assert first.exit_code == 1
    assert "a worker has heard a later epoch" in first.log.read_text()
    oracle.settled()
    lab.called_once_each(run, {"slow", "a0: go"})
    second.stop()
    rig.start()


def _ports(more: int) -> dict[str, str]:
    """Ports for an operator beside another."""
    names = {"HEALTH": 8081, "METRICS": 9090, "ARTIFACTS": 8082, "LEDGER": 8083}
    return {f"CORRAL_{name}_PORT": str(port + more) for name, port in names.items()}


def test_what_users_delete_while_no_operator_is_there_goes_away(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    lab.make(*agent("unloved", replicas=1), small_run("unloved", agent="unloved"))
    lab.ready("unloved", 1)
    slow = lab.start(workflow("dropped", step("slow", input="slow"), step("a0", "slow")))
    lab.until_called(slow)
    rig.operator.stop()
    for kind, name in (
        ("workflow", "dropped"),
        ("workflow", "unloved"),
        ("agentpool", "unloved"),
        ("agent", "unloved"),
    ):
        lab.cluster.kubectl("delete", kind, name, "--timeout=30s")
    lab.cluster.gone("pods", "corral.dev/pool=unloved", 60)
    rig.start()
    lab.start(small_run("after-the-absence"))
    oracle.holds("after-the-absence")
    assert {call["lastUser"] for call in lab.calls(slow)} == {"slow"}
    ended = [c for c in rig.proxy.calls if c.target.endswith(":cancel") and slow in c.target]
    assert ended, "nobody told the worker that nobody waits for it"


def test_a_crd_that_is_upgraded_and_rolled_back_stops_no_run(
    rig: Rig, lab: Lab, oracle: Oracle
) -> None:
    before_it = json.loads(lab.cluster.kubectl("get", "crd", "--output=json").stdout)["items"]
    crds = [crd for crd in before_it if crd["spec"]["group"] == "corral.dev"]
    assert len(crds) >= 7
    run = lab.start(small_run("upgraded"))
    lab.until_called(run)
    for text in ("upgraded", "rolled back"):
        for crd in crds:
            version = crd["spec"]["versions"][0]
            schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            if text == "upgraded":
                schema["fromTheFuture"] = {"type": "string", "description": text}
            else:
                del schema["fromTheFuture"]
        changed = {
            crd["metadata"]["name"]: {"spec": {"versions": crd["spec"]["versions"]}} for crd in crds
        }
        for name, change in changed.items():
            lab.cluster.patch("crd", name, change)
        meanwhile = small_run(text.replace(" ", "-") + "-meanwhile")
        if text == "upgraded":
            meanwhile["spec"]["fromTheFuture"] = "this operator does not know it"
        lab.until_called(lab.start(meanwhile))
    for name in ("upgraded", "upgraded-meanwhile", "rolled-back-meanwhile"):
        oracle.ends_well(name)
    oracle.settled()


def test_a_clock_that_jumps_by_an_hour_times_nothing_out(
    rig: Rig, lab: Lab, oracle: Oracle, tmp_path: Path
) -> None:
    library = next(LIBRARIES, None)
    if library is None:
        pytest.skip("needs Debian's libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    rig.operator.stop()
    rig.start(
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    epoch = lease()["leaseTransitions"]
    for name, offset in (("an-hour-on", "+3600"), ("an-hour-back", "-3600")):
        steps = [step("slow", input="slow", timeout="20s"), step("a0", "slow")]
        run = lab.start(workflow(f"slow-{name}", *steps, deadline="5m"))
        lab.start(small_run(name))
        lab.until_called(run)
        clock.write_text(offset)
        lab.start(small_run(f"{name}-after"))
        slow = lab.cluster.finished(f"slow-{name}")
        assert slow["status"]["phase"] == "Succeeded", slow["status"]
        lab.called_once_each(run, {"slow", "a0: go"})
        oracle.ends_well(name)
        oracle.ends_well(f"{name}-after")
    assert lease()["leaseTransitions"] == epoch
    oracle.settled()
    rig.operator.stop()
    rig.start()


def test_all_is_quiet_in_the_end(oracle: Oracle) -> None:
    oracle.settled(LAST_QUIET)
