"""The ledger's rows in the columns of FOCUS 1.2, the FinOps Foundation's form of bills.

A row is one attempt's use of one Model. A FOCUS row must have a cost: what is unpriced is left out,
and told of where it is exported. What a cloud would say and nobody knows here (invoices,
commitments, regions) is empty.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

_EMPTY = (
    "AvailabilityZone",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeClass",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "InvoiceId",
    "RegionId",
    "RegionName",
    "SkuPriceDetails",
)
_NAMES = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
)
_OWN = {
    "x_AttemptId": "attemptID",
    "x_RunId": "runID",
    "x_Step": "step",
    "x_Purpose": "purpose",
    "x_Outcome": "outcome",
    "x_ModelRef": "modelRef",
    "x_InputTokens": "inputTokens",
    "x_OutputTokens": "outputTokens",
    "x_CachedInputTokens": "cachedInputTokens",
    "x_Requests": "requests",
    "x_UnpricedRequests": "unpricedRequests",
    "x_PriceSource": "priceSource",
    "x_Simulated": "simulated",
}
COLUMNS = (*sorted((*_NAMES, *_EMPTY)), *_OWN)
_TAGS = ("workflow", "template", "cron", "parent", "agent")


def lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that have a cost."""
    return [_line(row) for row in rows if row["costUSD"] is not None]


def _line(row: dict[str, Any]) -> dict[str, Any]:
    at = datetime.fromisoformat(row["recordedAt"])
    hour = at.replace(minute=0, second=0, microsecond=0)
    month = hour.replace(day=1, hour=0)
    cost, provider = row["costUSD"], row["provider"]
    sku = f"{provider}/{row['model']}"
    agent = row["agent"] or "unknown"
    tags = {f"corral.dev/{name}": row[name] for name in _TAGS if row[name] is not None}
    tokens = row["inputTokens"] + row["outputTokens"]
    # Of what an attempt was priced by, its tokens' kinds, FOCUS knows no sum: the unit is itself.
    known: dict[str, Any] = dict.fromkeys(_EMPTY)
    known |= {name: row[key] for name, key in _OWN.items()}
    known |= dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost)
    known |= dict.fromkeys(("ListUnitPrice", "ContractedUnitPrice"), cost)
    known |= dict.fromkeys(
        ("PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost"), cost
    )
    known |= dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), provider)
    known |= {
        "PricingCurrencyListUnitPrice": cost,
        "BillingAccountId": provider,
        "BillingAccountName": provider,
        "BillingAccountType": "Model provider",
        "BillingCurrency": "USD",
        "PricingCurrency": "USD",
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time((month + timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{tokens} tokens of {sku} for agent {agent}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(hour),
        "ChargePeriodEnd": _time(hour + timedelta(hours=1)),
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "PricingCategory": "Standard",
        "PricingQuantity": 1,
        "PricingUnit": "Attempts",
        "ResourceId": f"{row['namespace']}/{agent}",
        "ResourceName": agent,
        "ResourceType": "Agent",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": sku,
        "SkuId": sku,
        "SkuMeter": "Tokens",
        "SkuPriceId": f"{sku}@{row['priceSource']}",
        "SubAccountId": row["namespace"],
        "SubAccountName": row["namespace"],
        "SubAccountType": "Namespace",
        "Tags": json.dumps(tags, ensure_ascii=False),
    }
    return known


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
