"""``Model``: who is called, with what key, within which limits. Owned by admins."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from corral.api.types import (
    Condition,
    Duration,
    Money,
    Percent,
    Resource,
    SecretKeyRef,
    Text,
    Timestamp,
    ZeroDuration,
    rules,
)

__all__ = ["ModelSpec", "ModelStatus", "Simulation"]

Provider = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z][a-z0-9-]*$")]


OPENAI_COMPATIBLE = {
    "openai": "https://api.openai.com/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "deepseek": "https://api.deepseek.com",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together": "https://api.together.xyz/v1",
    "xai": "https://api.x.ai/v1",
}
"""Providers that speak OpenAI's protocol, and where they do."""
OWN_PROTOCOL = ("anthropic", "google")
SIMULATED = "simulated"


class SimulatedToolCall(Resource):
    """A tool call that a simulated model asks for."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """The tool's name, as the model calls it."""
    arguments: dict[str, object] = Field(default_factory=dict)
    """What the tool is called with."""


class SimulatedReply(Resource):
    """One rule of a simulated model: the first whose ``match`` is found in the input answers."""

    match: Annotated[str, Field(max_length=1024)]
    """An unanchored regular expression (Python's), searched in the step's rendered input."""
    reply: Text = ""
    """The answer, literally; parsed as JSON where the step has an outputSchema."""
    tool_calls: Annotated[list[SimulatedToolCall], Field(max_length=16)] | None = None
    """Tool calls that the model asks for first, all at once; with their results it answers with
    the reply."""


class Simulation(Resource):
    """How ``provider: simulated`` answers. Every such answer is marked as simulated."""

    latency: ZeroDuration = "0s"
    """How long a call takes."""
    reply: Text = "ok"
    """The answer where no rule of the script matches."""
    script: Annotated[list[SimulatedReply], Field(max_length=256)] | None = None
    """Answers by what the input contains; the first match wins."""
    input_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 50
    """Tokens that every call counts as sent."""
    output_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 20
    """Tokens that every call counts as received."""
    failure_percent: Percent = 0
    """How many of a hundred calls fail with ModelUnavailable."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    """Which calls fail: the same seed fails the same calls."""


class Limits(Resource):
    """What may be asked of the provider at once and per minute, over all agents and workers."""

    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Calls that may be open at once."""
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Calls that may start per minute."""
    tokens_per_minute: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """Tokens, sent and received, per minute."""


class CircuitBreaker(Resource):
    """After so many failures in a row the model is left alone for a while."""

    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failures in a row that open the circuit."""
    reset_after: Duration = "30s"
    """How long the circuit stays open before one call tries again."""


class Price(Resource):
    """US dollars per million tokens; overrides the price list that ships with corral."""

    input_per_million_usd: Money
    """Price of a million tokens sent."""
    output_per_million_usd: Money
    """Price of a million tokens received."""


class ModelSpec(Resource):
    """Who is called, with what key, within which limits."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.simulation) || self.provider == 'simulated'",
                "simulation needs provider: simulated",
            ),
            (
                "self.provider == 'simulated' || (has(self.name) && self.name != '')",
                "name, the model's name at its provider, is required",
            ),
        )
    )

    provider: Provider
    """Who serves the model, in pydantic-ai's words (openai, anthropic, google, …), or
    'simulated', which needs no network."""
    name: Annotated[str, Field(max_length=253)] = ""
    """The model's name at its provider; a simulated model needs none."""
    base_url: Annotated[str, Field(max_length=2048, pattern=r"^https?://.+")] | None = None
    """Where the provider's API is, if not at the provider's own address."""
    api_key_secret_ref: SecretKeyRef | None = None
    """The API key: mounted as a file in workers only, so that rotation needs no restart."""
    timeout: Duration = "60s"
    """How long one model call may take."""
    limits: Limits | None = None
    """What may be asked of the provider at once and per minute; absent: no limits."""
    circuit_breaker: CircuitBreaker | None = None
    """When a failing model is left alone for a while."""
    price: Price | None = None
    """The price of tokens; absent: the price list that ships with corral, else unpriced."""
    simulation: Simulation | None = None
    """How a simulated model answers."""


class ModelStatus(Resource):
    """What the operator knows about the model."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    circuit: Literal["Closed", "Open", "HalfOpen"] | None = None
    """The circuit breaker: Closed lets calls through, Open none, HalfOpen one that tries."""
    retry_at: Timestamp | None = None
    """When the model is asked again, where it is left alone: its circuit is open, or its provider
    asked to wait (Retry-After)."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Whether the model can be used, and why not."""
