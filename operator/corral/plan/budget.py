"""Money: what an attempt may use at the most, and whether that is still there.

Before an attempt starts, what it may use at the most is reserved, and the worker is told not to
begin a call beyond it; when it has ended, what it used takes the reservation's place:

    spent + reserved <= limit          in every state that is written

The reservation is the Agent's ``limits.maxCostUSD``; without that, for each of the ``turns`` that
an attempt may take, the input, what was said before, and ``maxTokens`` of output at the Model's
price. A worker checks before each call, so an attempt passes its reservation by less than one
call, and a run its budget by less than one call for each attempt that ran at the same time. A
Model without a price can't be reserved for: it runs, and is counted as unpriced, unless
``onUnpriced: Fail`` forbids it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from zoneinfo import ZoneInfo

from corral.api.workflow import WorkflowBudget
from corral.plan.limits import Load
from corral.plan.observed import Rates
from corral.plan.state import Consumption, Node, Run, Step

SMALLEST_MONEY = Decimal("0.000001")
"""US dollars: what a manifest can say."""


@dataclass(frozen=True)
class Reservation:
    """What an attempt may use. ``cost`` is None where the Model has no known price."""

    cost: Decimal | None
    tokens: int


def worst_case(rates: Rates, input_bytes: int, *, structured: bool = False) -> Reservation:
    """What an attempt with an input of that size may use at the most.

    A token has at least one byte, so the size of the input bounds its tokens.
    """
    sent = received = 0
    for turn in range(rates.structured_turns if structured else rates.turns):
        said_before = turn * rates.call_output_tokens
        sent += (
            rates.call_input_tokens
            if rates.call_input_tokens is not None
            else input_bytes + rates.instructions + said_before
        )
        received += rates.call_output_tokens
    cost = rates.max_cost
    if cost is None and rates.input_usd is not None and rates.output_usd is not None:
        cost = sent * rates.input_usd + received * rates.output_usd
        cost = cost.quantize(SMALLEST_MONEY, ROUND_UP)
    return Reservation(cost, sent + received)


def load_of(rates: Rates, input_bytes: int, *, structured: bool = False) -> Load:
    """What an attempt with an input of that size may need of its Model at the most."""
    turns = rates.structured_turns if structured else rates.turns
    return Load(1, turns, worst_case(rates, input_bytes, structured=structured).tokens)


def reserved(run: Run) -> Reservation:
    """What all running attempts and children may still use."""
    cost = sum(run.unsettled_cost.values(), Decimal(0))
    tokens = sum(run.unsettled_tokens.values())

    def add(steps: dict[str, Step]) -> None:
        nonlocal cost, tokens
        for step in steps.values():
            for node in step.nodes:
                cost += node.reserved or 0
                tokens += node.reserved_tokens
                if node.steps:
                    add(node.steps)

    add(run.steps)
    add(run.exit_steps)
    return Reservation(cost, tokens)


def remaining(budget: WorkflowBudget, run: Run) -> tuple[Decimal | None, int | None]:
    """US dollars and tokens that are neither spent nor reserved; None where there is no limit."""
    used, held = run.used(), reserved(run)
    cost = tokens = None
    if budget.max_cost_usd is not None:
        cost = Decimal(budget.max_cost_usd) - (used.cost or 0) - (held.cost or 0)
    if budget.max_tokens is not None:
        tokens = budget.max_tokens - used.input_tokens - used.output_tokens - held.tokens
    return cost, tokens


def stricter(cost: Decimal | None, tokens: int | None, own: WorkflowBudget | None) -> Reservation:
    """What a child may spend of what its parent has left, within its template's own budget."""
    if cost is not None and own is not None and own.max_cost_usd is not None:
        cost = min(cost, Decimal(own.max_cost_usd))
    if tokens is not None and own is not None and own.max_tokens is not None:
        tokens = min(tokens, own.max_tokens)
    return Reservation(cost, tokens or 0)


def fits(left: tuple[Decimal | None, int | None], wanted: Reservation) -> bool:
    """Whether a reservation is within what is left."""
    cost, tokens = left
    if cost is not None and (wanted.cost or 0) > cost:
        return False
    return tokens is None or wanted.tokens <= tokens


def reserve(node: Node, wanted: Reservation) -> None:
    """Holds it for the node's attempt."""
    node.reserved = wanted.cost
    node.reserved_tokens = wanted.tokens


def passed(budget: WorkflowBudget, used: Consumption) -> list[int]:
    """The percentages of ``warnAt`` that the usage has reached."""
    shares = []
    if budget.max_cost_usd is not None:
        shares.append((used.cost or Decimal(0)) / Decimal(budget.max_cost_usd))
    if budget.max_tokens is not None:
        shares.append(Decimal(used.input_tokens + used.output_tokens) / budget.max_tokens)
    most = max(shares, default=Decimal(0)) * 100
    return [percent for percent in sorted(budget.warn_at or []) if most >= percent]


def limit_text(budget: WorkflowBudget) -> str:
    """The budget's limits as a sentence says them; also tells two budgets apart."""
    parts = []
    if budget.max_cost_usd is not None:
        parts.append(f"{budget.max_cost_usd} USD")
    if budget.max_tokens is not None:
        parts.append(f"{budget.max_tokens} tokens")
    return " and ".join(parts)


def period(name: str, zone: str, now: float) -> tuple[float, float]:
    """The start and the end of the Hourly, Daily, Weekly or Monthly period that ``now`` is in.

    Days begin at midnight of the time zone, weeks on Monday (ISO 8601).

    Raises:
        ZoneInfoNotFoundError: there is no such time zone.
    """
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    if name == "Hourly":
        # By the clock on the wall an hour may come twice; by UTC it can't.
        begin = now - local.minute * 60 - local.second - local.microsecond / 1e6
        return begin, begin + 3600
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if name == "Daily":
        first, last = midnight, midnight + timedelta(days=1)
    elif name == "Weekly":
        first = midnight - timedelta(days=midnight.weekday())
        last = first + timedelta(days=7)
    else:
        first = midnight.replace(day=1)
        last = (first + timedelta(days=32)).replace(day=1)
    return first.timestamp(), last.timestamp()
