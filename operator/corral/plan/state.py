"""What the engine knows of a run: the whole truth, and what ``status.journal`` holds.

A run has a step state per declared step (those of ``onExit`` too); a step has a node per item,
and a step without ``forEach`` has one node. Times are seconds since the epoch, by the API
server's clock. The journal is ``<version>:<base64 of zlib of JSON>``, because the API server
charges for every field of a status on every write and for a string only once.
"""

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corral.api.attempt import ModelUsage
from corral.api.errors import ErrorClass, Reason
from corral.api.types import Usage
from corral.api.workflow import FINAL_STEP_PHASES, StepPhase, WorkflowPhase

JOURNAL_VERSION = "1"
MAX_JOURNAL_BYTES = 64 * 2**20
"""Unpacked: a hundred times what fits into a status is a mistake, or malice."""


class JournalError(ValueError):
    """A journal that this version cannot read."""


class _State(BaseModel):
    """Keeps what a newer version wrote, so that a rollback loses nothing."""

    model_config = ConfigDict(extra="allow")


class Consumption(_State):
    """What model calls used; money in US dollars. ``cost`` is None where nothing had a price."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = None
    unpriced_requests: int = 0
    simulated_requests: int = 0

    def add(self, other: "Consumption") -> None:
        """Adds ``other`` to this one."""
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.unpriced_requests += other.unpriced_requests
        self.simulated_requests += other.simulated_requests
        if other.cost is not None:
            self.cost = (self.cost or Decimal(0)) + other.cost

    def short_of(self, other: "Consumption") -> "Consumption":
        """What the other has more; what it has less is not taken off."""
        short = Consumption(
            requests=max(0, other.requests - self.requests),
            input_tokens=max(0, other.input_tokens - self.input_tokens),
            output_tokens=max(0, other.output_tokens - self.output_tokens),
            unpriced_requests=max(0, other.unpriced_requests - self.unpriced_requests),
            simulated_requests=max(0, other.simulated_requests - self.simulated_requests),
        )
        if other.cost is not None and (self.cost is None or other.cost > self.cost):
            short.cost = other.cost - (self.cost or 0)
        return short

    @classmethod
    def of(cls, usage: Usage | None) -> "Consumption":
        """As a status says it."""
        if usage is None:
            return cls()
        return cls(
            requests=usage.requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost=None if usage.cost_usd is None else Decimal(usage.cost_usd),
            unpriced_requests=usage.unpriced_requests,
            simulated_requests=usage.simulated_requests,
        )

    def to_usage(self) -> Usage:
        """The form in which status shows it."""
        return Usage(
            requests=self.requests,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            total_tokens=self.input_tokens + self.output_tokens,
            cost_usd=self.cost_text,
            unpriced_requests=self.unpriced_requests,
            simulated_requests=self.simulated_requests,
        )

    @property
    def cost_text(self) -> str | None:
        """The cost as decimal text; None where it is unknown."""
        return None if self.cost is None else f"{self.cost.normalize():f}"


class Stored(_State):
    """A value in the artifact store: the JSON of that hash and size, under a run."""

    sha256: str
    size: int
    run_id: str | None = None
    """The run under which it is stored; None is the run whose state this is."""


class Kept(_State):
    """A value as the journal keeps it: inline if it is small, else where it is stored."""

    value: Any = None
    stored: Stored | None = None


class Best(Kept):
    """The best output of a loop so far."""

    score: float
    iteration: int


class Failure(_State):
    """How one attempt failed, for people."""

    attempt: int
    iteration: int = 1
    reason: str
    message: str
    started: float | None = None
    at: float


class Call(_State):
    """A tool call that a person has to approve."""

    call_id: str
    tool: str
    arguments: str
    approval: str
    """The ApprovalRequest that decides it."""
    approved: bool | None = None
    """None until it is decided."""
    comment: str = ""


class Worker(_State):
    """Where an attempt runs: a pod, told by its UID; names and addresses are reused."""

    pod: str
    uid: str
    url: str


class _Phased(_State):
    """What goes through phases to an end."""

    phase: StepPhase = StepPhase.PENDING
    finished: float | None = None
    reason: str | None = None
    message: str | None = None

    @property
    def final(self) -> bool:
        return self.phase in FINAL_STEP_PHASES

    def end(self, phase: StepPhase, now: float, reason: str = "", message: str = "") -> None:
        """Moves to a final phase."""
        self.phase = phase
        self.finished = now
        self.reason = reason or None
        self.message = message[:1024] or None


class Node(_Phased):
    """One item of a step, or the step itself."""

    attempt: int = 0
    """The number of the last attempt that was started, from 1; part of its id."""
    retries: int = 0
    losses: int = 0
    agent: str | None = None
    """The Agent that was chosen, where the step does not name one."""
    model: str | None = None
    """The fallback Model that the attempt was told to ask."""
    next_model: str | None = None
    """The fallback Model with which the next attempt is to begin, after the last one's error."""
    worker: Worker | None = None
    agent_revision: str | None = None
    started: float | None = None
    """When the first attempt was started."""
    attempt_started: float | None = None
    not_before: float | None = None
    """When a wait, a backoff or an approval's time is over."""
    deadline: float | None = None
    """When the attempt that runs has taken too long."""
    reserved: Decimal | None = None
    """US dollars that the attempt or the child Workflow may still spend."""
    reserved_tokens: int = 0
    output: Any = None
    stored: Stored | None = None
    """Where the output is, if it is too large for the journal."""
    used: Consumption = Field(default_factory=Consumption)
    errors: list[Failure] = Field(default_factory=list)
    """The last attempts that failed."""
    overlap: str | None = None
    """In a sentence: what was given up, and may have gone on beside a later attempt."""
    iteration: int = 1
    attempts_before: int = 0
    """Attempts of the iterations that are over."""
    previous: Kept | None = None
    """The output of the iteration before."""
    best: Best | None = None
    memo: str | None = None
    """The key under which the result is kept for others, or was found."""
    memoized: bool = False
    """Whether the result is an earlier one."""
    steps: dict[str, "Step"] | None = None
    """The nested steps of this iteration."""
    approval: str | None = None
    """The ApprovalRequest that it waits for, or that decided it."""
    child: str | None = None
    """The child Workflow of this attempt."""
    child_seen: bool = False
    calls: list[Call] = Field(default_factory=list)
    """Tool calls that have to be approved before the next attempt."""
    call_counts: dict[str, int] = Field(default_factory=dict)
    """How often each call was asked for, so that each is approved by itself."""
    conversation: Kept | None = None
    """Where the next attempt goes on."""

    def end(self, phase: StepPhase, now: float, reason: str = "", message: str = "") -> None:
        """Moves to a final phase; no attempt runs or waits any more."""
        super().end(phase, now, reason, message)
        self.rest()
        self.not_before = None
        self.calls = []
        self.call_counts = {}
        self.conversation = self.previous = self.best = None

    def rest(self) -> None:
        """No attempt runs: nothing is held or reserved for it."""
        self.worker = None
        self.deadline = None
        self.reserved = None
        self.reserved_tokens = 0

    @property
    def asks(self) -> bool:
        """Whether people have to approve tool calls before it goes on."""
        return any(call.approved is None for call in self.calls)

    @property
    def attempts(self) -> int:
        """All attempts, those of earlier iterations too."""
        return self.attempts_before + self.attempt

    def spent(self) -> Consumption:
        """What it used, its nested steps included."""
        if not self.steps:
            return self.used
        total = self.used.model_copy()
        for step in self.steps.values():
            total.add(step.used())
        return total


class Step(_Phased):
    """A declared step."""

    nodes: list[Node] = Field(default_factory=list)
    items: list[Any] | None = None
    """A fan-out's items; None where there is no ``forEach``, or where they are stored."""
    items_stored: Stored | None = None
    """Where a fan-out's items are, if they are too large for the journal."""
    queued: float | None = None
    """When its trigger rule held and it was queued."""
    extract: dict[str, Any] | None = None
    degraded: bool = False
    """Its failure was allowed, or within what its fan-out tolerates."""
    taken_over: bool = False
    """It was done by the run that this one is a retry of."""

    @property
    def is_fan_out(self) -> bool:
        """Whether there are items, one a node."""
        return self.items is not None or self.items_stored is not None

    def used(self) -> Consumption:
        """What all its nodes used."""
        total = Consumption()
        for node in self.nodes:
            total.add(node.spent())
        return total


@dataclass(frozen=True)
class Charge:
    """What an attempt used of one Model, with its price."""

    usage: ModelUsage
    used: Consumption
    source: str | None = None
    """Where the price is from; None where there is none."""


def total(charges: Iterable[Charge]) -> Consumption:
    """What an attempt used altogether."""
    used = Consumption()
    for charge in charges:
        used.add(charge.used)
    return used


class Unbooked(_State):
    """What a settled attempt used, until the ledger is known to have it."""

    agent: str | None = None
    at: float
    """When its end was known."""
    error: ErrorClass | None = None
    charges: tuple[Charge, ...]


class Run(_State):
    """A run of a Workflow."""

    run_id: str
    phase: WorkflowPhase = WorkflowPhase.PENDING
    outcome: WorkflowPhase | None = None
    """What the steps came to, once they have; the run goes on while ``onExit`` runs."""
    started: float | None = None
    finished: float | None = None
    halted: Reason | None = None
    """Why steps were ended from outside: Stopped, DeadlineExceeded, BudgetExceeded, TooLarge."""
    waiting_since: float | None = None
    """Since when something that the run refers to has been missing."""
    idle_since: float | None = None
    idle_total: float = 0
    """Seconds in which the active deadline stood still: suspended, or nothing but waits."""
    message: str | None = None
    steps: dict[str, Step] = Field(default_factory=dict)
    exit_steps: dict[str, Step] = Field(default_factory=dict)
    output: Any = None
    output_stored: Stored | None = None
    template: dict[str, Any] | None = None
    """The spec of the WorkflowTemplate, as it was when the run started."""
    retried: bool = False
    """Whether it has taken over what the run before it did."""
    exceeded: str | None = None
    """The budget, as text, that was not enough."""
    warned: list[int] = Field(default_factory=list)
    """The percentages of the budget that were told of."""
    late: Consumption = Field(default_factory=Consumption)
    """What attempts used that were given up before they reported."""
    unsettled: dict[str, Worker] = Field(default_factory=dict)
    """Attempts that were given up: to be cancelled on their worker, and their usage booked."""
    unsettled_cost: dict[str, Decimal] = Field(default_factory=dict)
    """What of the budget is still reserved for them, in US dollars; also for children."""
    unsettled_tokens: dict[str, int] = Field(default_factory=dict)
    """The same in tokens."""
    unsettled_children: list[str] = Field(default_factory=list)
    """Child Workflows that were given up: their usage is booked once they have ended."""
    concluding: bool = False
    """Whether the budget is spent and the run ends with what there is."""
    unbooked: dict[str, Unbooked] = Field(default_factory=dict)
    """By attempt. An operator and a worker may both be killed before the ledger hears of it."""

    @property
    def finished_for_good(self) -> bool:
        return self.finished is not None

    @property
    def settled(self) -> bool:
        """Whether nothing that was given up may still tell what it used."""
        return not self.unsettled and not self.unsettled_children

    def hold(self, name: str, node: Node) -> None:
        """Keeps what is reserved for an attempt or a child of the node that is given up."""
        if node.reserved:
            self.unsettled_cost[name] = node.reserved
        if node.reserved_tokens:
            self.unsettled_tokens[name] = node.reserved_tokens

    def settle(self, name: str, used: Consumption) -> None:
        """Books what an attempt or a child used that was given up; nothing is held for it now."""
        self.unsettled.pop(name, None)
        self.unsettled_cost.pop(name, None)
        self.unsettled_tokens.pop(name, None)
        if name in self.unsettled_children:
            self.unsettled_children.remove(name)
        self.late.add(used)

    def used(self) -> Consumption:
        """What the whole run used."""
        total = self.late.model_copy()
        for step in (*self.steps.values(), *self.exit_steps.values()):
            total.add(step.used())
        return total


def attempt_id(run_id: str, path: str, index: int, attempt: int, iteration: int = 1) -> str:
    """``<runID>.<path>.<item>.<iteration>.<n>``: safe in URLs, unique for ever.

    ``path`` is the step's name, for a nested step behind ``<outer>~<item>~<iteration>~``.
    """
    return f"{run_id}.{path}.{index}.{iteration}.{attempt}"


def effect_key(attempt: str) -> str:
    """The attempt id without the attempt's number: the same for every retry."""
    return attempt.rsplit(".", 1)[0]


def priced(usage: ModelUsage, cost: Decimal | None) -> Consumption:
    """One model's usage in an attempt, with its cost, or None where it has no price.

    A call that ended without a word on its usage has no known cost, whatever the price list says.
    """
    requests = int(usage.requests)
    if requests == int(usage.unanswered):
        cost = None
    return Consumption(
        requests=requests,
        input_tokens=int(usage.input_tokens),
        output_tokens=int(usage.output_tokens),
        cost=cost,
        unpriced_requests=requests if cost is None else int(usage.unanswered),
        simulated_requests=requests if usage.simulated else 0,
    )


def to_journal(run: Run) -> str:
    """The run as one compressed, versioned string."""
    text = run.model_dump_json(exclude_defaults=True).encode()
    return f"{JOURNAL_VERSION}:{base64.b64encode(zlib.compress(text, 1)).decode()}"


def from_journal(journal: str) -> Run:
    """The inverse of ``to_journal``.

    Raises:
        JournalError: another version's, or no journal at all.
    """
    version, _, body = journal.partition(":")
    if version != JOURNAL_VERSION:
        raise JournalError(f"the journal is of version {version[:8]!r}; this is {JOURNAL_VERSION}")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(base64.b64decode(body), MAX_JOURNAL_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError(f"it has more than {MAX_JOURNAL_BYTES} bytes")
        return Run.model_validate_json(text)
    except (ValueError, zlib.error, ValidationError) as error:
        raise JournalError(f"the journal cannot be read: {error}") from error
