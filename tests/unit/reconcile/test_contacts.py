"""When a worker counts as lost: Kubernetes says so of its node, and the worker is silent."""

import pytest

from corral.api.attempt import Inventory
from corral.reconcile.contacts import Contacts, node_unreachable


def pod(**conditions: str) -> dict[str, object]:
    said = [{"type": kind, "status": status} for kind, status in conditions.items()]
    return {"metadata": {"uid": "w"}, "status": {"phase": "Running", "conditions": said}}


@pytest.mark.parametrize(
    ("conditions", "unreachable"),
    [
        pytest.param({"Ready": "True", "ContainersReady": "True"}, False, id="all is well"),
        pytest.param({"Ready": "False", "ContainersReady": "False"}, False, id="the kubelet says"),
        pytest.param({"Ready": "False", "ContainersReady": "True"}, True, id="its node is gone"),
        pytest.param({"PodScheduled": "True"}, False, id="it has not begun"),
        pytest.param({}, False, id="nothing is known"),
    ],
)
def test_an_unreachable_node_is_told_from_a_worker_that_is_not_ready(
    conditions: dict[str, str], unreachable: bool
) -> None:
    assert node_unreachable(pod(**conditions)) is unreachable


def test_a_worker_is_silent_since_it_answered_or_since_it_was_asked_for() -> None:
    now = [100.0]
    contacts = Contacts(lambda: now[0])
    assert contacts.silent_for("w") == 0
    now[0] = 130
    assert contacts.silent_for("w") == 30
    contacts.heard("w", Inventory(pod_uid="w", epoch=1, draining=False, free=1))
    now[0] = 135
    assert (contacts.silent_for("w"), contacts.draining("w")) == (5, False)
    contacts.heard("w", Inventory(pod_uid="w", epoch=1, draining=True, free=0))
    assert contacts.draining("w")
    contacts.forget("w")
    assert (contacts.silent_for("w"), contacts.draining("w")) == (0, False)
