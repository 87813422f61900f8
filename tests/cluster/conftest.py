"""Tests on a real cluster with corral installed: ``make test`` makes one and names it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import observe
from cluster.paths import Home
from tests.cluster.harness import Cluster

if TYPE_CHECKING:
    from tests.cluster.lab import Lab
    from tests.faults.oracle import Oracle
    from tests.faults.rig import Rig

ALONE = frozenset(
    {
        "test_alerts",
        "test_lost_nodes",
        "test_memoize",
        "test_outputs",
        "test_security",
        "test_templates",
    }
)
"""Modules that act while a slow call runs, or end what others use.

Single tests that do so are marked ``alone``.
"""
APART = frozenset(
    {
        "test_artifacts",
        "test_cron",
        "test_fault_calls",
        "test_fault_operators",
        "test_fault_watches",
        "test_fault_workers",
        "test_faults",
        "test_ledger",
        "test_restore",
        "test_tracing",
    }
)
"""Modules that end operators and API servers again and again: on a cluster of their own."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what can't run beside other tests."""
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker(pytest.mark.alone)
        if item.path.stem in APART:
            item.add_marker(pytest.mark.apart)


@pytest.fixture(scope="session", autouse=True)
def _a_cluster_is_there() -> None:
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG names no cluster: run `make test`, or `make cluster` and export it")


_count = iter(range(10_000))


@contextmanager
def fresh_namespace() -> Iterator[Cluster]:
    """A namespace under restricted Pod Security; deleted afterwards."""
    name = f"test-{os.getpid()}-{next(_count)}"
    made = Cluster(name)
    made.kubectl("create", "namespace", name)
    made.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield made
    made.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A namespace for one test."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def team() -> Iterator[Cluster]:
    """A namespace for a module: its tests share the Agents in it, and no Workflow."""
    with fresh_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def at() -> observe.Addresses:
    """Where the Prometheus and the Alertmanager beside the cluster answer."""
    home = Home(Path(os.environ["KUBECONFIG"]).resolve().parent.name)
    if home.read().get("provider") != "embedded":
        pytest.skip("Prometheus is started beside an embedded cluster only")
    found = observe.addresses(home)
    if not observe.answers(f"{found.prometheus}/-/ready"):
        pytest.skip("no Prometheus is there: make observe")
    return found


@pytest.fixture
def rig(oracle: "Oracle") -> "Rig":
    """The rig of a fault module's ``oracle``."""
    return oracle.rig


@pytest.fixture
def lab(oracle: "Oracle") -> "Lab":
    """The lab of a fault module's ``oracle``; other modules have a ``lab`` of their own."""
    return oracle.lab
