"""What workers last said of themselves, and when: a worker that is silent may be lost."""

from collections.abc import Callable
from time import monotonic

from corral.api.attempt import Inventory
from corral.kube.client import Json

UNREACHABLE_AFTER = 60.0
"""Seconds of silence after which a worker on an unreachable node counts as lost."""


class Contacts:
    """By pod UID. In memory: a new term hears all workers anew."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._draining: set[str] = set()

    def heard(self, uid: str, inventory: Inventory) -> None:
        """Notes that a worker answered."""
        self._heard[uid] = self._clock()
        if inventory.draining:
            self._draining.add(uid)

    def draining(self, uid: str) -> bool:
        """Whether the worker was told to take nothing new; that can't be taken back."""
        return uid in self._draining

    def silent_for(self, uid: str) -> float:
        """Seconds since a worker answered, or since it was first asked for here."""
        return self._clock() - self._heard.setdefault(uid, self._clock())

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._heard.pop(uid, None)
        self._draining.discard(uid)


def node_unreachable(pod: Json) -> bool:
    """Whether Kubernetes says that the pod's node does not answer.

    Once a node's lease has lapsed, the node controller makes its pods Ready=False. The kubelet, as
    long as it speaks, never says that of a pod whose containers are ready: ours have no readiness
    gates.
    """
    conditions = (pod.get("status") or {}).get("conditions") or []
    said = {found["type"]: found["status"] for found in conditions}
    return said.get("Ready") == "False" and said.get("ContainersReady") == "True"
