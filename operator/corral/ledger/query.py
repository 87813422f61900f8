"""What the ledger can be asked, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from corral.plan.state import Consumption

KEYS = (
    "namespace",
    "agent",
    "workflow",
    "template",
    "model",
    "provider",
    "step",
    "purpose",
    "outcome",
    "cron",
    "parent",
)
"""What sums can be by."""
MEASURES = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "unpriced_requests",
)

_COUNTS = ("rows", *MEASURES, "simulated_requests")


@dataclass(frozen=True)
class Filter:
    """Which rows; times in seconds since the epoch, ``until`` is not part of it."""

    since: float | None = None
    until: float | None = None
    equal: Mapping[str, str] = field(default_factory=dict)
    """By column."""


@dataclass(frozen=True)
class Sum:
    """What rows of the same keys come to."""

    keys: tuple[str | None, ...]
    rows: int
    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    unpriced_requests: int
    simulated_requests: int
    cost_usd: Decimal | None
    """Of what had a price; None where nothing had."""

    @property
    def used(self) -> Consumption:
        """The same as status has it."""
        return Consumption(
            requests=self.requests,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost=self.cost_usd,
            unpriced_requests=self.unpriced_requests,
            simulated_requests=self.simulated_requests,
        )


def total(sums: Sequence[Sum]) -> Sum:
    """All of them together, without keys."""
    costs = [one.cost_usd for one in sums if one.cost_usd is not None]
    counts = {name: sum(getattr(one, name) for one in sums) for name in _COUNTS}
    return Sum(keys=(), cost_usd=sum(costs, Decimal(0)) if costs else None, **counts)
