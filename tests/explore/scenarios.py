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


_TAKEN_OVER = 45
"""Seconds: two operators in a row can be replaced in that time, and no Model times out."""


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
    operator_killed: bool = True
    """Whether the operator is killed too. What Agents used in the ten seconds before is forgotten
    then, and a run that an Agent's budget would have ended goes further."""


def _object(kind: str, name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def _model(
    latency: str = "400ms", reply: str = "done", name: str = "model", failing: int = 0
) -> Json:
    sent, received = TOKENS
    return _object(
        "Model",
        name,
        provider="simulated",
        price={"inputPerMillionUSD": PRICES[0], "outputPerMillionUSD": PRICES[1]},
        simulation={
            "latency": latency,
            "reply": reply,
            "inputTokens": sent,
            "outputTokens": received,
            "failurePercent": failing,
        },
    )


def _agent(name: str = "worker", model: str = "model", **spec: Any) -> Json:
    return _object("Agent", name, modelRef={"name": model}, **spec)


def _pool(name: str = "worker", **spec: Any) -> Json:
    how = {} if "autoscaling" in spec else {"replicas": 1}
    return _object(
        "AgentPool", name, **{"agentRef": {"name": name}, "drainTimeout": "20s", **how, **spec}
    )


_KINDS = {"approval", "wait", "workflow", "steps", "transform"}


def _step(name: str, *after: str, **spec: Any) -> Json:
    made: Json = {"name": name, **spec}
    if not _KINDS & spec.keys():
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


def _status(server: ApiServer, name: str) -> Json:
    found = server.get(WORKFLOWS, NAMESPACE, name)
    return (found or {}).get("status") or {}


def _phases(server: ApiServer, name: str) -> dict[str, str]:
    return {row["name"]: row["phase"] for row in _status(server, name).get("steps") or []}


def _change(server: ApiServer, kind: Kind, name: str, **spec: Any) -> None:
    server.change(kind, NAMESPACE, name, {"spec": spec})


async def _approve_all(server: ApiServer) -> None:
    """Decides what is asked, a little later, until the run has ended."""
    while not _status(server, "release").get("finishedAt"):
        await asyncio.sleep(2)
        for obj in server.all("approvalrequests"):
            if "decision" not in obj["spec"]:
                verdict = "Reject" if "really" in obj["spec"]["prompt"] else "Approve"
                decision = {"verdict": verdict, "by": "ann", "comment": "seen"}
                _change(server, APPROVALS, obj["metadata"]["name"], decision=decision)


async def _raise_budget(server: ApiServer) -> None:
    await _until(lambda: _status(server, "batch").get("phase") == "Suspended")
    await asyncio.sleep(2)
    _change(server, WORKFLOWS, "batch", budget={"maxCostUSD": "0.0066", "onExceeded": "Conclude"})


async def _roll_out(server: ApiServer) -> None:
    await _until(lambda: _phases(server, "long").get("first") == "Running")
    await asyncio.sleep(2)
    _change(server, AGENTS, "worker", instructions="Be brief.")


async def _stop(server: ApiServer) -> None:
    await _until(lambda: _phases(server, "long").get("first") == "Running")
    await asyncio.sleep(_TAKEN_OVER)
    _change(server, WORKFLOWS, "long", shutdown="Stop")


async def _delete(server: ApiServer) -> None:
    await _until(lambda: _phases(server, "long").get("first") == "Running")
    await asyncio.sleep(_TAKEN_OVER)
    server.call("DELETE", WORKFLOWS.path(NAMESPACE, "long"))


async def _retry(server: ApiServer) -> None:
    await _until(lambda: bool(_status(server, "fragile").get("finishedAt")))
    old = {pod["metadata"]["uid"] for pod in server.all("pods")}
    _change(server, MODELS, "broken", simulation={"failurePercent": 0})

    def rolled_out() -> bool:
        pool = server.get(POOLS, NAMESPACE, "second") or {}
        pods = [pod for pod in server.all("pods") if "second-" in pod["metadata"]["name"]]
        ready = (pool.get("status") or {}).get("readyReplicas") == 1
        return ready and len(pods) == 1 and pods[0]["metadata"]["uid"] not in old

    await _until(rolled_out)
    spec = _FRAGILE["spec"] | {"retryOf": {"name": "fragile"}}
    server.apply(WORKFLOWS, _object("Workflow", "again", **spec))
    await _until(lambda: bool(_status(server, "again").get("finishedAt")))


async def _suspend_cron(server: ApiServer) -> None:
    def ended() -> bool:
        runs = server.all("workflows")
        return sum("finishedAt" in (run.get("status") or {}) for run in runs) >= 2

    await _until(ended)
    await asyncio.sleep(5)
    _change(server, CRONS, "nightly", suspend=True)


async def _until_no_worker(server: ApiServer) -> None:
    await _until(lambda: bool(_status(server, "chain").get("finishedAt")))
    await _until(lambda: not server.all("pods"))


async def _until_deleted(server: ApiServer) -> None:
    await _until(lambda: bool(_status(server, "short").get("finishedAt")))
    await _until(lambda: server.get(WORKFLOWS, NAMESPACE, "short") is None)


def _each(*items: Any, **more: Any) -> Json:
    return {"items": list(items), **more}


_FAIL: Json = {"onExceeded": "Fail"}
_RETRIES: Json = {"retryStrategy": {"limit": 2, "backoff": {"duration": "1s"}}}
_BOUNDED: Json = {"limits": {"maxCostUSD": "0.0011"}}
"""An attempt reserves what it costs, so who gets how far is no matter of time."""
_LONG = _workflow(
    "long", _step("first"), _step("second", "first"), onExit=[{"name": "bye", "transform": "bye"}]
)
_FRAGILE = _workflow(
    "fragile",
    _step("a"),
    {"name": "b", "dependsOn": ["a"], "agentRef": {"name": "second"}, "input": "b"},
    _step("c", "b"),
)
_REVIEW: Json = {"prompt": "Is it good?", "approvers": [{"kind": "User", "name": "ann"}]}

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
        Scenario(
            "fan-out",
            [
                _model(reply="x" * 3000),
                _agent(),
                _pool(replicas=2, concurrency=3),
                _workflow(
                    "fan",
                    _step(
                        "work",
                        input="do $(item)",
                        forEach=_each(*range(12), maxConcurrent=5, tolerateFailures=1),
                        **_RETRIES,
                    ),
                    _step("sum", "work", transform="$(size(steps.work.outputs))"),
                ),
            ],
            failures={"work.2": 1, "work.5": 2, "work.7": 99},
        ),
        Scenario(
            "approval",
            [
                _model(),
                _agent(),
                _pool(),
                _workflow(
                    "release",
                    _step("draft"),
                    _step("review", "draft", approval=_REVIEW),
                    _step("publish", "review"),
                    _step(
                        "sure",
                        "publish",
                        approval={**_REVIEW, "prompt": "really?", "onReject": "Skip"},
                    ),
                    _step("tell", "sure"),
                ),
            ],
            person=_approve_all,
        ),
        Scenario(
            "budget",
            [
                _model(),
                _agent(**_BOUNDED),
                _pool(concurrency=2),
                _workflow(
                    "batch",
                    _step("work", input="do $(item)", forEach=_each(*range(10))),
                    budget={"maxCostUSD": "0.0033", "onExceeded": "Suspend"},
                    onExit=[{"name": "bye", "transform": "$(workflow.costUSD)"}],
                ),
            ],
            person=_raise_budget,
        ),
        Scenario(
            "agent-budget",
            [
                _model(),
                _agent(**_BOUNDED, budget={"period": "Daily", "maxCostUSD": "0.0044", **_FAIL}),
                _pool(concurrency=2),
                _workflow(
                    "batch",
                    _step("work", input="do $(item)", forEach=_each(*range(6), tolerateFailures=6)),
                ),
            ],
            operator_killed=False,
        ),
        Scenario(
            "autoscale",
            [
                _model("2s"),
                _agent(),
                _pool(
                    concurrency=2,
                    autoscaling={
                        "maxReplicas": 3,
                        "scaleDownStabilization": "10s",
                    },
                ),
                _workflow("fan", _step("work", input="do $(item)", forEach=_each(*range(6)))),
            ],
        ),
        Scenario(
            "default-pool",
            [_model(), _agent(), _workflow("chain", *_chain(2))],
            person=_until_no_worker,
        ),
        Scenario(
            "roll-out",
            [_model("40s"), _agent(), _pool(drainTimeout="2m"), _LONG],
            person=_roll_out,
        ),
        Scenario("stop", [_model("150s"), _agent(), _pool(), _LONG], person=_stop),
        Scenario("delete", [_model("150s"), _agent(), _pool(), _LONG], person=_delete),
        Scenario(
            "child",
            [
                _model(),
                _agent(),
                _pool(),
                _object("WorkflowTemplate", "pair", steps=_chain(2), output="$(steps.s2.output)"),
                _workflow(
                    "parent",
                    _step("before"),
                    _step("call", "before", workflow={"templateRef": {"name": "pair"}}),
                    _step("after", "call", input="with $(steps.call.output)"),
                    budget={"maxCostUSD": "0.5"},
                ),
            ],
        ),
        Scenario(
            "loops",
            [
                _model(),
                _agent(),
                _pool(),
                _workflow(
                    "loops",
                    _step("again", loop={"until": "iteration == 3", "maxIterations": 5}),
                    _step(
                        "nested",
                        forEach=_each("a", "b"),
                        steps=[_step("one", input="$(item)"), _step("two", "one")],
                        output="$(steps.two.output)",
                    ),
                    _step("wait", "again", wait={"duration": "5s"}),
                    _step("last", "wait", "nested"),
                ),
            ],
        ),
        Scenario(
            "memoize",
            [
                _model(),
                _agent(),
                _pool(),
                _workflow(
                    "memo",
                    _step(
                        "same",
                        input="the same",
                        forEach=_each("a", "b", "c"),
                        memoize={"key": "the same"},
                    ),
                    _step("wait", "same", wait={"duration": "30s"}),
                    _step("other", "wait"),
                ),
            ],
        ),
        Scenario(
            "retry-of",
            [
                _model(),
                _model(name="broken", failing=100),
                _agent(),
                _agent("second", "broken"),
                _pool(),
                _pool("second"),
                _FRAGILE,
            ],
            person=_retry,
        ),
        Scenario(
            "cron",
            [
                _model(),
                _agent(),
                _pool(),
                _object(
                    "CronWorkflow",
                    "nightly",
                    schedule="*/2 * * * *",
                    concurrencyPolicy="Forbid",
                    workflowSpec={"steps": [_step("only")]},
                ),
            ],
            person=_suspend_cron,
        ),
        Scenario(
            "ttl",
            [
                _model(),
                _agent(),
                _pool(),
                _workflow("short", _step("only"), ttlAfterFinished="20s"),
            ],
            person=_until_deleted,
        ),
    )
}
