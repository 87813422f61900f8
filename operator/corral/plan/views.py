"""What an Agent is to the planner: what it can do, and what its attempts may cost at the most."""

from collections.abc import Callable, Mapping
from decimal import Decimal

from corral.api.agent import AgentSpec
from corral.api.attempt import ModelUsage
from corral.api.errors import FALLBACK_ERRORS, ErrorClass
from corral.api.model import SIMULATED, ModelSpec
from corral.api.types import seconds
from corral.plan.agent import approvers_of, self_approved
from corral.plan.budget import load_of
from corral.plan.observed import AgentView, ModelView, Rates

DEFAULT_MAX_TOKENS = 4096
"""Tokens of one answer, where neither the Agent nor anybody else limits them."""
REASKS = 3
"""Calls after the first that an answer may need until it fits its schema."""
_MILLION = Decimal(1_000_000)
Price = Callable[[ModelSpec | None, ModelUsage], Decimal | None]
"""What was used of a Model costs, in US dollars; None where no price is known."""


def rates_of(agent: AgentSpec, models: Mapping[str, ModelSpec], price: Price) -> Rates:
    """The rates of an Agent that asks its own Model; nothing at all where it has none."""
    if agent.model_ref is None:
        nothing = Decimal(0)
        return Rates(nothing, nothing, call_input_tokens=0, call_output_tokens=0)
    return _rates(agent, models, agent.model_ref.name, price)


def _rates(agent: AgentSpec, models: Mapping[str, ModelSpec], name: str, price: Price) -> Rates:
    spec = models.get(name)
    settings = agent.model_settings
    simulation = spec.simulation if spec and spec.provider == SIMULATED else None
    max_tokens = settings.max_tokens if settings and settings.max_tokens else DEFAULT_MAX_TOKENS
    limit = agent.limits.max_cost_usd
    return Rates(
        input_usd=_per_token(spec, name, "input", price) if spec else None,
        output_usd=_per_token(spec, name, "output", price) if spec else None,
        call_input_tokens=simulation.input_tokens if simulation else None,
        call_output_tokens=simulation.output_tokens if simulation else max_tokens,
        instructions=len(agent.instructions.encode()),
        turns=_turns(agent, agent.output_schema is not None),
        structured_turns=_turns(agent, True),
        max_cost=Decimal(limit) if limit else None,
    )


def fallback_of(
    agent: AgentSpec, models: Mapping[str, ModelSpec], price: Price
) -> tuple[str, Rates] | None:
    """The Model to ask once the Agent's budget is spent, and its rates; None if there is none."""
    for fallback in agent.fallback_models or []:
        name = fallback.model_ref.name
        if name in models and (
            fallback.on_errors is None or ErrorClass.BUDGET in fallback.on_errors
        ):
            return name, _rates(agent, models, name, price)
    return None


def models_of(
    agent: AgentSpec, models: Mapping[str, ModelSpec], price: Price
) -> tuple[ModelView, ...]:
    """The Models that an Agent may ask, in their order; those that exist."""
    if agent.model_ref is None:
        return ()
    on_errors: dict[str, frozenset[ErrorClass]] = {agent.model_ref.name: frozenset()}
    for fallback in agent.fallback_models or []:
        wanted = fallback.on_errors
        errors = FALLBACK_ERRORS if wanted is None else frozenset(wanted)
        on_errors.setdefault(fallback.model_ref.name, errors)
    found = []
    for name, errors in on_errors.items():
        if name in models:
            rates = _rates(agent, models, name, price)
            text, structured = (load_of(rates, 0, structured=one) for one in (False, True))
            found.append(ModelView(name, errors, rates, text, structured))
    return tuple(found)


def _turns(agent: AgentSpec, structured: bool) -> int:
    """Calls that an attempt may make: with tools as many as are allowed, for a schema some."""
    if agent.tools:
        return agent.limits.max_turns
    return min(agent.limits.max_turns, 1 + REASKS if structured else 1)


def _per_token(spec: ModelSpec, name: str, kind: str, price: Price) -> Decimal | None:
    million = {f"{kind}_tokens": "1000000"}
    usage = ModelUsage(
        model_ref=name,
        provider=spec.provider,
        model=spec.name or "",
        requests="1",
        simulated=spec.provider == SIMULATED,
        **million,
    )
    found = price(spec, usage)
    return None if found is None else found / _MILLION


def view_of(
    name: str,
    spec: AgentSpec,
    revision: str,
    rates: Rates,
    fallback: tuple[str, Rates] | None,
    models: tuple[ModelView, ...] = (),
) -> AgentView:
    """An Agent that is ready, as far as its spec tells."""
    budget = spec.budget
    return AgentView(
        name=name,
        revision=revision,
        timeout=seconds(spec.limits.timeout),
        capabilities=frozenset(spec.capabilities or ()),
        rates=rates,
        fallback=fallback,
        models=models,
        limits_cost=budget is not None and budget.max_cost_usd is not None,
        limits_tokens=budget is not None and budget.max_tokens is not None,
        budget_action=budget.on_exceeded if budget else "Suspend",
        approvers=approvers_of(spec),
        self_approval=self_approved(spec),
    )
