"""Budgets on a real cluster: where runs and Agents stop, and that all books agree to the cent."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition, phases, reason, rows, why
from tests.cluster.lab import Lab, agent, each, kill_operator, step, workflow

CALL = Decimal("0.002")
"""What a call costs: 1000 tokens in and 1000 out, for a dollar a million."""
RULES: Json = {
    "latency": "30ms",
    "rules": [
        {"match": "^slow", "latency": "700ms", "inputTokens": 1000, "outputTokens": 1000},
        {"match": "^long", "latency": "6s", "inputTokens": 1000, "outputTokens": 1000},
        {"match": "^dear", "inputTokens": 5000, "outputTokens": 1000},
        {"inputTokens": 1000, "outputTokens": 1000},
    ],
}
LIMITS: Json = {"limits": {"maxCostUSD": str(CALL)}}
BATCH = 500


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        free = {"provider": "simulated", "simulation": {"reply": "ok"}}
        cheap = {
            **free,
            "price": {"inputPerMillionUSD": "1", "outputPerMillionUSD": "1"},
        }
        made.make(*(model(name, spec) for name, spec in (("free", free), ("cheap", cheap))))
        once: Json = {"period": "Daily", "maxCostUSD": "0.02"}
        made.build(
            RULES,
            *agent("worker", more=LIMITS, concurrency=40),
            *agent("batcher", more=LIMITS, concurrency=40),
            *agent("free", model="free"),
            *agent("shared", more={**LIMITS, "budget": once}),
            *agent("holding", more={**LIMITS, "budget": once | {"maxCostUSD": "0.01"}}),
            *agent("failing", more={**LIMITS, "budget": once | {"onExceeded": "Fail"}}),
            *agent(
                "falling",
                more={
                    **LIMITS,
                    "budget": once | {"onExceeded": "Fallback"},
                    "fallbackModels": [{"modelRef": {"name": "cheap"}}],
                },
            ),
        )
        yield made


def model(name: str, spec: Json) -> Json:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": spec,
    }


def batch(count: int, who: str = "worker", text: str = "item", **more: Any) -> Json:
    return step("batch", agent=who, input=f"{text} $(item)", **each(*range(count), **more))


def money(text: str | None) -> Decimal:
    return Decimal(text or 0)


def books_agree(lab: Lab, found: Json) -> int:
    """Usage, rows, budget and the model server's journal say the same; how many calls it was."""
    calls = lab.calls(found["metadata"]["uid"])
    status = found["status"]
    assert len({call["attemptID"] for call in calls}) == len(calls)
    cost = sum((Decimal(c["inputTokens"] + c["outputTokens"]) for c in calls), Decimal(0)) / 10**6
    assert money(status["usage"]["costUSD"]) == cost
    assert status["usage"]["requests"] == len(calls)
    assert sum(money(row.get("costUSD")) for row in status["steps"]) == cost
    assert money(status["budget"]["spentCostUSD"]) == cost
    assert money(status["budget"]["reservedCostUSD"]) == 0
    return len(calls)


def test_a_batch_stops_at_its_budget_as_it_says_and_all_books_agree(lab: Lab) -> None:
    after = step("after", "batch", agent="batcher", input="item after")
    ends = ("Conclude", "Fail", "Suspend")
    lab.make(
        *(
            workflow(
                f"batch-{end.lower()}",
                batch(BATCH, "batcher", maxConcurrent=30),
                after,
                budget={"maxCostUSD": "0.5", "onExceeded": end, "warnAt": [50, 80]},
                output="$(size(steps.batch.outputs))",
                onExit=[{"name": "bye", "transform": "$(workflow.phase) $(workflow.costUSD)"}],
            )
            for end in ends
        )
    )
    waiting = lab.cluster.wait(
        "workflow",
        "batch-suspend",
        lambda w: w["status"].get("phase") == "Suspended",
        "suspended by its budget",
        120,
    )
    assert reason(waiting, "Suspended") == "BudgetExceeded"
    assert "raise it" in why(waiting, "Suspended")
    assert books_agree(lab, waiting) == 250, "each call was reserved for exactly"
    lab.cluster.patch("workflow", "batch-suspend", {"spec": {"budget": {"maxCostUSD": "0.6"}}})
    lab.cluster.wait(
        "workflow",
        "batch-suspend",
        lambda w: (
            w["status"].get("phase") == "Suspended" and w["status"]["usage"]["requests"] == 300
        ),
        "suspended at the higher budget",
        120,
    )
    lab.cluster.patch("workflow", "batch-suspend", {"spec": {"budget": {"maxCostUSD": "5"}}})
    found = lab.cluster.all_finished(*(f"batch-{end.lower()}" for end in ends), timeout=180)
    concluded, failed, raised = (found[f"batch-{end.lower()}"] for end in ends)

    assert concluded["status"]["phase"] == "Succeeded"
    assert reason(concluded, "Finished") == reason(concluded, "Degraded") == "BudgetExceeded"
    assert concluded["status"]["output"] == 250
    items = rows(concluded)["batch"]["items"]
    assert (items["succeeded"], items["omitted"], items["failed"]) == (250, 250, 0)
    assert phases(concluded)["after"] == "Omitted"
    assert rows(concluded)["bye"]["output"] == "Succeeded 0.5"

    assert failed["status"]["phase"] == "Failed"
    assert reason(failed, "Finished") == reason(failed, "Succeeded") == "BudgetExceeded"
    assert condition(failed, "Stalled") == "True"
    assert "the budget of 0.5 USD is spent" in failed["status"]["message"]
    assert phases(failed)["after"] == "Omitted"
    assert rows(failed)["bye"]["output"] == "Failed 0.5"

    assert raised["status"]["phase"] == "Succeeded"
    assert raised["status"]["output"] == BATCH
    assert condition(raised, "Suspended") == "False"
    counts = [books_agree(lab, one) for one in (concluded, failed, raised)]
    assert counts == [250, 250, BATCH + 1]
    for name in ("batch-conclude", "batch-suspend"):
        told = lab.cluster.list("events", f"--field-selector=involvedObject.name={name}")
        said = [one["message"] for one in told if one["reason"] == "BudgetWarning"]
        for percent in ("50%", "80%"):
            assert any(text.startswith(f"{percent} of the budget") for text in said), said
    used = lab.cluster.wait(
        "agent",
        "batcher",
        lambda a: a["status"].get("usage", {}).get("requests") == sum(counts),
        "charged for all that was called",
    )["status"]["usage"]
    assert money(used["costUSD"]) == sum(counts) * CALL


def test_calls_that_cost_more_than_reserved_pass_the_budget_by_less_than_one_call_each(
    lab: Lab,
) -> None:
    run = workflow(
        "dearer",
        batch(40, text="dear", maxConcurrent=4),
        budget={"maxCostUSD": "0.06", "onExceeded": "Conclude"},
    )
    lab.make(run)
    found = lab.cluster.finished("dearer")
    calls = books_agree(lab, found)
    spent, dear = money(found["status"]["usage"]["costUSD"]), Decimal("0.006")
    assert spent == calls * dear
    assert Decimal("0.06") - dear < spent < Decimal("0.06") + 4 * dear


def test_budgets_of_tokens_of_unpriced_models_and_of_nothing_to_reserve(lab: Lab) -> None:
    two = step("two", "one", agent="free")
    tokens = {"maxTokens": 200, "onExceeded": "Conclude"}
    lab.make(
        workflow("by-tokens", batch(9, "free", maxConcurrent=1), budget=tokens),
        workflow("unpriced", step("one", agent="free"), two, budget={"maxCostUSD": "0.000001"}),
        workflow(
            "unpriced-refused",
            step("one", agent="free"),
            two,
            budget={"maxCostUSD": "1", "onUnpriced": "Fail"},
        ),
        workflow(
            "too-little",
            step("one"),
            budget={"maxCostUSD": "0.001", "onExceeded": "Fail"},
        ),
    )
    found = lab.cluster.all_finished("by-tokens", "unpriced", "unpriced-refused", "too-little")
    assert reason(found["by-tokens"], "Finished") == "BudgetExceeded"
    assert found["by-tokens"]["status"]["budget"]["spentTokens"] == 140
    assert rows(found["by-tokens"])["batch"]["items"]["succeeded"] == 2
    assert found["unpriced"]["status"]["phase"] == "Succeeded"
    assert found["unpriced"]["status"]["usage"]["unpricedRequests"] == 2
    assert "costUSD" not in rows(found["unpriced"])["one"]
    refused = found["unpriced-refused"]
    assert refused["status"]["phase"] == "Failed"
    assert rows(refused)["one"]["reason"] == "Budget"
    assert "usage" not in refused["status"]
    assert reason(found["too-little"], "Finished") == "BudgetExceeded"
    assert lab.calls(found["too-little"]["metadata"]["uid"]) == []


@pytest.mark.alone
def test_two_runs_share_what_an_agent_may_spend_in_a_period(lab: Lab) -> None:
    names = ("rival-a", "rival-b")
    lab.make(*(workflow(name, batch(12, "shared")) for name in names))

    def both() -> list[Json]:
        return [lab.cluster.get("workflow", name) for name in names]

    end = time.monotonic() + 40
    while sum(one.get("status", {}).get("usage", {}).get("requests", 0) for one in both()) < 10:
        assert time.monotonic() < end, "the budget is not used up"
        time.sleep(0.2)
    for name in names:
        lab.cluster.wait(
            "workflow",
            name,
            lambda w: reason(w, "Reconciling") == "BudgetExceeded",
            "waiting for the Agent's next period",
        )
    assert sum(len(lab.calls(one["metadata"]["uid"])) for one in both()) == 10
    spent = lab.cluster.wait(
        "agent",
        "shared",
        lambda a: condition(a, "BudgetAvailable") == "False",
        "out of its budget",
        45,
    )
    assert money(spent["status"]["budget"]["spentCostUSD"]) == Decimal("0.02")
    # What is spent is known after a restart, too: nothing starts because of one.
    kill_operator()
    time.sleep(2)
    assert sum(len(lab.calls(one["metadata"]["uid"])) for one in both()) == 10
    lab.cluster.patch("agent", "shared", {"spec": {"budget": {"maxCostUSD": "1"}}})
    found = lab.cluster.all_finished(*names)
    for one in found.values():
        assert one["status"]["phase"] == "Succeeded"
        lab.called_once_each(one["metadata"]["uid"], {f"item {n}" for n in range(12)})


@pytest.mark.alone
def test_what_runs_hold_of_an_agents_budget_is_known_to_the_next_operator(lab: Lab) -> None:
    names = ("hold-a", "hold-b")
    runs = lab.make(
        *(workflow(name, batch(9, "holding", text="long", maxConcurrent=4)) for name in names)
    )
    end = time.monotonic() + 20
    while sum(len(lab.calls(uid)) for uid in runs.values()) < 5:
        assert time.monotonic() < end, "the Agent does not get on"
        time.sleep(0.05)
    kill_operator()
    for name in names:
        lab.cluster.wait(
            "workflow",
            name,
            lambda w: (
                reason(w, "Reconciling") == "BudgetExceeded"
                and rows(w)["batch"]["items"]["running"] == 0
            ),
            "out of its Agent's budget",
        )
    assert sum(len(lab.calls(uid)) for uid in runs.values()) == 5
    found = [lab.cluster.get("workflow", name)["status"].get("usage", {}) for name in names]
    assert sum(money(used.get("costUSD")) for used in found) == 5 * CALL
    lab.cluster.kubectl("delete", "workflow", *names)


def test_an_agent_without_a_budget_left_fails_or_falls_back_if_it_says_so(lab: Lab) -> None:
    lab.make(
        workflow("failing", batch(15, "failing", tolerateFailures="100%")),
        workflow("falling", batch(15, "falling")),
    )
    found = lab.cluster.all_finished("failing", "falling")
    items = rows(found["failing"])["batch"]["items"]
    assert (items["succeeded"], items["failed"]) == (10, 5)
    shown = {one["reason"] for one in found["failing"]["status"]["attention"]}
    assert shown == {"Budget"}
    assert rows(found["falling"])["batch"]["items"]["succeeded"] == 15
    asked = lab.calls(found["falling"]["metadata"]["uid"])
    assert len(asked) == 10
    assert found["falling"]["status"]["usage"]["requests"] == 15
    assert found["falling"]["status"]["usage"]["simulatedRequests"] >= 5


@pytest.mark.alone
def test_a_killed_operator_spends_no_budget_twice(lab: Lab) -> None:
    run = lab.start(
        workflow(
            "killed",
            batch(60, text="slow", maxConcurrent=10),
            budget={"maxCostUSD": "0.08", "onExceeded": "Conclude"},
        )
    )
    for count in (8, 20, 33):
        lab.until_called(run, count)
        kill_operator()
    found = lab.cluster.finished("killed")
    assert found["status"]["phase"] == "Succeeded"
    assert books_agree(lab, found) == 40
    assert rows(found)["batch"]["items"]["succeeded"] == 40
    texts = [call["lastUser"] for call in lab.calls(run)]
    assert len(set(texts)) == len(texts)


def test_a_budget_is_changed_only_to_what_is_one(lab: Lab) -> None:
    lab.make(workflow("sound", step("one"), suspend=True, budget={"maxCostUSD": "1"}))
    for wrong in ({"maxCostUSD": "0"}, {"maxCostUSD": "-1"}, {"maxCostUSD": None}):
        change = json.dumps({"spec": {"budget": wrong}})
        words = ("patch", "workflow", "sound", "--type=merge", f"--patch={change}")
        assert lab.cluster.kubectl(*words, check=False).returncode != 0, wrong
