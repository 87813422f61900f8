"""The event loop of a local run: plan, start what was planned, wait for results or the clock."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from corral.api.errors import ErrorClass, Reason
from corral.api.template import TemplateSpec
from corral.api.workflow import WorkflowBudget, WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.local.attempts import Attempts
from corral.local.office import NobodyDecidesError, Office
from corral.local.team import NotRunnableError
from corral.plan.attempts import running_attempts
from corral.plan.budget import Reservation
from corral.plan.facts import ArtifactNeed, Facts, Memo
from corral.plan.holdings import reservations
from corral.plan.kinds import (
    children_looked_at,
    children_under_way,
    wanted_approvals,
    wanted_children,
)
from corral.plan.observed import (
    AgentView,
    ApprovalView,
    ChildView,
    Pass,
    Slot,
    Want,
    WantedApproval,
    WantedChild,
)
from corral.plan.selection import agent_of
from corral.plan.state import Run, Stored, Worker
from corral.plan.status import short_output, status_of
from corral.plan.template import argument_problems, resolve
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
    """

    name: str
    namespace: str
    spec: WorkflowSpec
    office: Office
    on_status: OnStatus = lambda status, spec: None
    depth: int = 1
    memo_scope: str = ""
    status: WorkflowStatus = field(init=False, default_factory=WorkflowStatus)
    state: Run = field(init=False)
    _approvals: dict[str, ApprovalView] = field(init=False, default_factory=dict)
    _children: dict[str, "LocalRun"] = field(init=False, default_factory=dict)
    _ended: dict[str, ChildView] = field(init=False, default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    _failure: Exception | None = field(init=False, default=None)
    _taken: Counter[str] = field(init=False, default_factory=Counter)
    """What is busy, and what this pass has claimed."""
    _granted: dict[str, Slot] = field(init=False, default_factory=dict)
    _wake: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.state = Run(run_id=str(uuid.uuid4()))
        self._attempts = Attempts(self.office, self.namespace, self._wake.set)
        self.office.waiting.append(self._wake.set)

    def stop(self, shutdown: str = "Stop") -> None:
        """Asks for ``shutdown: Stop``: what runs is cancelled, onExit steps run."""
        self.spec = self.spec.model_copy(update={"shutdown": shutdown})
        for child in self._children.values():
            child.stop(shutdown)
        self._wake.set()

    @property
    def over_budget(self) -> bool:
        """Whether it rests until its budget is raised, which nobody can do here."""
        return self.state.exceeded is not None and not self._attempts.under_way

    async def run(self) -> WorkflowStatus:
        """Runs to the end, or until only a higher budget would help; cancelled, it cancels.

        Raises:
            NobodyDecidesError: a step waits for a person, and nobody can be asked.
            NotRunnableError: something that only shows while it runs is missing.
        """
        try:
            while True:
                wake = self._pass()
                if self._failure is not None:
                    raise self._failure
                if self.state.finished_for_good and self.state.settled:
                    return self.status
                if self.over_budget and self.state.settled:
                    return self.status
                await self._sleep(wake)
        finally:
            await self._close()

    def _pass(self) -> float | None:
        """Plans once and makes it so; returns when to plan again at the latest."""
        self._wake.clear()
        self._taken, self._granted = Counter(self.office.busy), {}
        p = self._gather()
        payloads = plan(p, self._claim)
        while p.facts.needs:
            self.office.supply(p.facts)
            p.results = ()
            payloads |= plan(p, self._claim)
        self._keep(p)
        self.status = self._with_values(status_of(p, self.status, 1))
        if p.unavailable is not None:
            raise NotRunnableError([p.unavailable[1]])
        for attempt, (_, spec, step, index) in running_attempts(p).items():
            agent = agent_of(spec, step.nodes[index])
            if attempt in payloads and agent is not None:
                self._attempts.start(agent, payloads[attempt])
        for attempt, worker in self.state.unsettled.items():
            self._attempts.cancel(attempt, worker)
        held = {
            attempt: ((self.namespace, agent), reservation)
            for attempt, (agent, reservation) in reservations(self.spec, self.state).items()
            if self.office.budget_of(self.namespace, agent) is not None
        }
        self.office.budgets.hold_only((self.namespace, self.name), held)
        self._make(p)
        self.on_status(self.status, self.spec)
        return min(p.wake, default=None)

    def _gather(self) -> Pass:
        office, templates = self.office, self.office.templates
        budgets: Mapping[str, WorkflowBudget | None] = {n: t.budget for n, t in templates.items()}
        p = Pass(
            self.name,
            self.namespace,
            self.spec,
            self.state,
            {name: self._view(name) for name in office.team},
            office.clock(),
            self._attempts.take_results(),
            approvals=self._approvals,
            templates=budgets,
            depth=self.depth,
            memo_scope=self.memo_scope,
            facts=Facts(),
            reserve_agent=lambda agent, attempt, cost, tokens: office.budgets.reserve(
                (self.namespace, self.name),
                (self.namespace, agent),
                office.budget_of(self.namespace, agent),
                attempt,
                Reservation(cost, tokens),
            ),
            flight=lambda key, place: office.flights.setdefault(key, place) == place,
        )
        p.children = {
            name: self._ended.get(name, ChildView())
            for name in children_looked_at(p)
            if name in self._children or name in self._ended
        }
        return p

    def _view(self, agent: str) -> AgentView:
        member = self.office.team[agent]
        resets = self.office.budgets.resets_at((self.namespace, agent))
        busy = self.office.busy[agent]
        return replace(member.view, busy=busy, slots=member.capacity, resets_at=resets)

    def _claim(self, wants: Sequence[Want]) -> dict[str, Slot]:
        """Slots for as many as fit, in the order of the wants.

        A pass may ask several times; what it was given before, and did not use, it gets again.
        """
        taken = self._taken
        for want in wants:
            member = self.office.team[want.agent]
            if want.attempt_id not in self._granted and taken[want.agent] < member.capacity:
                taken[want.agent] += 1
                worker = Worker(pod=PROCESS, uid=PROCESS, url="")
                self._granted[want.attempt_id] = Slot(worker, member.view.revision)
        wanted = {want.attempt_id for want in wants}
        return {one: slot for one, slot in self._granted.items() if one in wanted}

    def _keep(self, p: Pass) -> None:
        """Keeps large values and results for others, and lets go of what nobody works out."""
        for sha256, content in p.to_store.items():
            self.office.values[(self.state.run_id, sha256)] = json.loads(content)
        for key, kept in p.to_memoize.items():
            value = kept.value if kept.stored is None else self._value(kept.stored)
            self.office.memos[key] = Memo(value, p.now)
        live = {
            frame.place(frame.specs[name], index)
            for frame in p.frames.all()
            for name, step in frame.steps.items()
            for index, node in enumerate(step.nodes)
            if node.memo is not None and not node.final
        }
        own = f"{self.state.run_id}."
        flights = self.office.flights
        over = [k for k, at in flights.items() if at.startswith(own) and at not in live]
        for key in over:
            del flights[key]
        if over:
            self.office.landed()

    def _with_values(self, status: WorkflowStatus) -> WorkflowStatus:
        """The status with outputs where a cluster's has references: there is no store to ask."""
        if self.state.output_stored is not None:
            status.output = self._value(self.state.output_stored)
        steps = self.state.steps | self.state.exit_steps
        for row in status.steps or []:
            step = steps[row.name]
            if not step.is_fan_out and step.nodes and step.nodes[0].stored is not None:
                row.output = short_output(self._value(step.nodes[0].stored))
        return status

    def _value(self, stored: Stored) -> Any:
        facts = Facts()
        need = ArtifactNeed(stored.run_id or self.state.run_id, stored.sha256, stored.size)
        facts.needs.add(need)
        self.office.supply(facts)
        return facts.known[need]

    def _make(self, p: Pass) -> None:
        """Asks people, and starts child Workflows."""
        for wanted in wanted_approvals(p):
            self._approvals[wanted.name] = ApprovalView()
            self._spawn(self._ask(wanted))
        for child in wanted_children(p):
            if child.name not in self._children and child.name not in self._ended:
                self._begin(child)
        under_way = children_under_way(p)
        for name, run in self._children.items():
            if name not in under_way:
                run.stop()
            suspended = p.suspended or None
            if run.spec.suspend != suspended:
                run.spec = run.spec.model_copy(update={"suspend": suspended})
                run._wake.set()

    async def _ask(self, wanted: WantedApproval) -> None:
        view = await self.office.decide(self.name, wanted)
        if view is None:
            raise NobodyDecidesError(self.name, wanted)
        self._approvals[wanted.name] = view

    def _begin(self, wanted: WantedChild) -> None:
        template = self.office.templates[wanted.template]
        spec = _child_spec(wanted, template)
        problems = argument_problems(template, spec.arguments or {})
        if problems:
            why = "; ".join(str(problem) for problem in problems)
            self._ended[wanted.name] = ChildView(WorkflowPhase.PENDING, True, message=why)
            self._wake.set()
            return
        child = LocalRun(
            wanted.name,
            self.namespace,
            spec,
            self.office,
            depth=self.depth + 1,
            memo_scope=wanted.template,
        )
        self._children[wanted.name] = child
        self._spawn(self._follow(wanted.name, child))

    async def _follow(self, name: str, child: "LocalRun") -> None:
        await child.run()
        del self._children[name]
        run = child.state
        stored = run.output_stored
        if stored is not None and stored.run_id is None:
            stored = stored.model_copy(update={"run_id": run.run_id})
        failed = [row.reason for row in child.status.steps or [] if row.phase == "Failed"]
        over = child.over_budget
        spent = over or run.halted is Reason.BUDGET_EXCEEDED
        self._ended[name] = ChildView(
            phase=WorkflowPhase.FAILED if over else run.phase,
            finished=True,
            used=run.used(),
            output=run.output,
            stored=stored,
            reason=ErrorClass.BUDGET if spent else next((why for why in failed if why), ""),
            message=child.status.message or "",
        )

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failure = error
        self._wake.set()

    async def _sleep(self, wake: float | None) -> None:
        """Until a result, ``stop`` or the moment ``wake``."""
        wait = None if wake is None else max(_LEAST_WAIT, wake - self.office.clock())
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            return
        # What ends at the same time shares a pass.
        await asyncio.sleep(0)

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._attempts.close()
        if self.depth == 1:
            members = self.office.team.values()
            await asyncio.gather(*(member.runtime.aclose() for member in members))


def _child_spec(wanted: WantedChild, template: TemplateSpec) -> WorkflowSpec:
    budget: WorkflowBudget | None = template.budget
    if wanted.max_cost is not None or wanted.max_tokens is not None:
        ends = "Conclude" if wanted.concludes else "Fail"
        own = budget or WorkflowBudget(on_exceeded=ends)
        cost = None if wanted.max_cost is None else f"{wanted.max_cost:f}"
        budget = own.model_copy(update={"max_cost_usd": cost, "max_tokens": wanted.max_tokens})
    spec = WorkflowSpec(arguments=wanted.arguments, budget=budget)
    return resolve(spec, template)
