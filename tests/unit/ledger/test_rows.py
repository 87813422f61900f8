"""Entries from results."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.attempt import ModelUsage
from corral.api.errors import ErrorClass
from corral.ledger.rows import MAX_COUNT, Origin, entries_of
from corral.plan.observed import Result
from corral.plan.state import Charge, priced, total

RUN = Origin("team", "u1", "report", "template")


def charge(cost: str | None = "0.5", **usage: Any) -> Charge:
    known = {"modelRef": "fast", "provider": "openai", "model": "gpt", "requests": "1",
             "inputTokens": "7", "outputTokens": "3", "cachedInputTokens": "2"}  # fmt: skip
    of = ModelUsage.model_validate({**known, **usage})
    used = priced(of, None if cost is None else Decimal(cost))
    return Charge(of, used, None if cost is None else "Model")


def result(*charges: Charge, attempt: str = "u1.write.2.1.1", **more: Any) -> Result:
    return Result(attempt, "w", total(charges), charges=charges, **more)


def test_an_entry_for_every_model_that_was_asked_and_their_sum_is_what_status_says() -> None:
    ended = result(charge(), charge("0.25", modelRef="cheap"), charge(None, modelRef="free"))
    found = list(entries_of(ended, RUN, "writer", 12.0))
    assert [one.model_ref for one in found] == ["fast", "cheap", "free"]
    assert sum(one.cost_usd or 0 for one in found) == ended.used.cost
    assert sum(one.requests for one in found) == ended.used.requests == 3
    assert sum(one.unpriced_requests for one in found) == ended.used.unpriced_requests == 1


def test_an_entry_says_what_the_attempt_was_of() -> None:
    (found,) = entries_of(result(charge(simulated=True)), RUN, "writer", 12.0)
    assert (found.namespace, found.workflow, found.template) == ("team", "report", "template")
    assert (found.run_id, found.agent, found.step, found.item) == ("u1", "writer", "write", 2)
    assert (found.provider, found.model, found.simulated) == ("openai", "gpt", True)
    assert (found.input_tokens, found.output_tokens, found.cached_input_tokens) == (7, 3, 2)
    assert (found.price_source, found.recorded_at) == ("Model", 12.0)


@pytest.mark.parametrize(
    ("attempt", "step", "purpose"),
    [
        ("u.s.0.1.1", "s", "Step"),
        ("u.s.0.1.2", "s", "Again"),
        ("u.s.0.3.1", "s", "Iteration"),
        ("u.s.0.3.2", "s", "Again"),
        ("u.outer~4~1~inner.0.1.1", "outer.inner", "Step"),
    ],
)
def test_what_an_attempt_was_for_is_told_by_its_id(attempt: str, step: str, purpose: str) -> None:
    (found,) = entries_of(result(charge(), attempt=attempt), RUN, None, 0)
    assert (found.step, found.purpose) == (step, purpose)


def test_an_attempt_that_failed_is_billed_with_its_error() -> None:
    (found,) = entries_of(result(charge(), error=ErrorClass.INVALID_OUTPUT), RUN, None, 0)
    assert (found.outcome, found.cost_usd) == ("InvalidOutput", Decimal("0.5"))


def test_an_attempt_that_asked_nobody_has_no_entry() -> None:
    assert list(entries_of(result(error=ErrorClass.WORKER_LOST), RUN, None, 0)) == []


def test_what_a_worker_makes_up_does_not_break_the_books() -> None:
    strange = charge(model="a\0b\ud800" + "x" * 900, inputTokens="9" * 30)
    (found,) = entries_of(result(strange), RUN, None, 0)
    assert found.model.startswith("ab?x")
    assert len(found.model) == 512
    assert found.input_tokens == MAX_COUNT


def test_a_workflow_tells_whose_it_is() -> None:
    owner = {"apiVersion": "corral.dev/v1alpha1", "controller": True}
    workflow = {
        "metadata": {
            "namespace": "n",
            "uid": "u",
            "name": "w",
            "ownerReferences": [
                {**owner, "kind": "Workflow", "name": "p"},
                {"apiVersion": "v1", "kind": "CronWorkflow", "name": "other", "controller": True},
            ],
        },
        "spec": {"workflowTemplateRef": {"name": "t"}},
    }
    assert Origin.of(workflow) == Origin("n", "u", "w", "t", "p")
