"""A run in a world of luck: its fleet, its people, its children, its store; and what must hold.

Every pass is made twice from the same state and luck, and then once more without news.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from corral.api.attempt import InputRequired, PendingCall
from corral.api.errors import ErrorClass
from corral.api.workflow import FINAL_WORKFLOW_PHASES, WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.plan.budget import Reservation
from corral.plan.facts import ArtifactNeed, Memo, MemoNeed, Need
from corral.plan.kinds import children_looked_at, wanted_approvals, wanted_children
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import (
    AgentView,
    ApprovalView,
    ChildView,
    Grant,
    Pass,
    Payload,
    Rates,
    Result,
    Slot,
    Want,
)
from corral.plan.state import Consumption, Run, Worker, from_journal
from corral.plan.status import status_of
from corral.plan.workflow import plan
from tests.unit.plan.driver import NAME, NAMESPACE, RUN_ID, T0
from tests.unit.plan.graphs import LINES

CENT = Decimal("0.001")
PRICED = Rates(CENT / 100, CENT / 100, call_output_tokens=100, turns=2)
CALL_TOKENS = 150
"""What one call of this world uses at the most; ten times that many micro-dollars."""
OUTPUTS: list[Any] = [[1], [7], [1] * 700, ["long " * 300, 7], {"a": 1}, "text"]


def views(busy: int) -> dict[str, AgentView]:
    """Two Agents, of which one has a price, and the workers of tool calls."""
    able = frozenset({"c"})
    return {
        "x": AgentView("x", "r1", 60.0, capabilities=able, rates=PRICED, busy=busy, slots=2),
        "y": AgentView("y", "r1", 60.0, capabilities=able, slots=3, limits_tokens=True),
        TOOL_RUNNER: AgentView(TOOL_RUNNER, "r1", 60.0, rates=Rates(turns=0)),
    }


def asked_in(conversation: str) -> list[PendingCall]:
    """What a conversation of this world ended with."""
    return [
        PendingCall(call_id=one["id"], tool=one["tool"]) for one in json.loads(conversation[5000:])
    ]


class World:
    """A run and everything that was ever sent or told."""

    def __init__(self, spec: WorkflowSpec, luck: Random) -> None:
        self.spec = spec
        self.luck = luck
        self.now = T0
        self.status = WorkflowStatus()
        self.wake: list[float] = []
        self.sent: dict[str, Payload] = {}
        self.told: set[str] = set()
        self.agents = views(0)
        self.stored: dict[Need, Any] = {LINES: "1\n\n[2]\n"}
        self.memos: dict[str, Memo] = {}
        self.flights: dict[str, str] = {}
        self.foreign: set[str] = set()
        self.approvals: dict[str, ApprovalView] = {}
        self.children: dict[str, ChildView] = {}
        self.limits: dict[str, tuple[Decimal | None, int | None]] = {}
        self.spent = Consumption()
        self.exit_spent = Consumption()
        self.overshoot = Consumption(cost=Decimal(0))
        self.warnings: list[str] = []
        self.watch: Callable[..., object] = lambda *_: None
        """Told of every pass: the status before and after, the pass, and what was sent."""
        self.generous = False

    @property
    def ended(self) -> bool:
        return self.status.phase in FINAL_WORKFLOW_PHASES

    def state(self, status: WorkflowStatus) -> Run:
        return from_journal(status.journal) if status.journal else Run(run_id=RUN_ID)

    def fresh(
        self,
        status: WorkflowStatus,
        results: Sequence[Result],
        seed: float,
        flights: dict[str, str],
    ) -> Pass:
        def fly(key: str, place: str) -> bool:
            return key not in self.foreign and flights.setdefault(key, place) == place

        def grant(agent: str, attempt: str, cost: Decimal | None, tokens: int) -> Grant:
            own = Random(f"{seed} {agent} {attempt}")
            if self.generous or own.random() < 0.9:
                return Grant.GRANTED
            return own.choice([Grant.LATER, Grant.EXCEEDED])

        p = Pass(
            NAME,
            NAMESPACE,
            self.spec,
            self.state(status),
            self.agents,
            self.now,
            tuple(results),
            approvals=self.approvals,
            reserve_agent=grant,
            flight=fly,
        )
        seen = children_looked_at(p)
        p.children = {name: view for name, view in self.children.items() if name in seen}
        return p

    def planned(
        self, p: Pass, seed: float, offered: Iterable[str] | None = None
    ) -> tuple[dict[str, Payload], dict[str, Slot]]:
        """Plans until nothing is to be looked up; facts come one by one, in any order."""
        slots: dict[str, Slot] = {}
        luck = Random(seed)

        def claim(wants: Sequence[Want]) -> dict[str, Slot]:
            granted = {}
            for want in wants:
                own = Random(f"{seed} {want.attempt_id}")
                lucky = self.generous or own.random() < 0.6
                if lucky if offered is None else want.attempt_id in offered:
                    worker = Worker(pod=want.agent, uid=f"u-{own.random()}", url="h")
                    granted[want.attempt_id] = Slot(worker, "r1")
            slots.update(granted)
            return granted

        payloads = plan(p, claim)
        while p.facts.needs:
            needs = sorted(p.facts.needs, key=repr)
            for need in luck.sample(needs, k=luck.randint(1, len(needs))):
                p.facts.known[need] = self._fact(need, p)
            p.facts.needs = set()
            payloads |= plan(p, claim)
        return payloads, slots

    def _fact(self, need: Need, p: Pass) -> Any:
        if isinstance(need, MemoNeed):
            return self.memos.get(need.key)
        if isinstance(need, ArtifactNeed) and need.sha256 in p.to_store:
            return json.loads(p.to_store[need.sha256])
        return self.stored[need]

    def look(self, results: Sequence[Result] = ()) -> None:
        """One pass, made twice, and then once more without news."""
        before, seed = self.status, self.luck.random()
        flights = dict(self.flights)
        p = self.fresh(before, results, seed, flights)
        payloads, slots = self.planned(p, seed)
        after = status_of(p, before, 1)

        again = self.fresh(before, results, seed, dict(self.flights))
        assert self.planned(again, seed)[0] == payloads
        assert status_of(again, before, 1) == after
        assert from_journal(after.journal or "") == p.run

        for sha256, content in p.to_store.items():
            self.stored[ArtifactNeed(RUN_ID, sha256, len(content))] = json.loads(content)
        held = slots.keys() - payloads.keys()
        quiet = self.fresh(after, (), seed, dict(flights))
        quiet.children = p.children
        assert self.planned(quiet, seed, held)[0] == {}
        assert status_of(quiet, after, 1) == after
        assert not quiet.warnings

        self.watch(before, after, p, payloads)
        self.status, self.flights = after, flights
        self.wake = [moment for moment in p.wake if moment > self.now]
        self.sent |= payloads
        self.warnings += p.warnings
        self._share(p)

    def _share(self, p: Pass) -> None:
        """What others get to know once the state is written."""
        for key, kept in p.to_memoize.items():
            stored = kept.stored
            need = stored and ArtifactNeed(stored.run_id or RUN_ID, stored.sha256, stored.size)
            self.memos[key] = Memo(self.stored[need] if need else kept.value, p.now)
        flying = {
            frame.place(frame.specs[name], index)
            for frame in p.frames.all()
            for name, step in frame.steps.items()
            for index, node in enumerate(step.nodes)
            if node.memo is not None and not node.final
        }
        self.flights = {key: place for key, place in self.flights.items() if place in flying}
        if p.run.finished_for_good:
            return
        for approval in wanted_approvals(p):
            assert approval.name not in self.approvals
            self.approvals[approval.name] = ApprovalView()
        for child in wanted_children(p):
            assert child.name not in self.children
            self.children[child.name] = ChildView(WorkflowPhase.RUNNING)
            self.limits[child.name] = child.max_cost, child.max_tokens

    # What comes from outside

    def is_genuine(self, result: Result) -> bool:
        sent = self.sent.get(result.attempt_id)
        return sent is not None and sent.worker.uid == result.worker_uid

    def open_attempts(self) -> list[str]:
        return [identity for identity in self.sent if identity not in self.told]

    def open_children(self) -> list[str]:
        return [name for name, view in self.children.items() if not view.finished]

    def open_approvals(self) -> list[str]:
        return [name for name, view in self.approvals.items() if view.verdict is None]

    def result(self, identity: str, error: ErrorClass | None = None, asks: bool = False) -> Result:
        """How an attempt ended, having used a call more than it may at the most."""
        sent = self.sent[identity]
        luck = self.luck
        used, needed = Consumption(), None
        if sent.worker.pod != TOOL_RUNNER:
            tokens = luck.randint(0, min(300, sent.max_tokens or 300)) + luck.choice(
                [0, 0, CALL_TOKENS]
            )
            if sent.max_tokens is None or tokens <= sent.max_tokens:
                cost = tokens * CENT / 100
            else:
                cost = min(tokens * CENT / 100, (sent.max_cost_usd or 1) + CALL_TOKENS * CENT / 100)
            priced = sent.worker.pod == "x"
            used = Consumption(
                requests=1,
                input_tokens=tokens,
                cost=cost if priced else None,
                unpriced_requests=int(not priced),
            )
            if asks and error is None:
                calls = [
                    {"id": str(n), "tool": luck.choice("tu")} for n in range(luck.randint(1, 2))
                ]
                text = "." * 5000 + json.dumps(calls)
                needed = InputRequired(conversation=text, calls=asked_in(text))
        output = None if error or needed else luck.choice(OUTPUTS)
        message = "luck" if error else ""
        return Result(identity, sent.worker.uid, used, output, error, message, needed)

    def tell(self, results: Sequence[Result]) -> None:
        """A pass with results; the first that is genuine for an attempt counts."""
        for result in results:
            if self.is_genuine(result) and result.attempt_id not in self.told:
                self.told.add(result.attempt_id)
                self.book(result.attempt_id, result.used, self.sent[result.attempt_id])
        self.look(results)

    def book(self, name: str, used: Consumption, limits: Payload | None = None) -> None:
        """Notes what was used, and by how much that is over what was reserved."""
        exit_step = limits is not None and name.removeprefix(RUN_ID + ".").startswith("e")
        (self.exit_spent if exit_step else self.spent).add(used)
        if limits is not None:
            cost, tokens = limits.max_cost_usd, limits.max_tokens
        else:
            cost, tokens = self.limits[name]
        self.overshoot.cost = (self.overshoot.cost or 0) + max(
            Decimal(0), (used.cost or Decimal(0)) - (cost or Decimal(0))
        )
        self.overshoot.input_tokens += max(0, used.input_tokens - (tokens or 0))

    def may_still_use(self, payloads: dict[str, Payload]) -> Reservation:
        """What attempts and children were told that they may use, which have not ended."""
        sent = self.sent | payloads
        limits = [
            (sent[one].max_cost_usd, sent[one].max_tokens) for one in sent.keys() - self.told
        ] + [self.limits[name] for name in self.open_children()]
        cost = sum((cost or Decimal(0) for cost, _ in limits), Decimal(0))
        return Reservation(cost, sum(tokens or 0 for _, tokens in limits))

    def end_child(self, name: str, phase: WorkflowPhase) -> None:
        """A child Workflow ends, having used what it may at the most."""
        cost, tokens = self.limits[name]
        used = Consumption(
            requests=1,
            input_tokens=self.luck.randint(0, min(tokens or 500, 500)),
            cost=min(cost or CENT, CENT) * self.luck.randint(0, 2) / 2,
        )
        self.book(name, used)
        output = self.luck.choice(OUTPUTS)
        self.children[name] = ChildView(phase, True, used, output, message="so it is")

    def land(self, succeeded: bool) -> None:
        """Other runs work out nothing any more; they left a result if they ``succeeded``."""
        if succeeded:
            self.memos |= {key: Memo(self.luck.choice(OUTPUTS), self.now) for key in self.foreign}
        self.foreign = set()

    def decide(self, name: str, verdict: str) -> None:
        self.approvals[name] = ApprovalView(verdict, "ann", "because", {"n": "1"})


def nodes_of(p: Pass) -> Iterator[tuple[str, Any, Any, Any]]:
    """(the place of a step, its spec, its state, the node) of all graphs that are known."""
    for frame in p.frames.with_ended():
        for name, step in frame.steps.items():
            for node in step.nodes:
                yield frame.path + name, frame.specs[name], step, node
