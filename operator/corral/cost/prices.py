"""What a model call costs: the Model's own price, else the list that genai-prices ships.

A call without a price is unpriced, which is not the same as free.
"""

from decimal import Decimal

from corral.api.attempt import ModelUsage
from corral.api.model import ModelSpec

_MILLION = Decimal(1_000_000)


def price(spec: ModelSpec | None, usage: ModelUsage) -> Decimal | None:
    """US dollars for what was used of one model; None where no price is known.

    The Model's own price counts every input token alike, cached or not. The list is asked by the
    provider and the name that the worker reported, and never for a simulation: what is simulated
    costs nothing only if its Model says so.
    """
    tokens_in, tokens_out = int(usage.input_tokens), int(usage.output_tokens)
    if spec is not None and spec.price is not None:
        return (
            tokens_in * Decimal(spec.price.input_per_million_usd)
            + tokens_out * Decimal(spec.price.output_per_million_usd)
        ) / _MILLION
    if usage.simulated:
        return None
    return _listed(usage)


def source_of(spec: ModelSpec | None) -> str:
    """Where ``price`` has it from: ``Model``, or the list that is shipped."""
    return "Model" if spec is not None and spec.price is not None else "genai-prices"


def _listed(usage: ModelUsage) -> Decimal | None:
    # The list is large: a process that never needs it does not load it.
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(
            Usage(
                input_tokens=int(usage.input_tokens),
                output_tokens=int(usage.output_tokens),
                cache_read_tokens=int(usage.cached_input_tokens),
            ),
            usage.model,
            provider_id=usage.provider,
        )
    except LookupError:
        return None
    return found.total_price
