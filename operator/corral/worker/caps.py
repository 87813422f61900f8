"""What one attempt may use: looked at before each model call, so at most one goes beyond."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.cost.prices import price
from corral.worker.outcome import AttemptFailedError, UsageMeter


@dataclass(frozen=True)
class Caps:
    """Caps of one attempt; None is without a cap.

    What has no price counts as nothing: a cap on the cost can't stop what nobody can price.
    """

    cost_usd: Decimal | None = None
    tokens: int | None = None
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    """By name; they know their prices."""

    def check(self, meter: UsageMeter) -> None:
        """Lets one more model call begin.

        Raises:
            AttemptFailedError: Budget, if the attempt has used as much as it may.
        """
        if self.cost_usd is None and self.tokens is None:
            return
        usage = meter.usage()
        if self.tokens is not None:
            tokens = sum(int(used.input_tokens) + int(used.output_tokens) for used in usage)
            if tokens >= self.tokens:
                raise AttemptFailedError(
                    ErrorClass.BUDGET,
                    f"The attempt has used {tokens} tokens and may use {self.tokens}.",
                )
        if self.cost_usd is not None:
            costs = (price(self.models.get(used.model_ref), used) for used in usage)
            cost = sum((cost for cost in costs if cost is not None), Decimal(0))
            if cost >= self.cost_usd:
                raise AttemptFailedError(
                    ErrorClass.BUDGET,
                    f"The attempt has cost {_text(cost)} USD and may cost {_text(self.cost_usd)}.",
                )


def _text(money: Decimal) -> str:
    return f"{money.normalize():f}"
