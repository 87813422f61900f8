"""The ledger's entries, from results: what one attempt used of one Model.

An attempt that asked no model has no entry. What has no known price has no cost, which is not the
same as none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from corral.plan.names import API_VERSION
from corral.plan.observed import Result
from corral.telemetry.text import cleaned

MAX_COUNT = 10**12
"""Of one attempt: a worker that has gone wrong may tell of more than a database can add up."""


class Purpose(StrEnum):
    """What an attempt was for."""

    STEP = "Step"
    AGAIN = "Again"
    """The same item once more: after an error, a lost worker, or a person's decision."""
    ITERATION = "Iteration"
    """The first attempt of another iteration of a loop."""


@dataclass(frozen=True)
class Origin:
    """The run that attempts are of; None for what nobody knows any more."""

    namespace: str
    run_id: str
    workflow: str | None = None
    template: str | None = None
    parent: str | None = None
    """The Workflow whose step this one is."""
    cron: str | None = None

    @classmethod
    def of(cls, workflow: Mapping[str, Any]) -> "Origin":
        """As a Workflow tells."""
        metadata = workflow["metadata"]
        owners = {
            owner["kind"]: owner["name"]
            for owner in metadata.get("ownerReferences") or []
            if owner.get("controller") and owner.get("apiVersion") == API_VERSION
        }
        template = (workflow.get("spec") or {}).get("workflowTemplateRef") or {}
        return cls(
            metadata["namespace"],
            metadata["uid"],
            metadata["name"],
            template.get("name"),
            owners.get("Workflow"),
            owners.get("CronWorkflow"),
        )


@dataclass(frozen=True)
class Entry:
    """One row: its key is attempt, Model, and whether the answers were simulated."""

    attempt_id: str
    model_ref: str
    simulated: bool
    recorded_at: float
    """When the attempt's end was known; seconds since the epoch."""
    namespace: str
    run_id: str
    workflow: str | None
    template: str | None
    parent: str | None
    cron: str | None
    agent: str | None
    step: str
    item: int
    iteration: int
    attempt: int
    purpose: str
    outcome: str
    """Succeeded, or the class of the error."""
    provider: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cost_usd: Decimal | None
    price_source: str | None
    unpriced_requests: int


def entries_of(
    result: Result, origin: Origin, agent: str | None, recorded_at: float
) -> Iterator[Entry]:
    """What an attempt used, by Model."""
    _, path, item, iteration, attempt = result.attempt_id.rsplit(".", 4)
    purpose = Purpose.AGAIN if int(attempt) > 1 else Purpose.STEP
    if int(attempt) == 1 and int(iteration) > 1:
        purpose = Purpose.ITERATION
    for charge in result.charges:
        usage, used = charge.usage, charge.used
        yield Entry(
            attempt_id=result.attempt_id,
            model_ref=cleaned(usage.model_ref),
            simulated=usage.simulated,
            recorded_at=recorded_at,
            namespace=origin.namespace,
            run_id=origin.run_id,
            workflow=origin.workflow,
            template=origin.template,
            parent=origin.parent,
            cron=origin.cron,
            agent=agent,
            step=".".join(path.split("~")[::3]),
            item=int(item),
            iteration=int(iteration),
            attempt=int(attempt),
            purpose=purpose.value,
            outcome=result.error.value if result.error else "Succeeded",
            provider=cleaned(usage.provider),
            model=cleaned(usage.model),
            requests=_count(used.requests),
            input_tokens=_count(used.input_tokens),
            output_tokens=_count(used.output_tokens),
            cached_input_tokens=_count(int(usage.cached_input_tokens)),
            cost_usd=used.cost,
            price_source=charge.source,
            unpriced_requests=_count(used.unpriced_requests),
        )


def _count(number: int) -> int:
    return max(0, min(number, MAX_COUNT))
