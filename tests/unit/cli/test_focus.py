"""The rules of FOCUS 1.2 that concern charges like these: what must be there, and in which form."""

import csv
import io
import json
import re
from decimal import Decimal

import pytest

from corral.cli import focus
from corral.cli.cost import _csv
from corral.handlers.ledger import _row
from tests.unit.ledger.entries import NOW, entry

TIME = r"\d{4}-\d\d-\d\dT\d\d:00:00Z"
AMOUNT = r"\d+(\.\d+)?"
SOME = r".*\S.*"
NONE = r""
RULES = {
    "BilledCost": AMOUNT,
    "BillingAccountId": SOME,
    "BillingAccountName": SOME,
    "BillingAccountType": SOME,
    "BillingCurrency": r"[A-Z]{3}",
    "BillingPeriodEnd": r"\d{4}-\d\d-01T00:00:00Z",
    "BillingPeriodStart": r"\d{4}-\d\d-01T00:00:00Z",
    "ChargeCategory": "Usage",
    "ChargeClass": NONE,
    "ChargeDescription": SOME,
    "ChargeFrequency": "Usage-Based",
    "ChargePeriodEnd": TIME,
    "ChargePeriodStart": TIME,
    "CommitmentDiscountId": NONE,
    "ConsumedQuantity": AMOUNT,
    "ConsumedUnit": SOME,
    "ContractedCost": AMOUNT,
    "ContractedUnitPrice": AMOUNT,
    "EffectiveCost": AMOUNT,
    "InvoiceIssuerName": SOME,
    "ListCost": AMOUNT,
    "ListUnitPrice": AMOUNT,
    "PricingCategory": "Standard",
    "PricingCurrency": r"[A-Z]{3}",
    "PricingQuantity": AMOUNT,
    "PricingUnit": SOME,
    "ProviderName": SOME,
    "PublisherName": SOME,
    "ResourceId": SOME,
    "ResourceType": SOME,
    "ServiceCategory": "AI and Machine Learning",
    "ServiceName": SOME,
    "ServiceSubcategory": "Generative AI",
    "SkuId": SOME,
    "SkuPriceId": SOME,
    "SubAccountId": SOME,
    "SubAccountType": SOME,
    "Tags": r"\{.*\}",
}
YEAR_END = 1_798_761_599.0
"""A second before 2027."""


def bill() -> list[dict[str, str]]:
    """As it is written into a file."""
    entries = [
        entry(),
        entry(agent=None, workflow=None, cost_usd=Decimal("1E-10"), simulated=True),
        entry(cost_usd=Decimal(0)),
        entry(recorded_at=YEAR_END),
    ]
    text = _csv(focus.COLUMNS, focus.lines([_row(one) for one in entries]))
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("column", RULES)
def test_a_column_is_what_it_must_be(column: str) -> None:
    for line in bill():
        assert re.fullmatch(RULES[column], line[column]), line[column]


def test_columns_of_our_own_are_told_by_their_names() -> None:
    assert len(set(focus.COLUMNS)) == len(focus.COLUMNS)
    for column in focus.COLUMNS:
        assert re.fullmatch(r"([A-Z][a-z]+)+|x_([A-Z][a-z]+)+", column), column


def test_periods_hold_the_charge_and_follow_each_other() -> None:
    for line in bill():
        assert line["BillingPeriodStart"] <= line["ChargePeriodStart"]
        assert line["ChargePeriodStart"] < line["ChargePeriodEnd"] <= line["BillingPeriodEnd"]
    last = bill()[-1]
    assert last["ChargePeriodEnd"] == last["BillingPeriodEnd"] == "2027-01-01T00:00:00Z"
    assert bill()[0]["ChargePeriodStart"] <= "2025-11-23T12:13:20Z" < bill()[0]["ChargePeriodEnd"]
    assert NOW == 1_763_900_000.25


def test_a_cost_is_its_price_times_its_quantity() -> None:
    for line in bill():
        for kind in ("List", "Contracted"):
            price, quantity = Decimal(line[f"{kind}UnitPrice"]), Decimal(line["PricingQuantity"])
            assert price * quantity == Decimal(line[f"{kind}Cost"]) == Decimal(line["BilledCost"])


def test_tags_are_an_object_of_texts() -> None:
    for line in bill():
        tags = json.loads(line["Tags"])
        assert all(isinstance(value, str) for value in tags.values())


def test_what_has_no_price_is_not_on_the_bill() -> None:
    assert focus.lines([_row(entry(cost_usd=None))]) == []
