"""Agents that are found by what they can do."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Cluster, Json, manifest, reason, rows, simulated, why
from tests.cluster.lab import Lab, each, workflow


def able(name: str, model: str, *capabilities: str, concurrency: int = 4) -> str:
    """An Agent with capabilities, and its pool."""
    spec = f"{{modelRef: {{name: {model}}}, capabilities: [{', '.join(capabilities)}]}}"
    return manifest("Agent", name, spec) + manifest(
        "AgentPool", name, f"{{agentRef: {{name: {name}}}, concurrency: {concurrency}}}"
    )


def price(usd: str) -> str:
    return f'{{inputPerMillionUSD: "{usd}", outputPerMillionUSD: "{usd}"}}'


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        cluster.apply(
            simulated("dear", "latency: 300ms\nreply: dear", price("3"))
            + simulated("cheap", "latency: 300ms\nreply: cheap", price("1"))
            + simulated("unknown", "latency: 300ms\nreply: unknown")
            + able("anton", "dear", "research", "summarise")
            + able("berta", "cheap", "research", concurrency=8)
            + able("caesar", "unknown", "research", "translate")
        )
        cluster.kubectl("wait", "--for=condition=Ready", "agentpool", "--all", "--timeout=90s")
        yield Lab(cluster)


def chosen(name: str, *capabilities: str, strategy: str = "First", **more: Any) -> Json:
    selector = {"matchCapabilities": list(capabilities), "strategy": strategy}
    return {"name": name, "agentSelector": selector, "input": "go", **more}


def test_who_does_a_step_is_chosen_as_it_says_and_recorded(lab: Lab) -> None:
    lab.make(
        workflow(
            "choices",
            chosen("first", "research"),
            chosen("both", "translate", "research"),
            chosen("cheapest", "research", strategy="Cheapest", dependsOn=["first", "both"]),
            output="$([steps.first.output, steps.both.output, steps.cheapest.output])",
        )
    )
    choices = lab.cluster.finished("choices")
    assert choices["status"]["output"] == ["dear", "unknown", "cheap"]
    agents = {name: row["agent"] for name, row in rows(choices).items()}
    assert agents == {"first": "anton", "both": "caesar", "cheapest": "berta"}
    lab.make(
        workflow(
            "spread",
            chosen("many", "research", strategy="LeastLoaded", **each(*range(16))),
            output="$(steps.many.outputs)",
        ),
    )
    spread = lab.cluster.finished("spread")
    # By the slots that they have: 4, 8 and 4.
    assert Counter(spread["status"]["output"]) == {"dear": 4, "cheap": 8, "unknown": 4}
    assert rows(spread)["many"]["agent"] == "berta and 2 more"


def test_nobody_who_can_is_named_waited_for_and_found(lab: Lab) -> None:
    cluster: Cluster = lab.cluster
    lab.make(workflow("lonely", chosen("one", "juggle", "research")))
    found = cluster.wait(
        "workflow", "lonely", lambda w: reason(w, "Reconciling") == "AgentNotFound", "told", 10
    )
    assert "no Agent has the capabilities juggle, research" in why(found, "Reconciling")
    assert "startedAt" not in found["status"]
    cluster.apply(able("dora", "cheap", "research", "juggle", "sing"))
    found = cluster.finished("lonely")
    assert found["status"]["phase"] == "Succeeded"
    assert rows(found)["one"]["agent"] == "dora"
