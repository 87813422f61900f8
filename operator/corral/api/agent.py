"""``Agent``: instructions, a model, tools and limits."""

from typing import Annotated, Literal

from pydantic import Field

from corral.api.errors import ErrorClass
from corral.api.types import (
    Condition,
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
)

Capability = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z0-9._/-]+$")]


class ModelSettings(Resource):
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    temperature: DecimalText | None = None
    top_p: DecimalText | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class FallbackModel(Resource):
    model_ref: LocalRef
    on_errors: Annotated[list[ErrorClass], Field(min_length=1, max_length=12)] | None = None


class HeaderFrom(Resource):
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[-A-Za-z0-9]+$")]
    secret_key_ref: SecretKeyRef


class MCPServer(Resource):
    """A server of the Model Context Protocol, over streamable HTTP."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]
    allow: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=128)]
        | None
    ) = None
    require_approval: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=128)]
        | None
    ) = None
    headers_from: Annotated[list[HeaderFrom], Field(max_length=16)] | None = None


class Tool(Resource):
    """Tools that the agent may use: a server's, or another Agent to delegate to."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z][a-zA-Z0-9_-]*$")]
    mcp: MCPServer | None = None
    agent: LocalRef | None = None


class AgentLimits(Resource):
    """What one attempt may use."""

    max_turns: Annotated[int, Field(ge=1, le=1000)] = 10
    max_tool_calls: Annotated[int, Field(ge=0, le=10_000)] | None = None
    timeout: Duration = "5m"
    max_cost_usd: PositiveMoney | None = None


class AgentBudget(Resource):
    period: Literal["Hourly", "Daily", "Weekly", "Monthly"]
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    max_cost_usd: PositiveMoney | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None
    on_exceeded: Literal["Suspend", "Fallback", "Fail"] = "Suspend"


class A2AEndpoint(Resource):
    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")]


class AgentSpec(Resource):
    type: Literal["Declarative", "Remote", "Container"] = "Declarative"
    description: Annotated[str, Field(max_length=4096)] = ""
    capabilities: Annotated[list[Capability], Field(max_length=32)] | None = None
    instructions: Text = ""
    model_ref: LocalRef | None = None
    model_settings: ModelSettings | None = None
    fallback_models: Annotated[list[FallbackModel], Field(max_length=8)] | None = None
    tools: Annotated[list[Tool], Field(max_length=32)] | None = None
    output_schema: JsonSchema | None = None
    limits: AgentLimits = Field(default_factory=AgentLimits)
    budget: AgentBudget | None = None
    default_pool: Literal["Enabled", "Disabled"] = "Enabled"
    a2a: A2AEndpoint | None = None
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None


class AgentBudgetStatus(Resource):
    period_start: Timestamp | None = None
    resets_at: Timestamp | None = None
    spent_cost_usd: Annotated[str, Field(max_length=32)] | None = None
    reserved_cost_usd: Annotated[str, Field(max_length=32)] | None = None


class AgentStatus(Resource):
    observed_generation: int | None = None
    revision: Annotated[str, Field(max_length=63)] | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    usage: Usage | None = None
    budget: AgentBudgetStatus | None = None
