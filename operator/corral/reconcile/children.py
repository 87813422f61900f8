"""What a run makes: its ApprovalRequests and child Workflows, as its state says that they are."""

from collections.abc import Iterable

from corral.api.workflow import WorkflowPhase
from corral.artifacts.errors import ArtifactStoreError
from corral.kube.client import ApiError, Json
from corral.plan.facts import NotYetKnownError
from corral.plan.keys import WorkflowKey
from corral.plan.kinds import children_under_way, wanted_approvals, wanted_children
from corral.plan.observed import ChildView, Pass
from corral.plan.template import called_by
from corral.reconcile.made import children_of, make_approval, make_child
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.store import key_of, owned_by
from corral.reconcile.world import World

_INVALID = (400, 413, 422)


class Children:
    """Makes them, and tells the child Workflows what becomes of their parents' steps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._refused: dict[str, ChildView] = {}
        """Child Workflows that the API server took for invalid, by name."""
        self.abandoned: set[str] = set()
        """UIDs of child Workflows that their parents' steps do not want any more."""

    def views(self, obj: Json, names: Iterable[str]) -> dict[str, ChildView]:
        """How the children of those names are, by name; without those that are not there."""
        refused = {one: self._refused[one] for one in names if one in self._refused}
        return children_of(self._world, obj, names) | refused

    def forget(self, uid: str) -> None:
        """A Workflow is gone."""
        self.abandoned.discard(uid)

    async def make(self, key: WorkflowKey, obj: Json, p: Pass) -> None:
        """Makes the ApprovalRequests and children that the state says are there.

        Raises:
            RetryLaterError: an output that one of them needs can't be read.
            ApiError: one could not be made.
        """
        calls = bool(called_by(p.spec))
        if p.run.finished_for_good:
            if calls:
                self._tell(key, obj, set())
            return
        try:
            approvals, children = wanted_approvals(p), wanted_children(p)
        except NotYetKnownError:
            try:
                await self._world.library.supply(key[0], p.facts)
                approvals, children = wanted_approvals(p), wanted_children(p)
            except (ArtifactStoreError, NotYetKnownError) as error:
                raise RetryLaterError(f"what has to be made can't be told: {error}") from error
        for approval in approvals:
            await make_approval(self._world, obj, approval)
        for child in children:
            try:
                await make_child(self._world, obj, child)
            except ApiError as error:
                if error.status not in _INVALID:
                    raise
                self._refused[child.name] = ChildView(
                    phase=WorkflowPhase.FAILED, finished=True, message=str(error)
                )
                self._world.wake.workflow(key)
        if calls:
            self._tell(key, obj, children_under_way(p))

    def _tell(self, key: WorkflowKey, obj: Json, under_way: set[str]) -> None:
        """Wakes the children: they look at what is above them; the others are to end."""
        uid = obj["metadata"]["uid"]
        for child in self._world.workflows.in_namespace(key[0]):
            if owned_by(child, uid) and not (child.get("status") or {}).get("finishedAt"):
                if child["metadata"]["name"] not in under_way:
                    self.abandoned.add(child["metadata"]["uid"])
                self._world.wake.workflow(key_of(child))
