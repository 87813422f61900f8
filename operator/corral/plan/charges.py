"""What an attempt's model calls came to, by Model: what the ledger keeps apart."""

from collections.abc import Iterable
from dataclasses import dataclass

from corral.api.attempt import ModelUsage
from corral.plan.state import Consumption


@dataclass(frozen=True)
class Charge:
    """What an attempt used of one Model, with its price."""

    usage: ModelUsage
    used: Consumption
    source: str | None = None
    """Where the price is from; None where there is none."""


def total(charges: Iterable[Charge]) -> Consumption:
    """What an attempt used altogether."""
    used = Consumption()
    for charge in charges:
        used.add(charge.used)
    return used
