"""What a pass over a Workflow is given, and what it decides."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

from corral.api.attempt import AttemptReport, InputRequired, ToolDecision, ToolInvocation
from corral.api.errors import ErrorClass, Reason
from corral.api.workflow import WorkflowBudget, WorkflowPhase, WorkflowSpec
from corral.plan.facts import Facts
from corral.plan.frames import Frames
from corral.plan.limits import Load
from corral.plan.state import Charge, Consumption, Run, Stored, Worker


@dataclass(frozen=True)
class Rates:
    """What one attempt of an Agent may use at the most; US dollars and tokens."""

    input_usd: Decimal | None = None
    """Per token; None where the Model has no known price."""
    output_usd: Decimal | None = None
    call_input_tokens: int | None = None
    """Tokens that every call sends, where that is known beforehand (a simulation)."""
    call_output_tokens: int = 4096
    """Tokens that one call may receive."""
    instructions: int = 0
    """Bytes that every call sends besides the input."""
    turns: int = 1
    """Calls that an attempt may make, where its answer is text."""
    structured_turns: int = 1
    """The same where the answer has to fit a schema: it may take some until it does."""
    max_cost: Decimal | None = None
    """The Agent's own limit on an attempt."""


@dataclass(frozen=True)
class ModelView:
    """One of the Models that an Agent may ask."""

    name: str
    on_errors: frozenset[ErrorClass]
    """After which errors of those before it; empty for the Agent's own."""
    rates: Rates
    text_load: Load
    """What an attempt needs of it at least, where its answer is text."""
    structured_load: Load
    """The same where the answer has to fit a schema."""
    may_follow: bool = True
    """Whether an attempt that began with another may move on to it by itself."""

    def load(self, *, structured: bool) -> Load:
        """What an attempt needs at least."""
        return self.structured_load if structured else self.text_load


@dataclass(frozen=True)
class AgentView:
    """An Agent as a workflow sees it."""

    name: str
    revision: str
    timeout: float
    """Seconds that one attempt may take, unless the step says otherwise."""
    ready: bool = True
    reason: Reason = Reason.READY
    message: str = ""
    """Why it is not ready, in a sentence."""
    capacity_problem: str = ""
    """Why its workers can't start, in a sentence."""
    capabilities: frozenset[str] = frozenset()
    busy: int = 0
    """Queued and running attempts."""
    slots: int = 1
    """Attempts that its workers may run at once."""
    rates: Rates = Rates()
    models: tuple[ModelView, ...] = ()
    """Its own Model and its fallbacks, in their order."""
    fallback: tuple[str, Rates] | None = None
    """The Model to ask where the Agent's budget is spent and says Fallback, and its rates."""
    limits_cost: bool = False
    """Whether the Agent has a budget in US dollars."""
    limits_tokens: bool = False
    """Whether it has one in tokens."""
    budget_action: str = "Suspend"
    """What its budget says of steps that it has no money for."""
    resets_at: float | None = None
    """When the next period of its budget begins."""
    approvers: Mapping[str, tuple[Mapping[str, str], ...]] = field(default_factory=dict)
    """By tool: who may approve its calls; empty for whoever has the verb."""
    self_approval: frozenset[str] = frozenset()
    """Tools whose calls whoever made the Workflow may approve."""


@dataclass(frozen=True)
class ModelCalls:
    """What an attempt's calls of one Model came to."""

    model: str
    requests: int = 0
    tokens: int = 0
    answered: bool = False
    """Whether any call was answered."""
    failures: int = 0
    """Calls in a row that the Model failed, up to the last."""
    retry_after: float | None = None
    """Seconds for which the provider asked to be left alone."""

    def then(self, later: "ModelCalls") -> "ModelCalls":
        """These calls and later ones."""
        return ModelCalls(
            self.model,
            self.requests + later.requests,
            self.tokens + later.tokens,
            self.answered or later.answered,
            later.failures + (0 if later.answered else self.failures),
            later.retry_after if later.retry_after is not None else self.retry_after,
        )


@dataclass(frozen=True)
class Result:
    """How an attempt ended, as its worker (or the loss of it) told."""

    attempt_id: str
    worker_uid: str
    used: Consumption
    output: Any = None
    error: ErrorClass | None = None
    message: str = ""
    input_required: InputRequired | None = None
    """Set where people have to approve tool calls before it can go on."""
    unreachable: bool = False
    """Whether its worker was lost, and may run it still."""
    final: bool = False
    """Whether the item fails with it, whatever may be retried."""
    calls: tuple[ModelCalls, ...] | None = None
    """By Model, in the order in which they were asked; None where nobody knows."""
    charges: tuple[Charge, ...] = ()
    """What ``used`` is the sum of."""
    worked: float | None = None
    """Seconds for which the worker worked on it, as it says."""
    report: AttemptReport | None = None
    """All that the worker told; None where it told nothing."""


@dataclass(frozen=True)
class Want:
    """An attempt that would start now if there were a slot for it."""

    attempt_id: str
    agent: str
    models: tuple[ModelView, ...] = ()
    """Those that it may begin with: the first, or one that is meant for the first's trouble."""
    structured: bool = False
    """Whether its answer has to fit a schema."""
    revision: str = ""
    """The Agent's newest; empty where any will do."""
    began: float = 0.0
    """When its run started: one that began before the Agent changed may go on as it was."""


@dataclass(frozen=True)
class Slot:
    """A place on a worker that was reserved for a wanted attempt."""

    worker: Worker
    agent_revision: str
    model: str | None = None
    """The Model to begin with; None is the Agent's own."""


Claim = Callable[[Sequence[Want]], Mapping[str, Slot]]
"""Reserves slots for some of the wanted attempts, by attempt id."""


class Grant(Enum):
    """What an Agent's budget says to a reservation."""

    GRANTED = "granted"
    LATER = "there may be enough once what runs is settled"
    EXCEEDED = "there is not enough in this period"


ReserveAgent = Callable[[str, str, Decimal | None, int], Grant]
"""Reserves (Agent, attempt id, US dollars, tokens) in the Agent's budget."""
Weigh = Callable[[str, str, Load], bool]
"""Whether an attempt with a slot may ask that Model for that much: (attempt id, Model, load)."""
Flight = Callable[[str, str], bool]
"""Whether (memo key, node) may work out the result itself: nobody else does so now."""


@dataclass(frozen=True)
class Payload:
    """What a worker is sent to run an attempt."""

    attempt_id: str
    worker: Worker
    agent_revision: str
    timeout: float
    input: str | None
    input_data: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    model_ref: str | None = None
    fallbacks: tuple[str, ...] = ()
    """The Models that it may move on to by itself."""
    max_cost_usd: Decimal | None = None
    max_tokens: int | None = None
    tool: ToolInvocation | None = None
    conversation: str | None = None
    decisions: tuple[ToolDecision, ...] = ()


@dataclass(frozen=True)
class ApprovalView:
    """An ApprovalRequest of the run; ``verdict`` is None until it is decided."""

    verdict: str | None = None
    by: str = ""
    comment: str = ""
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChildView:
    """A child Workflow of the run."""

    phase: WorkflowPhase | None = None
    finished: bool = False
    used: Consumption = field(default_factory=Consumption)
    output: Any = None
    stored: Stored | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class WantedApproval:
    """An ApprovalRequest that has to be there."""

    name: str
    step: str
    """The step, as people write it: ``review``, or ``batch[3].review``."""
    prompt: str
    approvers: tuple[Mapping[str, str], ...]
    allow_self_approval: bool
    expires_at: float | None = None
    allow_edit: tuple[str, ...] = ()
    tool: tuple[str, str] | None = None
    """A tool call: its name and its arguments."""


@dataclass(frozen=True)
class WantedChild:
    """A child Workflow that has to be there."""

    name: str
    step: str
    template: str
    arguments: dict[str, Any]
    max_cost: Decimal | None = None
    """US dollars that it may spend."""
    max_tokens: int | None = None
    concludes: bool = False
    """Whether it is to end with what there is once that is spent."""


def _always(*_: object) -> bool:
    return True


def _granted(*_: object) -> Grant:
    return Grant.GRANTED


@dataclass
class Pass:
    """One pass: what was observed, and the run's state, which the pass changes as its own.

    ``spec`` is what runs: that of the template where there is one, with what the Workflow says.
    """

    name: str
    namespace: str
    spec: WorkflowSpec
    run: Run
    agents: Mapping[str, AgentView]
    now: float
    results: Sequence[Result] = ()
    unjudged: list[Result] = field(default_factory=list)
    """Results whose loop's condition needs a fact that is not known yet."""
    patience_until: float = 0.0
    """Until when no attempt is given up as late: its result may still be on its worker."""
    approvals: Mapping[str, ApprovalView] = field(default_factory=dict)
    """The run's ApprovalRequests, by name."""
    children: dict[str, ChildView] = field(default_factory=dict)
    """The run's child Workflows, by name."""
    templates: Mapping[str, WorkflowBudget | None] | None = None
    """The WorkflowTemplates of the namespace, with their budgets; None where nobody knows."""
    depth: int = 1
    """1 for a Workflow that people made, 2 for its children."""
    trace_id: str | None = None
    """The trace of a run that begins now; None for one that has begun, or is not traced."""
    memo_scope: str = ""
    """Whose results are kept together: the template's name, or the Workflow's."""
    facts: Facts = field(default_factory=Facts)
    reserve_agent: ReserveAgent = _granted
    flight: Flight = _always
    weigh: Weigh = _always
    to_store: dict[str, bytes] = field(default_factory=dict)
    """By hash: values that have to be in the artifact store before the state is written."""
    to_memoize: dict[str, Any] = field(default_factory=dict)
    """By key: results to be kept for other runs, once the state is written."""
    warnings: list[str] = field(default_factory=list)
    """Sentences to tell people of, once the state is written."""
    wake: list[float] = field(default_factory=list)
    """Moments at which something may be due."""
    chosen: Counter[str] = field(default_factory=Counter)
    """How often this pass chose an Agent."""
    held_agents: set[str] = field(default_factory=set)
    """Agents whose own budget held something back."""
    unpaid: set[str] = field(default_factory=set)
    """Agents for whose next attempts no budget has enough: those of others go first."""
    overweight: set[str] = field(default_factory=set)
    """Attempts that need more of their Model than it has left."""
    held_back: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)
    """By Agent: why attempts of it wait for a Model."""
    unavailable: tuple[Reason, str] | None = None
    """What the run refers to and can't be had for now: why, and a sentence."""
    starved: bool = False
    """Whether something was held back because the run's budget has too little left."""
    penniless: bool = False
    """Whether the run's budget has nothing left at all."""
    frames: Frames = field(init=False)

    def __post_init__(self) -> None:
        self.frames = Frames(self.run, self.spec, self.facts, self.name, self.namespace)

    @property
    def suspended(self) -> bool:
        """Whether nothing may start. A shutdown goes before a suspension: it has to end."""
        held = bool(self.spec.suspend) or self.run.exceeded is not None
        return held and self.spec.shutdown is None
