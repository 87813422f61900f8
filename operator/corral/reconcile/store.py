"""The newest state that was seen of every object, fed by the watches and by our own writes."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from pydantic import ValidationError

from corral.api.workflow import WorkflowStatus
from corral.kube.client import Json, version_of
from corral.plan.names import WORKER_LABELS

ObjectKey = tuple[str, str]
"""(namespace, name)."""


def key_of(obj: Json) -> ObjectKey:
    """(namespace, name) of an object."""
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def pool_of(pod: Json) -> str:
    """The pool that made a pod: its owner, as anybody may take a label off."""
    owners = pod["metadata"].get("ownerReferences") or []
    made_by = (o["name"] for o in owners if o.get("controller") and o.get("kind") == "AgentPool")
    return next(made_by, "")


def is_worker(pod: Json) -> bool:
    """Whether a pod's labels are those by which workers are listed and watched."""
    return WORKER_LABELS.items() <= (pod["metadata"].get("labels") or {}).items()


def owned_by(obj: Json, uid: str) -> bool:
    """Whether the object of that UID is the one that made this one and answers for it."""
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def workflow_status(obj: Json) -> WorkflowStatus:
    """A Workflow's status; what can't be read of it is made anew, the journal is kept."""
    try:
        return WorkflowStatus.model_validate(obj.get("status") or {})
    except ValidationError:
        return WorkflowStatus(journal=(obj.get("status") or {}).get("journal"))


class Store:
    """Objects of one kind, by namespace and name."""

    def __init__(self) -> None:
        self._objects: dict[ObjectKey, Json] = {}
        self._names: dict[str, set[str]] = defaultdict(set)
        self._changes: dict[str, int] = defaultdict(int)
        self.on_replaced: Callable[[Json], None] = lambda _: None
        """Told of an object that must be gone, since another of its name was seen."""
        self.on_change: Callable[[ObjectKey, Json | None], None] = lambda *_: None
        """Told of every object that was taken, and with None of every one that is gone."""

    def is_behind(self, obj: Json) -> bool:
        """Whether that is a newer state than the known one, or of an object that is not known.

        Resource versions of one kind are compared as numbers, which the API server's etcd
        storage makes them. A new UID always wins: versions only grow.
        """
        known = self._objects.get(key_of(obj))
        return known is None or version_of(obj) > version_of(known)

    def see(self, obj: Json) -> bool:
        """Takes an object that was read or written; False if a newer state is known already."""
        if not self.is_behind(obj):
            return False
        key = key_of(obj)
        known = self._objects.get(key)
        # Never used, and often larger than the object itself.
        obj["metadata"].pop("managedFields", None)
        if known is not None and known["metadata"]["uid"] != obj["metadata"]["uid"]:
            self.remove(key)
            self.on_replaced(known)
        self._objects[key] = obj
        self._names[key[0]].add(key[1])
        self._changes[key[0]] += 1
        self.on_change(key, obj)
        return True

    def changes(self, namespace: str) -> int:
        """Grows with every change in the namespace: what was derived before may be outdated."""
        return self._changes.get(namespace, 0)

    def remove(self, key: ObjectKey, uid: str | None = None) -> bool:
        """Forgets an object, if it is still the one with that UID."""
        known = self._objects.get(key)
        if known is None or (uid is not None and known["metadata"]["uid"] != uid):
            return False
        del self._objects[key]
        self._names[key[0]].discard(key[1])
        self._changes[key[0]] += 1
        self.on_change(key, None)
        return True

    def get(self, key: ObjectKey) -> Json | None:
        return self._objects.get(key)

    def __iter__(self) -> Iterator[Json]:
        return iter(list(self._objects.values()))

    def in_namespace(self, namespace: str) -> Iterator[Json]:
        """The objects of a namespace, by name."""
        for name in sorted(self._names.get(namespace, ())):
            yield self._objects[(namespace, name)]


class PodStore(Store):
    """Worker pods, also by pool and by UID."""

    def __init__(self) -> None:
        super().__init__()
        self._of_pool: dict[ObjectKey, set[str]] = defaultdict(set)
        self._by_uid: dict[str, ObjectKey] = {}

    def see(self, obj: Json) -> bool:
        namespace, name = key_of(obj)
        known = self.get((namespace, name))
        if not super().see(obj):
            return False
        if known is not None:
            self._of_pool[(namespace, pool_of(known))].discard(name)
        self._of_pool[(namespace, pool_of(obj))].add(name)
        self._by_uid[obj["metadata"]["uid"]] = (namespace, name)
        return True

    def remove(self, key: ObjectKey, uid: str | None = None) -> bool:
        known = self.get(key)
        if not super().remove(key, uid) or known is None:
            return False
        self._of_pool[(key[0], pool_of(known))].discard(key[1])
        self._by_uid.pop(known["metadata"]["uid"], None)
        return True

    def of_pool(self, pool: ObjectKey, uid: str | None = None) -> list[Json]:
        """A pool's pods, by name; with ``uid`` only what that very pool owns."""
        names = sorted(self._of_pool.get(pool, ()))
        pods = [pod for name in names if (pod := self.get((pool[0], name))) is not None]
        return [pod for pod in pods if uid is None or owned_by(pod, uid)]

    def by_uid(self, uid: str) -> Json | None:
        key = self._by_uid.get(uid)
        return self.get(key) if key else None
