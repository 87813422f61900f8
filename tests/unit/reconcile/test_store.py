"""The store: only newer states count, and a name that is used again is another object."""

from typing import Any

from corral.reconcile.store import PodStore, Store


def obj(name: str, version: int, uid: str = "u1", pool: str = "p") -> dict[str, Any]:
    owner = {"kind": "AgentPool", "name": pool, "uid": "pool-uid", "controller": True}
    metadata = {
        "namespace": "ns",
        "name": name,
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [{}],
        "ownerReferences": [owner],
    }
    return {"metadata": metadata}


def test_an_older_or_the_same_state_is_not_taken() -> None:
    store = Store()
    assert store.see(obj("a", 5))
    assert not store.see(obj("a", 5))
    assert not store.see(obj("a", 4))
    assert store.see(obj("a", 10))
    found = store.get(("ns", "a"))
    assert found is not None
    assert "managedFields" not in found["metadata"]


def test_a_late_deletion_does_not_remove_the_object_of_the_same_name_that_followed() -> None:
    store = Store()
    store.see(obj("a", 5))
    store.see(obj("a", 9, "u2"))
    assert not store.remove(("ns", "a"), "u1")
    assert store.remove(("ns", "a"), "u2")
    assert list(store) == list(store.in_namespace("ns")) == []


def test_a_name_that_is_used_again_tells_that_the_first_object_is_gone() -> None:
    store, gone = PodStore(), []
    store.on_replaced = lambda pod: gone.append(pod["metadata"]["uid"])
    store.see(obj("a", 5, pool="p"))
    store.see(obj("a", 6, pool="p"))
    assert gone == []
    store.see(obj("a", 9, "u2", pool="p"))
    assert gone == ["u1"]
    assert store.by_uid("u1") is None
    assert store.by_uid("u2") is not None


def test_a_pod_that_changes_its_pool_is_counted_once() -> None:
    store = PodStore()
    store.see(obj("a", 5, pool="p"))
    store.see(obj("a", 6, pool="q"))
    assert store.of_pool(("ns", "p")) == []
    assert len(store.of_pool(("ns", "q"), "pool-uid")) == 1
    assert store.of_pool(("ns", "q"), "another-uid") == []
    store.remove(("ns", "a"), "u1")
    assert store.of_pool(("ns", "q")) == []


def test_every_change_of_a_namespace_is_counted_and_of_no_other() -> None:
    store = Store()
    seen = [store.changes("ns")]
    store.see(obj("a", 5))
    seen.append(store.changes("ns"))
    store.see(obj("a", 5))
    seen.append(store.changes("ns"))
    store.remove(("ns", "a"))
    seen.append(store.changes("ns"))
    assert seen == [0, 1, 1, 2]
    assert store.changes("other") == 0
