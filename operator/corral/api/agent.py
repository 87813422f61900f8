"""``Agent``: instructions, a model, tools and limits."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from corral.api.errors import ErrorClass
from corral.api.types import (
    Approver,
    Condition,
    CostText,
    DecimalText,
    Duration,
    JsonSchema,
    LocalRef,
    PositiveMoney,
    Resource,
    SecretKeyRef,
    Text,
    Timestamp,
    Usage,
    rules,
)

Capability = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z0-9._/-]+$")]
ToolName = Annotated[str, Field(min_length=1, max_length=128)]


class ModelSettings(Resource):
    """How the model is asked; what is absent is the provider's default."""

    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Tokens that one answer may have."""
    temperature: DecimalText | None = None
    """How much answers vary, as a decimal in quotes."""
    top_p: DecimalText | None = None
    """Nucleus sampling, as a decimal in quotes."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """For answers that can be repeated, where the provider supports it."""


class FallbackModel(Resource):
    """A model to use instead after certain errors."""

    model_ref: LocalRef
    """The Model to use instead."""
    on_errors: Annotated[list[ErrorClass], Field(min_length=1, max_length=12)] | None = None
    """The errors after which it is used; absent: ModelUnavailable, RateLimited and Budget."""


class HeaderFrom(Resource):
    """An HTTP header whose value is in a Secret."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[-A-Za-z0-9]+$")]
    """The header's name."""
    secret_key_ref: SecretKeyRef
    """Where its value is."""


class MCPServer(Resource):
    """A server of the Model Context Protocol, over streamable HTTP."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]
    """The server's address."""
    allow: Annotated[list[ToolName], Field(max_length=128)] | None = None
    """The server's tools that the agent may use; absent: all."""
    require_approval: Annotated[list[ToolName], Field(max_length=128)] | None = None
    """The server's tools that a person must approve before each call."""
    approvers: Annotated[list[Approver], Field(min_length=1, max_length=32)] | None = None
    """Who may approve; absent: whoever has the verb approve on approvalrequests."""
    allow_self_approval: bool = False
    """Whether whoever made the workflow may approve too."""
    headers_from: Annotated[list[HeaderFrom], Field(max_length=16)] | None = None
    """Headers to send, with values from Secrets."""
    timeout: Duration = "60s"
    """How long one tool call may take."""


class Tool(Resource):
    """Tools that the agent may use: a server's, or another Agent to delegate to."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("has(self.mcp) != has(self.agent)", "a tool is exactly one of mcp, agent")
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z][a-zA-Z0-9_-]*$")]
    """What the model calls it."""
    mcp: MCPServer | None = None
    """A server of the Model Context Protocol."""
    agent: LocalRef | None = None
    """An Agent to delegate to."""


class AgentLimits(Resource):
    """What one attempt may use."""

    max_turns: Annotated[int, Field(ge=1, le=1000)] = 10
    """Model calls of one attempt."""
    max_tool_calls: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Tool calls of one attempt."""
    timeout: Duration = "5m"
    """How long one attempt may take, where its step does not say."""
    max_cost_usd: PositiveMoney | None = None
    """What one attempt may cost, in US dollars: no model call begins once it has cost that much."""


class AgentBudget(Resource):
    """What the agent may use in a period, over all workflows."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.maxCostUSD) || has(self.maxTokens)",
                "a budget needs maxCostUSD, maxTokens or both",
            )
        )
    )

    period: Literal["Hourly", "Daily", "Weekly", "Monthly"]
    """When the budget starts again."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """In whose days, weeks and months the period is counted (an IANA name)."""
    max_cost_usd: PositiveMoney | None = None
    """What may be spent per period, in US dollars."""
    max_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """Tokens, sent and received, per period."""
    on_exceeded: Literal["Suspend", "Fallback", "Fail"] = "Suspend"
    """What then happens to steps: they wait, use the fallback models, or fail."""


class A2AEndpoint(Resource):
    """Where an agent that runs elsewhere speaks the A2A protocol."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]
    """The agent's address."""


class AgentSpec(Resource):
    """Who does the work: instructions, a model, tools and limits."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.type != 'Declarative' || has(self.modelRef)",
                "modelRef is required with type: Declarative",
            ),
            (
                "has(self.a2a) == (self.type == 'Remote')",
                "a2a is required with type: Remote, and only allowed there",
            ),
            (
                "has(self.image) == (self.type == 'Container')",
                "image is required with type: Container, and only allowed there",
            ),
            (
                "!has(self.budget) || self.budget.onExceeded != 'Fallback'"
                " || has(self.fallbackModels)",
                "budget.onExceeded: Fallback needs fallbackModels",
            ),
        )
    )

    type: Literal["Declarative", "Remote", "Container"] = "Declarative"
    """Declarative is run by corral's workers, Remote is called over A2A, Container is an
    image of your own that speaks A2A."""
    description: Annotated[str, Field(max_length=4096)] = ""
    """What the agent is good for: for people, and for agents that delegate to it."""
    capabilities: Annotated[list[Capability], Field(max_length=32)] | None = None
    """What steps with an agentSelector find the agent by."""
    instructions: Text = ""
    """What the model is told before every input."""
    model_ref: LocalRef | None = None
    """The Model that answers."""
    model_settings: ModelSettings | None = None
    """How the model is asked."""
    fallback_models: Annotated[list[FallbackModel], Field(max_length=8)] | None = None
    """Models to use instead when the model fails, in this order."""
    tools: Annotated[list[Tool], Field(max_length=32)] | None = None
    """What the model may call."""
    output_schema: JsonSchema | None = None
    """A JSON Schema that the answer must satisfy; the model is asked again until it does."""
    limits: AgentLimits = Field(default_factory=AgentLimits)
    """What one attempt may use."""
    budget: AgentBudget | None = None
    """What the agent may use in a period."""
    default_pool: Literal["Enabled", "Disabled"] = "Enabled"
    """Whether an AgentPool is made on the first queued step if none names the agent."""
    a2a: A2AEndpoint | None = None
    """Where an agent of type Remote is."""
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The container image of an agent of type Container."""


class AgentBudgetStatus(Resource):
    """The budget's current period."""

    period_start: Timestamp | None = None
    """When the period began."""
    resets_at: Timestamp | None = None
    """When the next one begins."""
    spent_cost_usd: CostText | None = None
    """What was spent in this period, in US dollars."""
    reserved_cost_usd: CostText | None = None
    """What running attempts may still spend, in US dollars."""
    spent_tokens: int | None = None
    """Tokens sent and received in this period."""


class AgentStatus(Resource):
    """What the operator knows about the agent."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    revision: Annotated[str, Field(max_length=63)] | None = None
    """A hash of what shapes the agent's answers; workers of another revision are replaced."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Ready, Reconciling, Stalled and BudgetAvailable."""
    usage: Usage | None = None
    """What the agent used since it was made."""
    budget: AgentBudgetStatus | None = None
    """The budget's current period."""
