"""The event loop of a local run: plan, start what was planned, wait for results or the clock."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from corral.api.workflow import WorkflowBudget, WorkflowSpec, WorkflowStatus
from corral.local.attempts import Attempts
from corral.local.children import Children
from corral.local.memory import remember, with_values
from corral.local.office import Office, StuckError
from corral.local.questions import Questions
from corral.local.tasks import Tasks
from corral.local.team import NotRunnableError
from corral.plan.attempts import running_attempts
from corral.plan.budget import Reservation
from corral.plan.holdings import reservations
from corral.plan.kinds import (
    children_looked_at,
    children_under_way,
    wanted_approvals,
    wanted_children,
)
from corral.plan.observed import AgentView, Grant, Pass, Payload, Slot, Want
from corral.plan.selection import agent_of
from corral.plan.state import Run, Worker
from corral.plan.status import status_of
from corral.plan.workflow import plan

OnStatus = Callable[[WorkflowStatus, WorkflowSpec], None]
PROCESS = "local"
_LEAST_WAIT = 0.01
"""Seconds to wait for the clock at least: a pass may ask for a moment that is just over."""


@dataclass
class LocalRun:
    """One run of a Workflow in this process.

    Args:
        spec: without problems, as ``workflow_problems`` tells them; its template resolved.
        office: what it shares with its children.
        on_status: told the status after every pass.
        memo_scope: the template's name, if there is one.
        parent: whose child it is.
    """

    name: str
    namespace: str
    spec: WorkflowSpec
    office: Office
    on_status: OnStatus = lambda status, spec: None
    memo_scope: str = ""
    parent: "LocalRun | None" = None
    status: WorkflowStatus = field(init=False, default_factory=WorkflowStatus)
    state: Run = field(init=False)
    _granted: dict[str, Slot] = field(init=False, default_factory=dict)
    """What this pass was given places for."""
    _taken: Counter[str] = field(init=False, default_factory=Counter)
    """By Agent: how many of them."""
    _refused: set[str] = field(init=False, default_factory=set)
    """Agents that had no place for all that this pass would start."""
    _held_back: bool = field(init=False, default=False)
    """Whether this pass met a reservation or a turn of somebody's that will be over."""
    _closing: bool = field(init=False, default=False)
    _timed: bool = field(init=False, default=False)
    """Whether time alone will change something: a wait, a retry, an approval's end."""

    def __post_init__(self) -> None:
        self.state = Run(run_id=str(uuid.uuid4()))
        self._woken = asyncio.Event()
        self._wake = self._woken.set
        self._tasks = Tasks(self._wake)
        self._attempts = Attempts(self.office, self.namespace, self._wake)
        self._questions = Questions(self.name, self.office, self._tasks)
        self._children = Children(self.office, self._tasks, self._child, self._wake)
        self.office.runs.add(self._wake)
        self._wake()  # there is a first pass to come

    def _child(self, name: str, spec: WorkflowSpec, template: str) -> "LocalRun":
        return LocalRun(name, self.namespace, spec, self.office, memo_scope=template, parent=self)

    @property
    def depth(self) -> int:
        """1 for a Workflow that people started, 2 for its children."""
        return 1 if self.parent is None else self.parent.depth + 1

    def stop(self, shutdown: str = "Stop") -> None:
        """Asks for ``shutdown: Stop``: what runs is cancelled, onExit steps run."""
        self.spec = self.spec.model_copy(update={"shutdown": shutdown})
        self._children.stop(shutdown)
        self._wake()

    def suspend(self, suspended: bool) -> None:
        """Nothing starts any more, or things start again."""
        if bool(self.spec.suspend) != suspended:
            self.spec = self.spec.model_copy(update={"suspend": suspended or None})
            self._wake()

    @property
    def over_budget(self) -> bool:
        """Whether it rests until its budget is raised, which nobody can do here."""
        return self.state.exceeded is not None and not self._attempts.under_way

    async def run(self) -> WorkflowStatus:
        """Runs to the end, or until only a higher budget would help; cancelled, it cancels.

        Raises:
            StuckError: it waits for what nobody can do here, and nothing runs any more.
            NotRunnableError: something that only shows while it runs is missing.
        """
        try:
            while True:
                wake = self._pass()
                self._tasks.check()
                if self.state.settled and (self.state.finished_for_good or self.over_budget):
                    return self.status
                if not self._goes_on():
                    if self.parent is None:
                        raise self.office.undecided or StuckError(self._why_stuck())
                    self.parent._wake()
                await self._sleep(wake)
        finally:
            await self._close()

    def _goes_on(self) -> bool:
        """Whether anything will change that is no deadline."""
        return (
            self._woken.is_set()
            or self._timed
            or self._closing
            or self._attempts.under_way
            or self._questions.open
            or any(child._goes_on() for child in self._children.running.values())
        )

    def _why_stuck(self) -> str:
        if self.spec.suspend:
            return f"Workflow {self.name} is suspended, and nobody can resume it here"
        resting = [child._why_stuck() for child in self._children.running.values()]
        own = self.status.message or "it waits, and nothing runs any more"
        return resting[0] if resting else f"Workflow {self.name}: {own}"

    def _pass(self) -> float | None:
        """Plans once and makes it so; returns when to plan again at the latest."""
        self._woken.clear()
        self._granted, self._taken = {}, Counter()
        self._refused, self._held_back = set(), False
        p = self._gather()
        freed = self._hold({result.attempt_id for result in p.results})
        payloads = plan(p, self._claim)
        while p.facts.needs:
            self.office.supply(p.facts)
            p.results = ()
            payloads |= plan(p, self._claim)
        if self._held_back:
            self.office.hold_back(self._wake)
        remember(p, self.office)
        self.status = with_values(status_of(p, self.status, 1), self.state, self.office)
        if p.unavailable is not None:
            raise NotRunnableError([p.unavailable[1]])
        self._act(p, payloads)
        if self._hold() or freed:
            self.office.release()
        self.office.places.settle(self._wake, self._refused)
        self._make(p)
        self._timed = any(
            node.not_before is not None and not node.final
            for frame in p.frames.all()
            for step in frame.steps.values()
            for node in step.nodes
        )
        for sentence in p.warnings:
            self.office.warn(f"Workflow {self.name}: {sentence}")
        self.on_status(self.status, self.spec)
        return min(p.wake, default=None)

    def _gather(self) -> Pass:
        office, templates = self.office, self.office.templates
        budgets: Mapping[str, WorkflowBudget | None] = {n: t.budget for n, t in templates.items()}
        spec = self.spec
        if office.undecided is not None and not spec.suspend:
            spec = spec.model_copy(update={"suspend": True})
        p = Pass(
            self.name,
            self.namespace,
            spec,
            self.state,
            {name: self._view(name) for name in office.team},
            office.clock(),
            self._attempts.take_results(),
            approvals=self._questions.views,
            templates=budgets,
            depth=self.depth,
            memo_scope=self.memo_scope,
            reserve_agent=self._reserve,
            flight=self._turn,
        )
        p.children = self._children.views(children_looked_at(p))
        return p

    def _view(self, agent: str) -> AgentView:
        # Without resets_at: nobody sits here until an Agent's budget begins anew.
        member = self.office.team[agent]
        return replace(member.view, busy=self.office.places.busy(agent), slots=member.capacity)

    def _claim(self, wants: Sequence[Want]) -> dict[str, Slot]:
        """Slots for as many as fit, in the order of the wants.

        A pass may ask several times; what it was given before, and did not use, it gets again.
        The last call says all that waits.
        """
        self._refused = set()
        for want in wants:
            if want.attempt_id in self._granted:
                continue
            free = self.office.places.free_for(want.agent, self._wake)
            if self._taken[want.agent] >= free:
                self._refused.add(want.agent)
                continue
            self._taken[want.agent] += 1
            worker = Worker(pod=PROCESS, uid=PROCESS, url="")
            revision = self.office.team[want.agent].view.revision
            self._granted[want.attempt_id] = Slot(worker, revision)
        wanted = {want.attempt_id for want in wants}
        return {one: slot for one, slot in self._granted.items() if one in wanted}

    def _reserve(self, agent: str, attempt: str, cost: Decimal | None, tokens: int) -> Grant:
        budget = self.office.budget_of(self.namespace, agent)
        run, key = (self.namespace, self.name), (self.namespace, agent)
        grant = self.office.budgets.reserve(run, key, budget, attempt, Reservation(cost, tokens))
        self._held_back = self._held_back or grant is Grant.LATER
        return grant

    def _turn(self, key: str, place: str) -> bool:
        """Whether the item at ``place`` may work out a memoized result, and nobody else does."""
        own = self.office.flights.setdefault(key, place) == place
        self._held_back = self._held_back or not own
        return own

    def _hold(self, ended: Collection[str] = ()) -> bool:
        """Holds of Agents' budgets what the state says, and whether that is less than before."""
        held = {
            attempt: ((self.namespace, agent), reservation)
            for attempt, (agent, reservation) in reservations(self.spec, self.state).items()
            if attempt not in ended and self.office.budget_of(self.namespace, agent) is not None
        }
        return bool(self.office.budgets.hold_only((self.namespace, self.name), held))

    def _act(self, p: Pass, payloads: Mapping[str, Payload]) -> None:
        for attempt, (_, spec, step, index) in running_attempts(p).items():
            agent = agent_of(spec, step.nodes[index])
            if attempt in payloads and agent is not None:
                self._attempts.start(agent, payloads[attempt])
        for attempt, worker in self.state.unsettled.items():
            self._attempts.cancel(attempt, worker)

    def _make(self, p: Pass) -> None:
        """Asks people, and starts child Workflows."""
        self._questions.ask(wanted_approvals(p))
        self._questions.keep_only(p)
        self._children.begin(wanted_children(p))
        self._children.hand_down(children_under_way(p), suspended=p.suspended)

    async def _sleep(self, wake: float | None) -> None:
        """Until a result, ``stop`` or the moment ``wake``."""
        wait = None if wake is None else max(_LEAST_WAIT, wake - self.office.clock())
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            return
        # What ends at the same time shares a pass.
        await asyncio.sleep(0)

    async def _close(self) -> None:
        self._closing = True
        await self._tasks.close()
        await self._attempts.close()
        self.office.leave(self._wake)
        if self.parent is None:
            members = self.office.team.values()
            await asyncio.gather(*(member.runtime.aclose() for member in members))
