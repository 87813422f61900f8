"""What people are asked for one run."""

import asyncio
from collections.abc import Iterable, Mapping

from corral.local.office import NobodyDecidesError, Office
from corral.local.tasks import Tasks
from corral.plan.kinds import awaited_approvals
from corral.plan.observed import ApprovalView, Pass, WantedApproval


class Questions:
    """Asks each question once, for as long as the run waits for the answer."""

    def __init__(self, workflow: str, office: Office, tasks: Tasks) -> None:
        self._workflow = workflow
        self._office = office
        self._tasks = tasks
        self._views: dict[str, ApprovalView] = {}
        self._open: dict[str, asyncio.Task[None]] = {}

    @property
    def views(self) -> Mapping[str, ApprovalView]:
        """By the name of the approval: what was asked, and what was answered."""
        return self._views

    @property
    def open(self) -> bool:
        """Whether somebody is being asked."""
        return any(not task.done() for task in self._open.values())

    def ask(self, wanted: Iterable[WantedApproval]) -> None:
        """Asks what has not been asked."""
        for one in wanted:
            self._views[one.name] = ApprovalView()
            self._open[one.name] = self._tasks.spawn(self._ask(one))

    def keep_only(self, p: Pass) -> None:
        """Nobody is asked what the run does not wait for any more."""
        for name in self._open.keys() - awaited_approvals(p):
            self._open.pop(name).cancel()

    async def _ask(self, wanted: WantedApproval) -> None:
        view = await self._office.decide(self._workflow, wanted)
        if view is not None:
            self._views[wanted.name] = view
        elif wanted.expires_at is None:  # else it is decided by the clock
            self._office.nobody_decides(NobodyDecidesError(self._workflow, wanted))
