"""``Workflow``: one run of a graph of steps."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from corral.api.agent import Capability
from corral.api.errors import ErrorClass
from corral.api.types import (
    Condition,
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
)


class WorkflowPhase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"


class StepPhase(StrEnum):
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
    ALL_SUCCEEDED = "AllSucceeded"
    ALL_DONE = "AllDone"
    ANY_FAILED = "AnyFailed"
    ANY_SUCCEEDED = "AnySucceeded"


IntOrPercent = Annotated[
    int | Annotated[str, Field(max_length=8, pattern=r"^([0-9]{1,6}|[0-9]{1,3}%)$")],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""Kubernetes' IntOrString: a count, or a percentage such as ``20%``."""

Variable = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z][a-zA-Z0-9_]{0,62}$")]


class ForEach(Resource):
    """Runs the step once for every item of a list."""

    items_from: (
        Annotated[Template, Field(description="An expression that gives a list.")] | None
    ) = None
    items: Annotated[list[JsonValue], Field(max_length=1000)] | None = None
    as_: Annotated[Variable, Field(alias="as")] = "item"
    max_concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = None
    tolerate_failures: IntOrPercent | None = None
    max_items: Annotated[int, Field(ge=1, le=10_000)] = 1000


class Backoff(Resource):
    duration: Duration = "1s"
    factor: Annotated[int, Field(ge=1, le=100)] = 2
    max_duration: Duration = "1m"
    jitter_percent: Percent = 0


class RetryStrategy(Resource):
    limit: Annotated[int, Field(ge=0, le=1000, description="Retries after the first attempt.")]
    backoff: Backoff = Field(default_factory=Backoff)
    on_errors: Annotated[list[ErrorClass], Field(min_length=1, max_length=12)] | None = None


class Approver(Resource):
    kind: Literal["User", "Group"]
    name: Annotated[str, Field(min_length=1, max_length=253)]


class Approval(Resource):
    prompt: Template
    approvers: Annotated[list[Approver], Field(min_length=1, max_length=32)]
    allow_self_approval: bool = False
    timeout: Duration | None = None
    on_timeout: Literal["Reject", "Approve", "Fail"] = "Reject"
    on_reject: Literal["Fail", "Skip"] = "Fail"
    on_skip: Literal["Omit", "Proceed"] = "Omit"
    allow_edit: (
        Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None
    ) = None


class AgentSelector(Resource):
    match_capabilities: Annotated[list[Capability], Field(min_length=1, max_length=16)]
    strategy: Literal["First", "LeastLoaded", "Cheapest"] = "First"


class Loop(Resource):
    until: Expression
    max_iterations: Annotated[int, Field(ge=1, le=1000)]
    on_exhausted: Literal["Fail", "AcceptLast", "AcceptBest"] = "Fail"
    best: Expression | None = None


class Memoize(Resource):
    key: Template
    max_age: Duration | None = None


class Wait(Resource):
    duration: Duration


class WorkflowCall(Resource):
    template_ref: LocalRef
    arguments: JsonObject | None = None


class MCPEndpoint(Resource):
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]


class ToolCall(Resource):
    """A tool call without a model."""

    mcp: MCPEndpoint
    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: JsonObject | None = None


class NestedStep(Resource):
    """A step without steps of its own: a CRD's schema cannot recurse."""

    name: StepName
    depends_on: Annotated[list[StepName], Field(max_length=32)] | None = None
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCEEDED
    when: Expression | None = None
    agent_ref: LocalRef | None = None
    agent_selector: AgentSelector | None = None
    approval: Approval | None = None
    wait: Wait | None = None
    workflow: WorkflowCall | None = None
    tool: ToolCall | None = None
    transform: Template | None = None
    input: Template | None = None
    input_data: JsonObject | None = None
    output_schema: JsonSchema | None = None
    for_each: ForEach | None = None
    loop: Loop | None = None
    retry_strategy: RetryStrategy | None = None
    timeout: Annotated[Duration, Field(description="One attempt.")] | None = None
    deadline: Annotated[Duration, Field(description="All attempts and queueing.")] | None = None
    allow_failure: bool = False
    extract: Annotated[dict[str, Expression], Field(max_length=16)] | None = None
    memoize: Memoize | None = None

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
    steps: Annotated[list[NestedStep], Field(min_length=1, max_length=32)] | None = None
    output: Annotated[Template, Field(description="The output of nested steps.")] | None = None


class WorkflowBudget(Resource):
    max_cost_usd: PositiveMoney | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None
    on_exceeded: Literal["Suspend", "Conclude", "Fail"] = "Suspend"
    on_unpriced: Literal["Allow", "Fail"] = "Allow"
    warn_at: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=10)] | None = (
        None
    )


class WorkflowSpec(Resource):
    arguments: JsonObject | None = None
    workflow_template_ref: LocalRef | None = None
    steps: Annotated[list[Step], Field(min_length=1, max_length=256)] | None = None
    output: Template | None = None
    parallelism: Annotated[int, Field(ge=1, le=100_000)] | None = None
    fail_fast: bool = True
    active_deadline: Duration | None = None
    deadline: Duration | None = None
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    budget: WorkflowBudget | None = None
    on_exit: Annotated[list[Step], Field(min_length=1, max_length=16)] | None = None
    ttl_after_finished: Duration | None = None
    suspend: bool | None = None
    shutdown: Literal["Stop", "Terminate"] | None = None


class ItemCounts(Resource):
    """The items of a fan-out, by what became of them."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    omitted: int = 0


class StepRow(Resource):
    """One declared step, for people."""

    name: StepName
    phase: StepPhase
    agent: Annotated[str, Field(max_length=63)] | None = None
    attempts: int | None = None
    iteration: int | None = None
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    cost_usd: Annotated[str, Field(max_length=32)] | None = None
    reason: Annotated[str, Field(max_length=64)] | None = None
    message: ErrorMessage | None = None
    output: Any = None
    extract: JsonObject | None = None
    items: ItemCounts | None = None


class Attention(Resource):
    """A failed or running item of a fan-out that a person may want to see."""

    name: Annotated[str, Field(max_length=128)]
    phase: StepPhase
    attempt: int | None = None
    message: ErrorMessage | None = None


class WorkflowBudgetStatus(Resource):
    spent_cost_usd: Annotated[str, Field(max_length=32)] | None = None
    reserved_cost_usd: Annotated[str, Field(max_length=32)] | None = None
    limit_cost_usd: Annotated[str, Field(max_length=32)] | None = None


class WorkflowStatus(Resource):
    observed_generation: int | None = None
    run_id: Annotated[str, Field(max_length=63)] | None = None
    phase: WorkflowPhase | None = None
    progress: Annotated[str, Field(max_length=16)] | None = None
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    message: Annotated[str, Field(max_length=4096)] | None = None
    trace_id: Annotated[str, Field(max_length=32)] | None = None
    usage: Usage | None = None
    budget: WorkflowBudgetStatus | None = None
    output: Any = None
    steps: Annotated[list[StepRow], Field(max_length=512)] | None = None
    attention: Annotated[list[Attention], Field(max_length=16)] | None = None
    journal: Annotated[str, Field(max_length=1_000_000)] | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
