"""What calls cost: the Model's price, else the list's, else unknown; and unknown is not zero."""

from decimal import Decimal

import pytest

from corral.api.attempt import ModelUsage
from corral.api.model import ModelSpec
from corral.cost.prices import price
from corral.plan.state import priced

PRICED = {"price": {"inputPerMillionUSD": "1", "outputPerMillionUSD": "10"}}
FREE = {"price": {"inputPerMillionUSD": "0", "outputPerMillionUSD": "0"}}


def usage(**fields: object) -> ModelUsage:
    known = {
        "modelRef": "m", "provider": "openai", "model": "gpt-4o-mini", "requests": "1",
        "inputTokens": "1000", "outputTokens": "100",
    }  # fmt: skip
    return ModelUsage.model_validate({**known, **fields})


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate({"provider": "openai", "name": "x", **fields})


@pytest.mark.parametrize(
    ("model", "used", "cost", "unpriced"),
    [
        pytest.param(spec(**PRICED), usage(), "0.002", 0, id="the Model's own price"),
        pytest.param(spec(**FREE), usage(), "0", 0, id="a price of zero is a price"),
        pytest.param(spec(**PRICED), usage(simulated=True), "0.002", 0, id="simulated, priced"),
        pytest.param(spec(), usage(simulated=True), None, 1, id="a simulation has no list price"),
        pytest.param(spec(), usage(), "0.00021", 0, id="the list's price"),
        pytest.param(spec(), usage(model="nobody-knows"), None, 1, id="a model nobody knows"),
        pytest.param(None, usage(model="nobody-knows"), None, 1, id="a Model that was deleted"),
        pytest.param(
            spec(**PRICED),
            usage(inputTokens="0", outputTokens="0", unanswered="1"),
            None,
            1,
            id="a call that was cut off has no known cost",
        ),
        pytest.param(
            spec(**PRICED),
            usage(inputTokens="0", outputTokens="0"),
            "0",
            0,
            id="a call that was refused costs nothing",
        ),
        pytest.param(
            spec(**PRICED),
            usage(requests="3", unanswered="1"),
            "0.002",
            1,
            id="what was answered is priced, what was not is counted",
        ),
    ],
)
def test_what_a_call_costs(
    model: ModelSpec | None, used: ModelUsage, cost: str | None, unpriced: int
) -> None:
    consumed = priced(used, price(model, used))
    assert consumed.cost == (None if cost is None else Decimal(cost))
    assert consumed.unpriced_requests == unpriced


def test_the_list_knows_what_cached_tokens_cost() -> None:
    full = price(spec(), usage())
    cached = price(spec(), usage(cachedInputTokens="1000"))
    assert full is not None
    assert cached is not None
    assert cached < full
