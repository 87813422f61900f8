"""``Workflow``: one run of a graph of steps."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from corral.api.agent import Capability
from corral.api.errors import ErrorClass
from corral.api.types import (
    Approver,
    Condition,
    ConfigMapKeyRef,
    CostText,
    Duration,
    ErrorMessage,
    Expression,
    JsonObject,
    JsonSchema,
    LocalRef,
    Percent,
    PositiveMoney,
    Resource,
    StepName,
    Template,
    Timestamp,
    Usage,
    rules,
)


class WorkflowPhase(StrEnum):
    """Where a run is in its life."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"


class StepPhase(StrEnum):
    """Where a step is in its life."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    WAITING = "Waiting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    OMITTED = "Omitted"
    CANCELLED = "Cancelled"


FINAL_STEP_PHASES = frozenset(
    {
        StepPhase.SUCCEEDED,
        StepPhase.FAILED,
        StepPhase.SKIPPED,
        StepPhase.OMITTED,
        StepPhase.CANCELLED,
    }
)
FINAL_WORKFLOW_PHASES = frozenset(
    {WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED, WorkflowPhase.STOPPED}
)


class TriggerRule(StrEnum):
    """What must have become of the steps in dependsOn."""

    ALL_SUCCEEDED = "AllSucceeded"
    ALL_DONE = "AllDone"
    ANY_FAILED = "AnyFailed"
    ANY_SUCCEEDED = "AnySucceeded"


IntOrPercent = Annotated[
    Annotated[int, Field(ge=0, le=999_999)]
    | Annotated[str, Field(max_length=8, pattern=r"^([0-9]{1,6}|(100|[0-9]{1,2})%)$")],
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": 999_999,
            "maxLength": 8,
            "pattern": r"^([0-9]{1,6}|(100|[0-9]{1,2})%)$",
        }
    ),
]
"""Kubernetes' IntOrString: a count, or a percentage such as ``20%``."""

_ONE_KIND = "{}.filter(kind, kind).size() == 1"
_KEYWORDS = ["in", "true", "false", "null"]
_RESERVED = [
    *_KEYWORDS,
    *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let"),
    *("loop", "namespace", "package", "return", "var", "void", "while"),
]
_OWN_NAMES = [
    *("arguments", "steps", "workflow", "output", "previous"),
    *("index", "iteration", "attempt"),
]
_PLACES = "[self.transformMapEntry(i, s, {s.name: i})]"
_IN_ORDER = "s.dependsOn.all(d, d in idx && idx[d] < i)"
_GRAPH = (
    f"{_PLACES}.all(idx, self.all(i, s, !has(s.dependsOn) || {_IN_ORDER}))",
    "a step's dependsOn must name steps that are listed before it, and names must be unique",
    "'dependsOn must name steps that are listed before; it does not in: ' + "
    f"{_PLACES}.map(idx, self.transformList(i, s, has(s.dependsOn) && !{_IN_ORDER}, s.name))[0]"
    ".join(', ')",
)

Variable = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z][a-zA-Z0-9_]{0,62}$",
        json_schema_extra=rules(
            (
                f"!(self in {_RESERVED + _OWN_NAMES})",
                "must not be a word of CEL's, or a name that expressions have anyway",
            )
        ),
    ),
]
NewStepName = Annotated[
    StepName,
    Field(
        json_schema_extra=rules(
            (f"!(self in {_KEYWORDS})", "must not be a keyword: " + ", ".join(_KEYWORDS))
        )
    ),
]


class ForEach(Resource):
    """Runs the step once for every item of a list."""

    # Not a CEL rule: CEL can't see a list whose items may be anything.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["items"]},
                {"required": ["itemsFrom"]},
                {"required": ["configMapKeyRef"]},
            ]
        }
    )

    items_from: Annotated[Template, Field(min_length=1)] | None = None
    """An expression that gives the list."""
    items: Annotated[list[JsonValue], Field(max_length=1000)] | None = None
    """The list itself."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """A ConfigMap's key whose text holds one JSON value a line."""
    as_: Annotated[Variable, Field(alias="as")] = "item"
    """What expressions call the item."""
    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Items that may run at once; absent: only the workflow's parallelism counts."""
    tolerate_failures: IntOrPercent | None = None
    """How many items may fail, as a number or a percentage, before the step fails."""
    max_items: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """A longer list fails the step before any item starts."""


class Backoff(Resource):
    """How long to wait before a retry."""

    duration: Duration = "1s"
    """The wait before the first retry."""
    factor: Annotated[int, Field(ge=1, le=100)] = 2
    """What each further wait is multiplied by."""
    max_duration: Duration | None = None
    """The longest wait."""
    jitter_percent: Percent = 0
    """By how much waits vary, so that retries don't come all at once."""


class RetryStrategy(Resource):
    """When and how often a failed attempt is made again."""

    limit: Annotated[int, Field(ge=0, le=1000)]
    """Retries after the first attempt. Lost workers and the like don't count."""
    backoff: Backoff = Field(default_factory=Backoff)
    """How long to wait before each."""
    on_errors: Annotated[list[ErrorClass], Field(min_length=1, max_length=12)] | None = None
    """The errors that are retried; absent: all but Auth, Quota and Budget, which never are."""


class Approval(Resource):
    """Waits for a person's decision."""

    prompt: Template
    """What the person is asked."""
    approvers: Annotated[list[Approver], Field(min_length=1, max_length=32)]
    """Who may decide; one decision is enough."""
    allow_self_approval: bool = False
    """Whether whoever made the workflow may decide too."""
    timeout: Duration | None = None
    """How long to wait; absent: for ever."""
    on_timeout: Literal["Reject", "Approve", "Fail"] = "Reject"
    """What no decision in time means."""
    on_reject: Literal["Fail", "Skip"] = "Fail"
    """Whether a rejected step fails or is skipped."""
    on_skip: Literal["Omit", "Proceed"] = "Omit"
    """Whether what depends on a skipped approval is omitted or runs."""
    allow_edit: (
        Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None
    ) = None
    """Names of values that the person may set with the decision: $(steps.NAME.output.values.x).
    They are text; expressions turn it into numbers with int() and into anything with json()."""


class AgentSelector(Resource):
    """Finds an Agent by what it can do. The choice is recorded."""

    match_capabilities: Annotated[list[Capability], Field(min_length=1, max_length=16)]
    """Capabilities that the agent must have, all of them."""
    strategy: Literal["First", "LeastLoaded", "Cheapest"] = "First"
    """Which of several: the first by name, the least loaded per slot, or the cheapest model."""


class Loop(Resource):
    """Runs the step again until its output is good."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.onExhausted) || self.onExhausted != 'AcceptBest' || has(self.best)",
                "onExhausted: AcceptBest needs best",
            )
        )
    )

    until: Expression
    """A CEL condition that ends the loop, for example output.score >= 0.8."""
    max_iterations: Annotated[int, Field(ge=1, le=1000)]
    """The most iterations."""
    on_exhausted: Literal["Fail", "AcceptLast", "AcceptBest"] = "Fail"
    """What happens when no iteration was good: fail, or take the last or the best output."""
    best: Expression | None = None
    """A CEL number by which iterations are compared; the highest is the best."""


class Memoize(Resource):
    """Takes an earlier result instead of asking again."""

    key: Template
    """What the result depends on; the same key means the same result."""
    max_age: Duration | None = None
    """How old a result may be; absent: any age."""


class Wait(Resource):
    """Lets time pass."""

    duration: Duration
    """How long."""


class WorkflowCall(Resource):
    """Runs a WorkflowTemplate as a step."""

    template_ref: LocalRef
    """The WorkflowTemplate."""
    arguments: JsonObject | None = None
    """Its arguments; strings may hold expressions."""


class MCPEndpoint(Resource):
    """A server of the Model Context Protocol, over streamable HTTP."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]
    """The server's address."""


class ToolCall(Resource):
    """A tool call without a model."""

    mcp: MCPEndpoint
    """The server that has the tool."""
    name: Annotated[str, Field(min_length=1, max_length=128)]
    """The tool's name."""
    arguments: JsonObject | None = None
    """What it is called with; strings may hold expressions."""


class NestedStep(Resource):
    """A step without steps of its own: a CRD's schema cannot recurse."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _ONE_KIND.format(
                    "[has(self.agentRef), has(self.agentSelector), has(self.approval),"
                    " has(self.wait), has(self.workflow), has(self.tool), has(self.transform)]"
                ),
                "a nested step is exactly one of agentRef, agentSelector, approval, wait,"
                " workflow, tool, transform",
            )
        )
    )

    name: NewStepName
    """The step's name, unique among its siblings: expressions say steps.NAME.output."""
    depends_on: Annotated[list[StepName], Field(max_length=32)] | None = None
    """Steps, listed before this one, that come first."""
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCEEDED
    """What must have become of them for this step to start."""
    when: Expression | None = None
    """A CEL condition; where it is false, the step is skipped."""
    agent_ref: LocalRef | None = None
    """The Agent that does the step."""
    agent_selector: AgentSelector | None = None
    """Finds the Agent by what it can do."""
    approval: Approval | None = None
    """Waits for a person's decision."""
    wait: Wait | None = None
    """Lets time pass."""
    workflow: WorkflowCall | None = None
    """Runs a WorkflowTemplate."""
    tool: ToolCall | None = None
    """Calls a tool without a model."""
    transform: Template | None = None
    """Computes the output from expressions alone."""
    input: Template | None = None
    """What the agent is asked: text with $( CEL ) in it."""
    input_data: JsonObject | None = None
    """Structured input; strings in it may hold expressions."""
    output_schema: JsonSchema | None = None
    """A JSON Schema that the output must satisfy; replaces the Agent's own."""
    for_each: ForEach | None = None
    """Runs the step once for every item of a list."""
    loop: Loop | None = None
    """Runs the step again until its output is good."""
    retry_strategy: RetryStrategy | None = None
    """When a failed attempt is made again; absent: never, lost workers and the like aside."""
    timeout: Duration | None = None
    """How long one attempt may take."""
    deadline: Duration | None = None
    """How long all attempts and their queueing may take."""
    allow_failure: bool = False
    """Whether the workflow goes on, Degraded, if the step fails."""
    extract: Annotated[dict[str, Expression], Field(max_length=16)] | None = None
    """Small values, by CEL, that are kept on the status for conditions to use."""
    memoize: Memoize | None = None
    """Takes an earlier result instead of asking again."""

    def kinds(self) -> list[str]:
        """The fields set among those that say what kind of step this is; exactly one is right."""
        return [
            to for attribute, to in STEP_KINDS.items() if getattr(self, attribute, None) is not None
        ]


STEP_KINDS = {
    "agent_ref": "agentRef",
    "agent_selector": "agentSelector",
    "approval": "approval",
    "wait": "wait",
    "workflow": "workflow",
    "steps": "steps",
    "tool": "tool",
    "transform": "transform",
}


class Step(NestedStep):
    """A node of the graph: an agent's work, a decision, a wait, a call, or steps of its own."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                _ONE_KIND.format(
                    f"[{', '.join(f'has(self.{kind})' for kind in STEP_KINDS.values())}]"
                ),
                f"a step is exactly one of {', '.join(STEP_KINDS.values())}",
            ),
            (
                "!has(self.output) || has(self.steps)",
                "output is for a step with nested steps; others have their agent's output",
            ),
        )
    )

    steps: (
        Annotated[
            list[NestedStep], Field(min_length=1, max_length=32, json_schema_extra=rules(_GRAPH))
        ]
        | None
    ) = None
    """Nested steps: a graph with names of its own."""
    output: Template | None = None
    """The output of nested steps, as an expression."""


class WorkflowBudget(Resource):
    """What the whole workflow may use."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.maxCostUSD) || has(self.maxTokens)",
                "a budget needs maxCostUSD, maxTokens or both",
            )
        )
    )

    max_cost_usd: PositiveMoney | None = None
    """What may be spent, in US dollars."""
    max_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """Tokens, sent and received."""
    on_exceeded: Literal["Suspend", "Conclude", "Fail"] = "Suspend"
    """What then happens: wait for a higher budget, end with what there is, or fail."""
    on_unpriced: Literal["Allow", "Fail"] = "Allow"
    """Whether a model without a known price may be called."""
    warn_at: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=10)] | None = (
        None
    )
    """Percentages of the budget that raise an Event."""


class WorkflowBounds(Resource):
    """What every graph has beside its steps: bounds, an end, and what comes of it."""

    output: Template | None = None
    """The workflow's output, as an expression."""
    parallelism: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Attempts that may run at once; absent: as many as there are workers for."""
    fail_fast: bool = True
    """Whether nothing new starts after a step has failed; what runs ends either way."""
    active_deadline: Duration | None = None
    """How long the workflow may be at work; waiting for people, and suspension, don't count."""
    deadline: Duration | None = None
    """How long the workflow may take by the clock."""
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A PriorityClass: who gets a free worker first."""
    budget: WorkflowBudget | None = None
    """What the whole workflow may use."""
    on_exit: (
        Annotated[list[Step], Field(min_length=1, max_length=16, json_schema_extra=rules(_GRAPH))]
        | None
    ) = None
    """Steps that run at the end, however it ended."""
    ttl_after_finished: Duration | None = None
    """How long the finished workflow is kept; absent: until someone deletes it."""


Graph = Annotated[list[Step], Field(min_length=1, max_length=256, json_schema_extra=rules(_GRAPH))]
_STEPS_OR_TEMPLATE = (
    "has(self.steps) != has(self.workflowTemplateRef)",
    "a workflow needs exactly one of steps, workflowTemplateRef",
)


class RunSpec(WorkflowBounds):
    """What a run does: a graph of steps or a template, with arguments."""

    model_config = ConfigDict(json_schema_extra=rules(_STEPS_OR_TEMPLATE))

    arguments: JsonObject | None = None
    """Values that expressions call arguments.NAME."""
    workflow_template_ref: LocalRef | None = None
    """The WorkflowTemplate to run, instead of steps."""
    steps: Graph | None = None
    """The graph: every step is listed after those that it depends on."""


class WorkflowSpec(RunSpec):
    """One run of a graph of steps."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            _STEPS_OR_TEMPLATE,
            (
                "!has(oldSelf.shutdown) || (has(self.shutdown) &&"
                " (self.shutdown == oldSelf.shutdown || self.shutdown == 'Terminate'))",
                "shutdown can't be taken back: it can only become Terminate",
            ),
        )
    )

    retry_of: LocalRef | None = None
    """A finished Workflow of this namespace whose succeeded steps are taken over, not done again.
    It can only be set when the Workflow is created."""
    suspend: bool | None = None
    """While true, nothing new starts."""
    shutdown: Literal["Stop", "Terminate"] | None = None
    """Ends the workflow: Stop runs onExit, Terminate does not."""


class ItemCounts(Resource):
    """The items of a fan-out, by what became of them."""

    total: int = 0
    """All items."""
    succeeded: int = 0
    """Items that succeeded."""
    failed: int = 0
    """Items that failed."""
    running: int = 0
    """Items that run."""
    omitted: int = 0
    """Items that will not run."""
    queued: int = 0
    """Items that wait for a worker."""
    waiting: int = 0
    """Items that wait for a retry, a person, or time to pass."""
    cancelled: int = 0
    """Items that were cancelled."""


class StepRow(Resource):
    """One declared step, for people."""

    name: StepName
    """The step's name."""
    phase: StepPhase
    """Where the step is in its life."""
    agent: Annotated[str, Field(max_length=63)] | None = None
    """The Agent that does it."""
    attempts: int | None = None
    """Attempts so far."""
    iteration: int | None = None
    """The loop's current or last iteration."""
    started_at: Timestamp | None = None
    """When the first attempt started."""
    finished_at: Timestamp | None = None
    """When the step ended."""
    cost_usd: CostText | None = None
    """What it cost, in US dollars; absent if nothing of it had a price."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """One word that says why it is where it is."""
    message: ErrorMessage | None = None
    """A sentence that says why."""
    output: Any = None
    """The beginning of the output, for people."""
    extract: JsonObject | None = None
    """The step's extracted values."""
    items: ItemCounts | None = None
    """The items of a fan-out, by what became of them."""
    memoized: bool | None = None
    """Whether the output was taken from an earlier run."""
    child: Annotated[str, Field(max_length=63)] | None = None
    """The Workflow that does the step."""
    approval: Annotated[str, Field(max_length=63)] | None = None
    """The ApprovalRequest that the step waits for, or was decided by."""


class Attention(Resource):
    """A failed or running item of a fan-out that a person may want to see."""

    name: Annotated[str, Field(max_length=253)]
    """The step and the item, for example research[3], or outer[3].inner of nested steps."""
    phase: StepPhase
    """Where the item is in its life."""
    attempt: int | None = None
    """The current or last attempt."""
    reason: Annotated[str, Field(max_length=64)] | None = None
    """One word that says why it is where it is."""
    message: ErrorMessage | None = None
    """What went wrong."""


class WorkflowBudgetStatus(Resource):
    """What the budget has left."""

    spent_cost_usd: CostText | None = None
    """What was spent, in US dollars."""
    reserved_cost_usd: CostText | None = None
    """What running attempts may still spend, in US dollars."""
    limit_cost_usd: CostText | None = None
    """The budget, in US dollars."""
    spent_tokens: int | None = None
    """Tokens sent and received."""
    reserved_tokens: int | None = None
    """Tokens that running attempts may still use."""
    limit_tokens: int | None = None
    """The budget, in tokens."""


class WorkflowStatus(Resource):
    """Where the run is. Only the operator writes it."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    run_id: Annotated[str, Field(max_length=63)] | None = None
    """The run's identity, part of every attempt's."""
    phase: WorkflowPhase | None = None
    """Where the run is in its life."""
    progress: Annotated[str, Field(max_length=16)] | None = None
    """Declared steps that ended, of all."""
    started_at: Timestamp | None = None
    """When the run started; from then on most of the spec can't change."""
    finished_at: Timestamp | None = None
    """When the run ended."""
    message: Annotated[str, Field(max_length=4096)] | None = None
    """A sentence that says what is going on, or why the run failed."""
    trace_id: Annotated[str, Field(max_length=32)] | None = None
    """The run's trace."""
    usage: Usage | None = None
    """What all steps used."""
    budget: WorkflowBudgetStatus | None = None
    """What the budget has left."""
    output: Any = None
    """The workflow's output; a large one is a reference."""
    steps: Annotated[list[StepRow], Field(max_length=512)] | None = None
    """One row per declared step, for people."""
    attention: Annotated[list[Attention], Field(max_length=16)] | None = None
    """Some failed or running items that a person may want to see."""
    journal: Annotated[str, Field(max_length=1_000_000)] | None = None
    """The engine's own record, compressed; not for people."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Finished, Succeeded, Suspended, Degraded, Reconciling and Stalled."""
