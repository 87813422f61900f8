"""Calls to the API server that go wrong on their way: the end is as it would have been without."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import condition, reason, why
from tests.cluster.lab import Lab, agent
from tests.faults.calls import drop, late, lose_every_other, refuse, twice
from tests.faults.oracle import INPUTS, LAST_QUIET, RULES, Oracle, small_run
from tests.faults.proxy import Call
from tests.faults.rig import Rig, rigged, shortly

WRITES = r"^(POST|PUT|PATCH|DELETE) /api(?!.*/leases/)"
ANY = r"^\w+ /(api|openid)"


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with rigged() as rig, fresh_namespace() as cluster:
        lab = Lab(cluster)
        lab.build(RULES, *agent("worker", replicas=2))
        yield Oracle(rig, lab)


@pytest.fixture
def rig(oracle: Oracle) -> Rig:
    return oracle.rig


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "each-is-lost-on-its-way": (WRITES, {"fault": drop, "every_other": True}),
    "each-answer-is-lost": (WRITES, {"fault": lose_every_other()}),
    "each-arrives-twice": (WRITES, {"fault": twice}),
    "each-meets-a-conflict": (WRITES, {"fault": refuse(409, "Conflict"), "every_other": True}),
    "each-is-late": (WRITES, {"fault": late(0.5)}),
    "503-for-a-while": (ANY, {"fault": refuse(503, "ServiceUnavailable"), "seconds": shortly(90)}),
    "500-for-a-while": (WRITES, {"fault": refuse(500, "InternalError"), "seconds": shortly(60)}),
    "403-for-a-while": (ANY, {"fault": refuse(403, "Forbidden"), "seconds": shortly(60)}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_on_workers_that_are_made_meanwhile_ends_as_ever_though(
    oracle: Oracle, name: str
) -> None:
    lab, (pattern, fault) = oracle.lab, FAULTS[name]
    with oracle.rig.proxy.breaking(pattern, **fault) as rule:
        lab.make(*agent(name, replicas=1), small_run(name, agent=name))
        oracle.holds(name)
        assert len(rule.met) > 10
    assert lab.cluster.get("agent", name)["status"]["usage"]["requests"] == len(INPUTS)
    for kind in ("agentpool", "agent"):
        lab.cluster.kubectl("delete", kind, name)
    lab.cluster.gone("pods", f"corral.dev/pool={name}")
