"""etcd goes back to a snapshot while the operator runs: see the guide to disaster recovery."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import phases
from tests.cluster.lab import Lab, agent, lease, led_since, step, workflow

RULES = {"rules": [{"match": "", "latency": "2s", "reply": "yes"}]}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker"))
        yield made


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    processes.kill(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        processes.kill(pids, signal.SIGCONT)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def snapshot(to: Path) -> None:
    """What etcd has on its volume at one moment, as a volume's snapshot has it."""
    with stopped(processes.of_component("--data-dir")):
        shutil.copytree(processes.folder() / "etcd", to)


def restore(snapshot: Path) -> None:
    """Puts the snapshot in etcd's place, and starts anew what remembers later versions."""
    etcd, data = processes.of_component("--data-dir"), processes.folder() / "etcd"
    with stopped([parent(pid) for pid in etcd]):  # else etcd is started again at once
        processes.kill(etcd)
        shutil.rmtree(data)
        shutil.copytree(snapshot, data)
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"):
        processes.kill(processes.of_component(component))


def test_an_operator_that_lives_through_a_restore_begins_anew(lab: Lab, tmp_path: Path) -> None:
    names = [f"a{n}" for n in range(4)]
    chain = [step(names[0]), *(step(name, before) for before, name in pairwise(names))]
    run = lab.start(workflow("before", *chain))
    lab.until_called(run, 2)
    epoch = lease()["leaseTransitions"]
    snapshot(tmp_path / "etcd")
    lab.start(workflow("after", step("b")))
    assert lab.cluster.finished("before")["status"]["phase"] == "Succeeded"
    restore(tmp_path / "etcd")
    led_since(epoch, 90)
    found = lab.cluster.finished("before")
    assert phases(found) == dict.fromkeys(names, "Succeeded")
    assert lab.cluster.kubectl("get", "workflow", "after", check=False).returncode != 0
    again = lab.start(workflow("later", step("c")))
    assert lab.cluster.finished("later")["status"]["phase"] == "Succeeded"
    lab.called_once_each(again, {"c: go"})
