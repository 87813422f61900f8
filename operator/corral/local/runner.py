"""The event loop of a local run: plan, start what was planned, wait for results or the clock."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from corral.api.attempt import ModelUsage
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.local.team import Team
from corral.plan.attempts import running_attempts
from corral.plan.observed import Pass, Payload, Result, Slot, Want
from corral.plan.selection import agent_of
from corral.plan.state import Consumption, Run, Worker, effect_key, priced
from corral.plan.status import status_of
from corral.plan.workflow import plan
from corral.worker.outcome import AttemptOutcome, UsageMeter

Price = Callable[[ModelSpec | None, ModelUsage], Decimal | None]
OnStatus = Callable[[WorkflowStatus, WorkflowSpec], None]
PROCESS = "local"
_LEAST_WAIT = 0.01
"""Seconds to wait for the clock at least: a pass may ask for a moment that is just over."""


@dataclass
class LocalRun:
    """One run of a Workflow in this process.

    Args:
        spec: without problems, as ``workflow_problems`` tells them.
        team: all Agents that it names.
        price: what a model's usage costs; None where it has no price.
        on_status: told the status after every pass.
    """

    name: str
    namespace: str
    spec: WorkflowSpec
    team: Team
    models: Mapping[str, ModelSpec]
    price: Price
    on_status: OnStatus = lambda status, spec: None
    clock: Callable[[], float] = time.time
    status: WorkflowStatus = field(init=False, default_factory=WorkflowStatus)
    _tasks: dict[str, asyncio.Task[AttemptOutcome]] = field(init=False, default_factory=dict)
    _busy: Counter[str] = field(init=False, default_factory=Counter)
    _taken: Counter[str] = field(init=False, default_factory=Counter)
    """What is busy, and what this pass has claimed."""
    _results: list[Result] = field(init=False, default_factory=list)
    _wake: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def stop(self) -> None:
        """Asks for ``shutdown: Stop``: what runs is cancelled, onExit steps run."""
        self.spec = self.spec.model_copy(update={"shutdown": "Stop"})
        self._wake.set()

    async def run(self) -> WorkflowStatus:
        """Runs to the end; cancelled, it cancels what runs."""
        state = Run(run_id=str(uuid.uuid4()))
        try:
            while True:
                wake = self._pass(state)
                if state.finished_for_good and not state.unsettled:
                    return self.status
                await self._sleep(wake)
        finally:
            await self._close()

    def _pass(self, state: Run) -> float | None:
        """Plans once and makes it so; returns when to plan again at the latest."""
        self._wake.clear()
        self._taken = Counter(self._busy)
        results, self._results = self._results, []
        agents = {name: member.view for name, member in self.team.items()}
        p = Pass(self.name, self.namespace, self.spec, state, agents, self.clock(), results)
        payloads = plan(p, self._claim)
        self.status = status_of(p, self.status, 1)
        running = running_attempts(p)
        for attempt, (_, spec, step, index) in running.items():
            agent = agent_of(spec, step.nodes[index])
            if attempt in payloads and agent is not None:
                self._start(agent, payloads[attempt])
        for attempt in state.unsettled:
            self._cancel(attempt, state.unsettled[attempt])
        self.on_status(self.status, self.spec)
        return min(p.wake, default=None)

    def _claim(self, wants: Sequence[Want]) -> dict[str, Slot]:
        """Slots for as many as fit, in the order of the wants; a pass may ask several times."""
        slots: dict[str, Slot] = {}
        taken = self._taken
        for want in wants:
            member = self.team[want.agent]
            if taken[want.agent] < member.capacity:
                taken[want.agent] += 1
                worker = Worker(pod=PROCESS, uid=PROCESS, url="")
                slots[want.attempt_id] = Slot(worker, member.view.revision)
        return slots

    def _start(self, agent: str, payload: Payload) -> None:
        meter = UsageMeter()
        answer = self.team[agent].runtime.run(
            payload.attempt_id,
            payload.input,
            payload.input_data,
            payload.output_schema,
            payload.timeout,
            effect_key=effect_key(payload.attempt_id),
            meter=meter,
        )
        task = asyncio.create_task(answer, name=payload.attempt_id)
        self._busy[agent] += 1
        self._tasks[payload.attempt_id] = task
        # Not in the coroutine: cancelled before its first step it would run none of its code.
        task.add_done_callback(lambda ended: self._ended(agent, payload, meter, ended))

    def _ended(
        self, agent: str, payload: Payload, meter: UsageMeter, task: asyncio.Task[AttemptOutcome]
    ) -> None:
        self._busy[agent] -= 1
        del self._tasks[payload.attempt_id]
        output, error, message = None, None, ""
        if task.cancelled():
            error, message = ErrorClass.INTERNAL, "cancelled"
        elif (failure := task.exception()) is not None:
            error, message = ErrorClass.INTERNAL, f"unexpected {type(failure).__name__}: {failure}"
        else:
            outcome = task.result()
            output = outcome.output
            if outcome.error is not None:
                error, message = outcome.error.error_class, outcome.error.message
        used = self._priced(meter.usage())
        self._results.append(
            Result(payload.attempt_id, payload.worker.uid, used, output, error, message)
        )
        self._wake.set()

    def _priced(self, usage: Sequence[ModelUsage]) -> Consumption:
        total = Consumption()
        for used in usage:
            total.add(priced(used, self.price(self.models.get(used.model_ref), used)))
        return total

    def _cancel(self, attempt: str, worker: Worker) -> None:
        """Ends an attempt that was given up; its usage comes as a result either way."""
        if (task := self._tasks.get(attempt)) is not None:
            task.cancel()
        elif all(result.attempt_id != attempt for result in self._results):
            self._results.append(Result(attempt, worker.uid, Consumption()))
            self._wake.set()

    async def _sleep(self, wake: float | None) -> None:
        """Until a result, ``stop`` or the moment ``wake``."""
        wait = None if wake is None else max(_LEAST_WAIT, wake - self.clock())
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            return
        # What ends at the same time shares a pass.
        await asyncio.sleep(0)

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(member.runtime.aclose() for member in self.team.values()))
