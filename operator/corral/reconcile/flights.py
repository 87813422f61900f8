"""Who works out a memoized result, so that nobody else does so at the same time.

It lives in memory: a state that is not final says whose turn it was, and every pass over it takes
that turn again.
"""

from collections import defaultdict

from corral.plan.keys import WorkflowKey

MemoKey = tuple[str, str]
"""(namespace, memo key)."""


class Flights:
    """The results that are being worked out, and who waits for them."""

    def __init__(self) -> None:
        self._holder: dict[MemoKey, tuple[WorkflowKey, str]] = {}
        self._held: dict[WorkflowKey, set[MemoKey]] = defaultdict(set)
        self._waiting: dict[MemoKey, set[WorkflowKey]] = defaultdict(set)

    def claim(self, workflow: WorkflowKey, key: str, place: str) -> bool:
        """Whether the item at ``place`` may work out the result; else its run is woken later."""
        memo = (workflow[0], key)
        holder = self._holder.setdefault(memo, (workflow, place))
        if holder == (workflow, place):
            self._held[workflow].add(memo)
            return True
        self._waiting[memo].add(workflow)
        return False

    def settle(self, workflow: WorkflowKey, places: set[str]) -> set[WorkflowKey]:
        """Lets go of all that the run's items other than ``places`` held; returns who waited."""
        woken: set[WorkflowKey] = set()
        for memo in list(self._held.get(workflow, ())):
            if self._holder[memo][1] not in places:
                del self._holder[memo]
                self._held[workflow].discard(memo)
                woken |= self._waiting.pop(memo, set())
        if not self._held.get(workflow):
            self._held.pop(workflow, None)
        return woken
