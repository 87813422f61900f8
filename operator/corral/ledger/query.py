"""What the ledger can be asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

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
