"""Runs a Workflow to its end in memory: a fleet that answers from a script, and a clock that jumps.

Every pass starts from the journal that the last one left, as the operator's do. Times are seconds
since the run was submitted.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from corral.api.attempt import InputRequired
from corral.api.errors import ErrorClass
from corral.api.types import Condition
from corral.api.workflow import StepRow, WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.plan.attempts import running_attempts
from corral.plan.facts import ArtifactNeed, Facts, Memo, MemoNeed, Need
from corral.plan.holdings import turns
from corral.plan.kinds import wanted_approvals, wanted_children
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import (
    AgentView,
    ApprovalView,
    ChildView,
    Grant,
    Pass,
    Payload,
    Result,
    Slot,
    Want,
    WantedApproval,
    WantedChild,
)
from corral.plan.selection import agent_of, all_steps
from corral.plan.state import Consumption, Run, Worker, from_journal
from corral.plan.status import status_of
from corral.plan.validate import Problem, workflow_problems
from corral.plan.workflow import plan

T0 = 1_800_000_000.0
NAME, NAMESPACE, RUN_ID = "report", "demo", "run-1"


@dataclass(frozen=True)
class Answer:
    """How one attempt ends, and after how many seconds; ``takes=None`` is never."""

    output: Any = None
    error: ErrorClass | None = None
    message: str = ""
    takes: float | None = 1.0
    used: Consumption = field(default_factory=Consumption)
    asks: InputRequired | None = None


def ok(output: Any = "done", takes: float | None = 1.0, cost: str | None = "0.01") -> Answer:
    """A success; ``cost=None`` is a model without a price."""
    return Answer(output, None, "", takes, used(cost))


def fails(error: str = "InvalidOutput", message: str = "no good", takes: float = 1.0) -> Answer:
    """A failure that cost a cent."""
    return Answer(None, ErrorClass(error), message, takes, used("0.01"))


HANGS = Answer(takes=None)


def used(cost: str | None) -> Consumption:
    """One request's usage."""
    return Consumption(
        requests=1,
        input_tokens=10,
        output_tokens=5,
        cost=None if cost is None else Decimal(cost),
        unpriced_requests=int(cost is None),
    )


Script = Mapping[str, Answer | Sequence[Answer]]
"""By ``step@iteration``, ``step#attempt``, ``step[item]#attempt``, ``step[item]`` or ``step``; a
list is by attempt. A nested step is found by its own name or its whole path."""


@dataclass(frozen=True)
class Started:
    """An attempt that was sent to a worker."""

    step: str
    index: int
    attempt: int
    at: float
    payload: Payload


def spec_of(text: str) -> WorkflowSpec:
    """A spec from YAML, read as strictly as an author's file."""
    return WorkflowSpec.model_validate(yaml.safe_load(text), extra="forbid")


def problems(text: str) -> list[str]:
    """What is wrong with a spec."""
    return [str(problem) for problem in problems_of(text)]


def problems_of(text: str) -> list[Problem]:
    return workflow_problems(spec_of(text))


def split_id(identity: str) -> tuple[str, int, int]:
    """(step, item, attempt) of an attempt id."""
    _, step, index, _, attempt = identity.rsplit(".", 4)
    return step, int(index), int(attempt)


def iteration_of(identity: str) -> int:
    return int(identity.rsplit(".", 2)[1])


class Simulation:
    """One Workflow, its fleet and its clock."""

    def __init__(
        self,
        text: str,
        answers: Script | None = None,
        *,
        slots: int | Mapping[str, int] = 100,
        missing: Sequence[str] = (),
        timeout: float = 300.0,
        agents: Sequence[AgentView] = (),
        facts: Mapping[Need, Any] | None = None,
        memos: dict[str, Memo] | None = None,
        depth: int = 1,
    ) -> None:
        self.spec = spec_of(text)
        assert workflow_problems(self.spec) == []
        self.facts = dict(facts or {})
        self.memos = {} if memos is None else memos
        self.approvals: dict[str, ApprovalView] = {}
        self.children: dict[str, ChildView] = {}
        self.asked: dict[str, WantedApproval] = {}
        self.called: dict[str, WantedChild] = {}
        self.warnings: list[str] = []
        self.flights: dict[str, str] = {}
        self.grant: Callable[[str, str, Decimal | None, int], Grant] = lambda *_: Grant.GRANTED
        self.depth = depth
        self.answers = answers or {}
        self.slots = slots
        self.now = 0.0
        self.status = WorkflowStatus()
        self.started: list[Started] = []
        self.results: list[tuple[float, Result]] = []
        self.wake: list[float] = []
        self.edits: list[tuple[float, dict[str, Any]]] = []
        steps = all_steps([*(self.spec.steps or []), *(self.spec.on_exit or [])])
        self.agents = {TOOL_RUNNER: AgentView(TOOL_RUNNER, "tools", timeout)}
        self.agents |= {
            step.agent_ref.name: AgentView(step.agent_ref.name, "r1", timeout)
            for step in steps
            if step.agent_ref and step.agent_ref.name not in missing
        }
        self.agents |= {view.name: view for view in agents}
        self.timeout = timeout

    # What happens

    def at(self, moment: float, **edit: Any) -> "Simulation":
        """Edits the spec at a moment."""
        self.edits.append((moment, edit))
        return self

    def agent_appears(self, name: str) -> None:
        self.agents[name] = AgentView(name, "r1", self.timeout)
        self.tick()

    def deliver(self, result: Result, at: float) -> None:
        self.results.append((at, result))

    def tick(self) -> None:
        """One pass, now."""
        for moment, edit in self.edits:
            if moment <= self.now:
                self.spec = self.spec.model_copy(update=edit)
        self.edits = [pair for pair in self.edits if pair[0] > self.now]
        due = [result for at, result in self.results if at <= self.now]
        self.results = [pair for pair in self.results if pair[0] > self.now]
        p = self.new_pass(due)
        payloads = plan(p, lambda wants: self._claim(p, wants))
        while p.facts.needs:
            for need in p.facts.needs:
                p.facts.known[need] = self._fact(need)
            p.facts.needs = set()
            p.results = ()
            payloads |= plan(p, lambda wants: self._claim(p, wants))
        for sha256, content in p.to_store.items():
            value = json.loads(content)
            self.facts[ArtifactNeed(p.run.run_id, sha256, len(content))] = value
        for key, kept in p.to_memoize.items():
            self.memos[key] = Memo(p.frames.values.load(kept.value, kept.stored), p.now)
        self.warnings += p.warnings
        for approval in wanted_approvals(p):
            self.asked[approval.name] = approval
            self.approvals[approval.name] = ApprovalView()
        for child in wanted_children(p):
            self.called[child.name] = child
            self.children[child.name] = ChildView()
        self.status = status_of(p, self.status, 1)
        self.wake = [moment - T0 for moment in p.wake]
        for identity, payload in payloads.items():
            step, index, attempt = split_id(identity)
            self.started.append(Started(step, index, attempt, self.now, payload))
            answer = self._answer(step, index, attempt, iteration_of(identity))
            if answer.takes is not None:
                worker = payload.worker.uid
                result = Result(
                    identity,
                    worker,
                    answer.used,
                    answer.output,
                    answer.error,
                    answer.message,
                    answer.asks,
                )
                self.deliver(result, self.now + answer.takes)
        if self._land(p.run):
            self.tick()

    def _land(self, run: Run) -> bool:
        """Lets others work out what the run's items do not any more; says whether there was any."""
        live = {at for _, at in turns(run)}
        over = [k for k, at in self.flights.items() if at.startswith(RUN_ID) and at not in live]
        for key in over:
            del self.flights[key]
        return bool(over)

    def new_pass(self, results: Sequence[Result] = ()) -> Pass:
        return Pass(
            NAME,
            NAMESPACE,
            self.spec,
            self.run_state,
            self.agents,
            T0 + self.now,
            results,
            approvals=self.approvals,
            children=self.children,
            depth=self.depth,
            facts=Facts(dict(self.facts)),
            reserve_agent=self.grant,
            flight=lambda key, node: self.flights.setdefault(key, node) == node,
        )

    def _fact(self, need: Need) -> Any:
        if isinstance(need, MemoNeed):
            return self.memos.get(need.key)
        return self.facts.get(need)

    def decide(self, step: str, verdict: str = "Approve", **view: Any) -> None:
        """Answers a step's ApprovalRequest that is open."""
        name = next(
            name
            for name, asked in self.asked.items()
            if asked.step == step and self.approvals[name].verdict is None
        )
        self.approvals[name] = ApprovalView(verdict, view.pop("by", "ann"), **view)
        self.tick()

    def child_ends(self, step: str, phase: str = "Succeeded", **view: Any) -> None:
        """Ends the child Workflow that a step called last."""
        name = [name for name, child in self.called.items() if child.step == step][-1]
        self.children[name] = ChildView(WorkflowPhase(phase), True, **view)
        self.tick()

    def to(self, moment: float) -> "Simulation":
        """Runs up to and including a moment."""
        return self._go(moment)

    def end(self, limit: float = 1e7) -> "Simulation":
        """Runs until nothing more will happen; the run must have ended."""
        self._go(limit)
        assert self.condition("Finished").status == "True", self.status.model_dump()
        return self

    def _go(self, limit: float) -> "Simulation":
        for _ in range(5000):
            if self.status.phase is None:
                self.tick()
            coming = [at for at, _ in [*self.results, *self.edits]] + self.wake
            later = [max(at, self.now) for at in coming if at > self.now or at in self._due()]
            if not later or min(later) > limit:
                if limit < 1e7:
                    self.now = limit
                    self.tick()
                return self
            self.now = min(later)
            self.tick()
        raise AssertionError("the run does not come to rest")

    def _due(self) -> set[float]:
        return {at for at, _ in [*self.results, *self.edits] if at <= self.now}

    def _claim(self, p: Pass, wants: Sequence[Want]) -> dict[str, Slot]:
        busy = Counter(
            agent_of(spec, step.nodes[index])
            for _, spec, step, index in running_attempts(p).values()
        )
        granted = {}
        for want in wants:
            room = self.slots if isinstance(self.slots, int) else self.slots[want.agent]
            if busy[want.agent] < room:
                busy[want.agent] += 1
                worker = Worker(pod=f"{want.agent}-0", uid=f"uid-{want.agent}", url="http://w")
                granted[want.attempt_id] = Slot(worker, p.agents[want.agent].revision)
        return granted

    def _answer(self, step: str, index: int, attempt: int, iteration: int) -> Answer:
        for name in (step, step.rsplit("~", 1)[-1]):
            for key in (
                f"{name}@{iteration}",
                f"{name}[{index}]#{attempt}",
                f"{name}#{attempt}",
                f"{name}[{index}]",
                name,
            ):
                if (found := self.answers.get(key)) is not None:
                    if isinstance(found, Answer):
                        return found
                    return found[min(attempt, len(found)) - 1]
        return ok()

    # What can be seen

    @property
    def run_state(self) -> Run:
        return from_journal(self.status.journal) if self.status.journal else Run(run_id=RUN_ID)

    def row(self, step: str) -> StepRow:
        return next(row for row in self.status.steps or [] if row.name == step)

    @property
    def phases(self) -> dict[str, str]:
        return {row.name: row.phase.value for row in self.status.steps or []}

    @property
    def starts(self) -> list[tuple[str, float]]:
        """``(step, time)``, or ``(step[item], time)``, of every attempt, in order."""
        fan_outs = {s.name for s in self.spec.steps or [] if s.for_each}
        return [
            (f"{s.step}[{s.index}]" if s.step in fan_outs else s.step, s.at) for s in self.started
        ]

    def input_of(self, step: str, index: int = 0, attempt: int = 1) -> str | None:
        return self._sent(step, index, attempt).input

    def data_of(self, step: str, index: int = 0, attempt: int = 1) -> dict[str, Any] | None:
        return self._sent(step, index, attempt).input_data

    def _sent(self, step: str, index: int, attempt: int) -> Payload:
        return next(
            s.payload
            for s in self.started
            if (s.step, s.index, s.attempt) == (step, index, attempt)
        )

    def condition(self, kind: str) -> Condition:
        found = next((c for c in self.status.conditions if c.type == kind), None)
        assert found is not None, f"no condition {kind}"
        return found

    def has_condition(self, kind: str) -> bool:
        return any(c.type == kind and c.status == "True" for c in self.status.conditions)


def run(text: str, answers: Script | None = None, **options: Any) -> Simulation:
    """Runs a Workflow to its end."""
    return Simulation(text, answers, **options).end()
