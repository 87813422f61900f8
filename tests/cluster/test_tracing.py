"""Traces: every span of a run arrives, in one tree, whoever is killed meanwhile."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from corral.api.trace import SpanRef, span_id
from corral.ledger.query import Filter
from corral.ledger.store import Store
from corral.plan.state import Step, from_journal
from corral.tracing import genai
from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, rows
from tests.cluster.lab import Lab, agent, each, searches, step, template, tool_server, workflow
from tests.faults.rig import HASTE, Rig, rigged, wait_until
from tests.unit.tracing.collector import Collector, Received, collector

STEPS = 1000 if HASTE == 1 else 32
KILLS = 8 if HASTE == 1 else 1
CALLER = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TOKENS = {"inputTokens": 71, "outputTokens": 13}
RULES: Json = {
    "latency": "20ms",
    "rules": [
        {
            "match": "^look",
            "toolCalls": [{"name": "search", "arguments": {"query": "heat pumps"}}],
            "reply": "found",
            **TOKENS,
        },
        {"match": "^flaky", "times": 1, "reply": "no number", **TOKENS},
        {"match": "^flaky", "reply": "1", "json": 1, **TOKENS},
        {"match": "^wide", "latency": "700ms", "reply": "ok", **TOKENS},
        {"reply": "ok", **TOKENS},
    ],
}
FLAKY: Json = {
    "outputSchema": {"type": "integer"},
    "retryStrategy": {"limit": 3, "backoff": {"duration": "100ms"}},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        tools = [{"name": "t", "mcp": {"url": "http://tool-server/mcp"}}]
        made.build(
            RULES,
            *tool_server(),
            *agent(replicas=3, concurrency=4),
            *agent("looker", more={"tools": tools}),
            template("below", step("inner"), step("last", "inner")),
        )
        yield made


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with rigged() as made:
        yield made


@pytest.fixture(scope="module")
def store(rig: Rig) -> Iterator[Collector]:
    with collector(Path(f"/proc/{rig.home.read()['pid']}/ns/net")) as made:
        yield made


def run(name: str) -> Json:
    """A bit of everything; its caller has a trace."""
    made = workflow(
        name,
        step("look", agent="looker"),
        step("flaky", **FLAKY),
        searches("one", "two"),
        {"name": "below", "dependsOn": ["look"], "workflow": {"templateRef": {"name": "below"}}},
        step("wide", input="wide $(item)", **each(*range(STEPS))),
    )
    made["metadata"]["annotations"] = {
        "corral.dev/traceparent": CALLER.traceparent,
        "corral.dev/correlation-id": "order-7",
    }
    return made


def test_a_run_is_one_trace_though_operator_and_workers_are_killed(
    lab: Lab, rig: Rig, store: Collector
) -> None:
    setting = {"OTEL_EXPORTER_OTLP_ENDPOINT": store.endpoint}
    rig.operator.stop()
    rig.start(**setting)
    run_id = lab.start(run("traced"))
    chance = random.Random(7)
    for kill in range(KILLS):
        _until_done(lab, (kill + 1) * STEPS // (KILLS + 2))
        if kill == 0:
            rig.operator.kill()
            rig.start(**setting)
        processes.kill(processes.of_pod(chance.choice(_working(lab))))
    parent = lab.cluster.finished("traced", timeout=400)
    child = lab.cluster.get("workflow", rows(parent)["below"]["child"])
    assert parent["status"]["traceID"] == child["status"]["traceID"] == CALLER.trace_id
    attempts = _attempts(parent) | _attempts(child)

    usage = parent["status"]["usage"]

    def complete() -> bool:
        told = {one.span_id: one for one in store.of(CALLER.trace_id)}
        wanted = {span_id(one) for one in [*attempts, *_run_ids(parent, child)]}
        return told.keys() >= wanted and _cost(told) == Decimal(usage["costUSD"])

    # Of an attempt that both were killed after, the next operator tells half a minute later.
    wait_until(complete, "every attempt and both runs are told of, and all that they cost")
    found = _one_of_each(store.of(CALLER.trace_id))

    of_attempts = {str(one.attributes["corral.attempt.id"]): one for one in found.values()
                   if "corral.attempt.id" in one.attributes}  # fmt: skip
    assert of_attempts.keys() == attempts
    _is_a_tree(found, run_id)
    _links_retries(of_attempts, found)
    _tells_of_tools(found)
    spent = _cost(found)
    booked = _booked(rig, *_run_ids(parent, child))
    assert (spent, usage["requests"]) == booked
    chats = {
        one.span_id
        for one in found.values()
        if one.name.startswith("chat ") and genai.UNTOLD_REQUESTS not in one.attributes
    }
    asked = {one["traceparent"] for one in lab.family_calls("traced")}
    assert {SpanRef.parse(one).trace_id for one in asked} == {CALLER.trace_id}  # type: ignore[union-attr]
    assert {f"00-{CALLER.trace_id}-{one}-01" for one in chats} <= asked
    lines = [json.loads(line) for line in rig.operator.log.read_text().splitlines() if "{" in line]
    ours = [line for line in lines if line.get("run_id") == run_id]
    assert ours
    assert {(one["trace_id"], one["correlation_id"]) for one in ours} == {
        (CALLER.trace_id, "order-7")
    }


def test_a_collector_that_is_away_holds_up_no_run_and_gets_all_of_it_later(
    lab: Lab, rig: Rig, store: Collector
) -> None:
    store.status = 503
    run_id = lab.start(workflow("patient", step("one"), step("two", "one")))
    done = lab.cluster.finished("patient")
    trace_id = run_id.replace("-", "")
    assert done["status"]["traceID"] == trace_id
    assert store.of(trace_id) == []
    rig.operator.stop()
    store.status = 200
    rig.start(OTEL_EXPORTER_OTLP_ENDPOINT=store.endpoint)
    wait_until(lambda: len(store.of(trace_id)) >= 7, "what waited is exported")
    found = _one_of_each(store.of(trace_id))
    assert Counter(one.name for one in found.values()) == {
        "invoke_workflow patient": 1,
        "step one": 1,
        "step two": 1,
        "invoke_agent worker": 2,
        "chat gpt-5-mini": 2,
    }
    assert _cost(found) == Decimal(done["status"]["usage"]["costUSD"])
    assert len(store.of(trace_id)) == len(found)


def _until_done(lab: Lab, count: int) -> None:
    def done() -> bool:
        wide = rows(lab.cluster.get("workflow", "traced")).get("wide") or {}
        return (wide.get("items") or {}).get("succeeded", 0) >= count

    wait_until(done, f"{count} items are done", timeout=240)


def _working(lab: Lab) -> list[Json]:
    return [pod for pod in lab.workers() if processes.of_pod(pod)]


def _attempts(obj: Json) -> set[str]:
    """The ids of all attempts that the run made, as its journal counts them."""
    state = from_journal(obj["status"]["journal"])

    def of_step(name: str, step: Step) -> set[str]:
        assert all(node.iteration == 1 and node.child is None for node in step.nodes)
        return {
            f"{state.run_id}.{name}.{item}.1.{number + 1}"
            for item, node in enumerate(step.nodes)
            for number in range(node.attempt)
        }

    steps = {name: step for name, step in state.steps.items() if name != "below"}
    return {one for name, step in steps.items() for one in of_step(name, step)}


def _run_ids(*runs: Json) -> list[str]:
    return [str(obj["metadata"]["uid"]) for obj in runs]


def _one_of_each(spans: list[Received]) -> dict[str, Received]:
    """By id. A batch may come twice whose sender was killed at once: then as it came before."""
    found: dict[str, Received] = {}
    for span in spans:
        assert found.setdefault(span.span_id, span) == span
    return found


def _is_a_tree(found: dict[str, Received], run_id: str) -> None:
    root = found[span_id(run_id)]
    assert (root.name, root.parent_id) == ("invoke_workflow traced", CALLER.span_id)
    orphans = [one for one in found.values() if one.parent_id not in found and one is not root]
    assert orphans == []
    (below,) = [one for one in found.values() if one.name == "invoke_workflow " + str(
        found[span_id(run_id, "below")].attributes["corral.step.child"])]  # fmt: skip
    assert below.parent_id == span_id(run_id, "below")


def _links_retries(attempts: dict[str, Received], found: dict[str, Received]) -> None:
    again = {name: one for name, one in attempts.items() if one.attributes["corral.attempt"] > 1}
    for name, one in again.items():
        before, number = name.rsplit(".", 1)
        assert one.links == ((CALLER.trace_id, span_id(f"{before}.{int(number) - 1}")),)
        assert one.links[0][1] in found
    assert any(".wide." in name for name in again)
    assert {"WorkerLost"} <= {one.attributes.get("error.type") for one in attempts.values()}


def _tells_of_tools(found: dict[str, Received]) -> None:
    tools = [one for one in found.values() if one.attributes.get("gen_ai.tool.type")]
    assert {one.name for one in tools} == {"execute_tool search"}
    assert len(tools) == 3
    above = Counter(found[one.parent_id].name for one in tools)
    assert above == {"invoke_agent looker": 1, "execute_tool search": 2}
    services = {one.resource["service.name"] for one in tools}
    assert services == {"corral-worker"}


def _cost(found: dict[str, Received]) -> Decimal:
    costs = (one.attributes.get("corral.cost.usd") for one in found.values())
    return sum((Decimal(repr(cost)) for cost in costs if cost is not None), Decimal(0))


def _booked(rig: Rig, *run_ids: str) -> tuple[Decimal, int]:
    async def read() -> tuple[Decimal, int]:
        ledger = Store(f"sqlite:///{rig.home.path}/ledger.db")
        try:
            sums = [await ledger.sums([], Filter(equal={"run_id": one})) for one in run_ids]
        finally:
            await ledger.close()
        totals = [found for (found,) in sums]
        return sum((one.cost_usd or Decimal(0) for one in totals), Decimal(0)), sum(
            one.requests for one in totals
        )

    return asyncio.run(read())
