"""What must hold once a fault has passed: the same end, every call once, no orphans, then quiet."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition
from tests.cluster.lab import Lab, each, step, workflow
from tests.faults.rig import HASTE, Rig, rigged, wait_until

QUIET = 60.0 if HASTE == 1 else 2.5
"""Seconds without a write after each fault."""
LAST_QUIET = 60.0 if HASTE == 1 else 10.0
"""Seconds without a write after all faults of a module."""
_OF_A_RUN = frozenset(
    {
        "startedAt",
        "finishedAt",
        "lastTransitionTime",
        "observedGeneration",
        "runID",
        "journal",
        "agent",
    }
)
RULES = {
    "rules": [
        {"match": "^slow", "latency": "3s", "reply": "slow answer"},
        {"match": "^wide", "latency": "250ms", "reply": "one of many"},
        {"match": "", "latency": "150ms", "reply": "yes"},
    ]
}
INPUTS = {f"a{n}: go" for n in range(3)} | {f"wide {n}" for n in range(4)} | {"end: go"}


def small_run(name: str, agent: str = "worker") -> Json:
    """A chain and a fan-out that end together: ``INPUTS`` are what the model is asked."""
    return workflow(
        name,
        step("a0", agent=agent),
        step("wide", "a0", agent=agent, input="wide $(item)", **each(*range(4), maxConcurrent=2)),
        step("a1", "a0", agent=agent),
        step("a2", "a1", agent=agent),
        step("end", "a2", "wide", agent=agent),
    )


def end_state(run: Json) -> Any:
    """A Workflow's status without what differs between any two runs, as of one never suspended."""
    status = _without(run["status"])
    status["conditions"] = [c for c in status["conditions"] if c["type"] != "Suspended"]
    return status


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(one) for name, one in value.items() if name not in _OF_A_RUN}
    return [_without(one) for one in value] if isinstance(value, list) else value


class Oracle:
    """Knows how ``small_run`` ends where nothing goes wrong."""

    def __init__(self, rig: Rig, lab: Lab) -> None:
        self.rig = rig
        self.lab = lab
        lab.start(small_run("as-it-should-be"))
        self._end = end_state(lab.cluster.finished("as-it-should-be"))
        assert self._end["phase"] == "Succeeded"

    def holds(self, name: str, timeout: float = 120) -> None:
        """Waits for the end of a ``small_run``, and looks at everything."""
        self.ends_well(name, timeout)
        self.settled()

    def ends_well(self, name: str, timeout: float = 120) -> None:
        """Waits for the end of a ``small_run``, which is as ever, and every call was made once."""
        run = self.lab.cluster.finished(name, timeout)
        assert end_state(run) == self._end, f"{end_state(run)}\nis not as ever:\n{self._end}"
        self.lab.called_once_each(run["metadata"]["uid"], INPUTS)

    def settled(self, seconds: float = QUIET) -> None:
        """Waits until no worker works, every pool has the pods that it wants, and all is quiet."""
        for _ in range(3):
            wait_until(lambda: self._unsettled() == [], "every pool is at rest", 60)
            self.rig.quiet(seconds)
            if not (unsettled := self._unsettled()):
                return
            # Meanwhile a pool that nobody uses began to go down to nothing.
        pytest.fail(f"never at rest and quiet: {unsettled}")

    def _unsettled(self) -> list[str]:
        cluster, found = self.lab.cluster, []
        pools = cluster.list("agentpools")
        for pool in pools:
            status, name = pool.get("status", {}), pool["metadata"]["name"]
            counts = [status.get(n) for n in ("replicas", "readyReplicas", "desiredReplicas")]
            busy = [status.get(n, 0) for n in ("busyReplicas", "queuedSteps", "runningSteps")]
            if len(set(counts)) != 1 or any(busy) or condition(pool, "Ready") != "True":
                found.append(f"pool {name}: {counts} {busy}")
        wanted = sum(pool.get("status", {}).get("desiredReplicas", 0) for pool in pools)
        pods = cluster.list("pods", "--selector=!app")
        if len(pods) != wanted:
            found.append(f"{len(pods)} worker pods, not {wanted}")
        owners = {pool["metadata"]["uid"] for pool in pools}
        found += [
            f"pod {pod['metadata']['name']} is of no pool"
            for pod in pods
            if pod["metadata"]["ownerReferences"][0]["uid"] not in owners
        ]
        return found


@contextmanager
def observed(rules: Json, *objects: Json) -> Iterator[Oracle]:
    """A rig and a namespace with a model server of these rules and with these objects."""
    with rigged() as rig, fresh_namespace() as cluster:
        lab = Lab(cluster)
        lab.build(rules, *objects)
        yield Oracle(rig, lab)
