"""``Model``: who is called, with what key, within which limits. Owned by admins."""

from typing import Annotated, Literal

from pydantic import Field

from corral.api.types import (
    Condition,
    Duration,
    Money,
    Percent,
    Resource,
    SecretKeyRef,
    Text,
    ZeroDuration,
)

__all__ = ["ModelSpec", "ModelStatus", "Simulation"]

Provider = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z][a-z0-9-]*$",
        description="A provider's name in pydantic-ai's words (openai, anthropic, google, …), "
        "or 'simulated', which needs no network.",
    ),
]


class SimulatedToolCall(Resource):
    """A tool call that a simulated model asks for."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: dict[str, object] = Field(default_factory=dict)


class SimulatedReply(Resource):
    """One rule of a simulated model: the first whose ``match`` is found in the input answers."""

    match: Annotated[
        str, Field(max_length=1024, description="An unanchored regular expression (Python's).")
    ]
    reply: Text = ""
    tool_calls: Annotated[list[SimulatedToolCall], Field(max_length=16)] | None = None


class Simulation(Resource):
    """How ``provider: simulated`` answers."""

    latency: ZeroDuration = "0s"
    reply: Text = "ok"
    script: Annotated[list[SimulatedReply], Field(max_length=256)] | None = None
    input_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 50
    output_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 20
    failure_percent: Percent = 0
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1


class Limits(Resource):
    """What may be asked of the provider at once and per minute, over all agents and workers."""

    max_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=2**53)] | None = None


class CircuitBreaker(Resource):
    """After so many failures in a row the model is left alone for a while."""

    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = 5
    reset_after: Duration = "30s"


class Price(Resource):
    """US dollars per million tokens; overrides the price list that ships with corral."""

    input_per_million_usd: Money
    output_per_million_usd: Money


class ModelSpec(Resource):
    provider: Provider
    name: Annotated[str, Field(max_length=253, description="The model's name at its provider.")] = (
        ""
    )
    base_url: (
        Annotated[
            str,
            Field(
                max_length=2048,
                pattern=r"^https?://.+",
                description="Where the provider's API is, if not at the provider's own address.",
            ),
        ]
        | None
    ) = None
    api_key_secret_ref: SecretKeyRef | None = None
    timeout: Annotated[Duration, Field(description="One model call.")] = "60s"
    limits: Limits | None = None
    circuit_breaker: CircuitBreaker | None = None
    price: Price | None = None
    simulation: Simulation | None = None


class ModelStatus(Resource):
    observed_generation: int | None = None
    circuit: Literal["Closed", "Open", "HalfOpen"] | None = None
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
