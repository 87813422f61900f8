"""What is explored: objects that people apply, and what they do while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.kube.client import (
    AGENTS,
    APPROVALS,
    CRONS,
    MODELS,
    POOLS,
    TEMPLATES,
    WORKFLOWS,
    Json,
    Kind,
)
from tests.explore.api_server import ApiServer

NAMESPACE = "team"
KINDS: dict[str, Kind] = {
    "Model": MODELS,
    "Agent": AGENTS,
    "AgentPool": POOLS,
    "WorkflowTemplate": TEMPLATES,
    "CronWorkflow": CRONS,
    "Workflow": WORKFLOWS,
}
TOKENS = (50, 20)
"""That every call of a model counts as sent and received."""
PRICES = ("10", "30")
"""US dollars per million of them."""


async def _nothing(server: ApiServer) -> None: ...


@dataclass(frozen=True)
class Scenario:
    """One thing to explore."""

    name: str
    objects: Sequence[Json]
    person: Callable[[ApiServer], Awaitable[None]] = _nothing
    """What somebody does meanwhile."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How many calls of the model fail, by ``step.item``."""


def _object(kind: str, name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def _model(latency: str = "400ms") -> Json:
    sent, received = TOKENS
    return _object(
        "Model",
        "model",
        provider="simulated",
        price={"inputPerMillionUSD": PRICES[0], "outputPerMillionUSD": PRICES[1]},
        simulation={
            "latency": latency,
            "reply": "done",
            "inputTokens": sent,
            "outputTokens": received,
        },
    )


def _agent(name: str = "worker", **spec: Any) -> Json:
    return _object("Agent", name, modelRef={"name": "model"}, **spec)


def _pool(name: str = "worker", **spec: Any) -> Json:
    how = {} if "autoscaling" in spec else {"replicas": 1}
    return _object(
        "AgentPool", name, agentRef={"name": name}, drainTimeout="20s", **{**how, **spec}
    )


def _step(name: str, *after: str, **spec: Any) -> Json:
    made: Json = {"name": name, **spec}
    if not {"approval", "wait", "workflow", "steps", "transform", "agentRef"} & spec.keys():
        made |= {"agentRef": {"name": "worker"}, "input": spec.get("input", f"do {name}")}
    return made | ({"dependsOn": list(after)} if after else {})


def _workflow(name: str, *steps: Json, **spec: Any) -> Json:
    return _object("Workflow", name, steps=list(steps), **spec)


def _chain(length: int) -> list[Json]:
    steps = [_step("s1")]
    for number in range(2, length + 1):
        before = f"s{number - 1}"
        text = f"after $(steps.{before}.output)"
        steps.append(_step(f"s{number}", before, input=text))
    return steps


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.25)


SCENARIOS = {
    one.name: one
    for one in (
        Scenario(
            "chain",
            [
                _model(),
                _agent(),
                _pool(),
                _workflow("chain", *_chain(5), output="$(steps.s5.output)"),
            ],
        ),
    )
}
