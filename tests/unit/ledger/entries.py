"""Entries as tests need them."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from corral.ledger.rows import Entry

NOW = 1_763_900_000.25

_ENTRY = Entry(
    attempt_id="run.write.0.1.1",
    model_ref="fast",
    simulated=False,
    recorded_at=NOW,
    namespace="team",
    run_id="run",
    workflow="report",
    template=None,
    parent=None,
    cron=None,
    agent="writer",
    step="write",
    item=0,
    iteration=1,
    attempt=1,
    purpose="Step",
    outcome="Succeeded",
    provider="openai",
    model="gpt-5-mini",
    requests=2,
    input_tokens=100,
    output_tokens=50,
    cached_input_tokens=20,
    cost_usd=Decimal("0.000000125"),
    price_source="genai-prices",
    unpriced_requests=0,
)


def entry(**changes: Any) -> Entry:
    """One, with changes."""
    return replace(_ENTRY, **changes)


def entries(count: int, **changes: Any) -> list[Entry]:
    """As many, of different items."""
    return [entry(attempt_id=f"run.write.{n}.1.1", item=n, **changes) for n in range(count)]
