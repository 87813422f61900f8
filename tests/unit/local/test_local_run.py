"""Local runs through the real planner and the real AgentRuntime, with simulated models."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from corral.api.agent import AgentSpec
from corral.api.attempt import ModelUsage
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.workflow import StepPhase, WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.local.keys import EnvironmentKeys
from corral.local.office import Office
from corral.local.runner import LocalRun
from corral.local.team import NotRunnableError, assemble, capacity

NUMBERS = {"type": "array", "items": {"type": "integer"}}


def a_cent(spec: ModelSpec | None, usage: ModelUsage) -> Decimal | None:
    return Decimal("0.01") * int(usage.requests)


def local_run(
    spec: dict[str, Any],
    simulation: dict[str, Any],
    pools: list[dict[str, Any]] | None = None,
    on_status: Callable[[WorkflowStatus, WorkflowSpec], None] = lambda status, spec: None,
) -> LocalRun:
    workflow = WorkflowSpec.model_validate(spec)
    models = {
        "m": ModelSpec.model_validate({"provider": "simulated", "simulation": simulation}),
    }
    agents = {"worker": AgentSpec.model_validate({"modelRef": {"name": "m"}})}
    of_pools = [PoolSpec.model_validate({"agentRef": {"name": "worker"}} | p) for p in pools or []]
    team = assemble(workflow, agents, models, of_pools)
    return LocalRun("w", "local", workflow, Office(team, models, price=a_cent), on_status)


async def finished(spec: dict[str, Any], simulation: dict[str, Any]) -> WorkflowStatus:
    return await local_run(spec, simulation).run()


def step(name: str, *after: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "agentRef": {"name": "worker"}, "input": name, **more}
    return {**found, "dependsOn": list(after)} if after else found


def phases(status: WorkflowStatus) -> dict[str, StepPhase]:
    return {row.name: row.phase for row in status.steps or []}


async def test_a_chain_hands_each_output_to_the_next_step() -> None:
    script = [{"match": "^second: one$", "reply": "two"}, {"match": "first", "reply": "one"}]
    status = await finished(
        {
            "steps": [
                step("first"),
                step("second", "first", input="second: $(steps.first.output)"),
            ],
            "output": "$(steps.second.output)",
        },
        {"script": script},
    )
    assert status.phase is WorkflowPhase.SUCCEEDED
    assert status.output == "two"
    assert status.usage is not None
    assert (status.usage.requests, status.usage.cost_usd) == (2, "0.02")
    assert status.usage.simulated_requests == 2


async def test_a_fan_out_runs_every_item_and_keeps_their_order() -> None:
    script = [
        {"match": "list", "reply": "[3, 1, 2]"},
        *[{"match": f"item {n}", "reply": str(n * 10)} for n in (1, 2, 3)],
    ]
    status = await finished(
        {
            "steps": [
                step("list", outputSchema=NUMBERS),
                step(
                    "each",
                    "list",
                    input="item $(n)",
                    forEach={"itemsFrom": "$(steps.list.output)", "as": "n"},
                ),
            ],
            "output": "$(steps.each.outputs)",
        },
        {"script": script},
    )
    assert status.output == ["30", "10", "20"]
    assert status.steps is not None and status.steps[1].items is not None
    assert status.steps[1].items.succeeded == 3


async def test_a_failed_attempt_is_made_again_until_the_limit() -> None:
    spec = {
        "steps": [step("a", retryStrategy={"limit": 2, "backoff": {"duration": "10ms"}})],
    }
    status = await finished(spec, {"failurePercent": 100})
    assert status.phase is WorkflowPhase.FAILED
    assert status.steps is not None
    assert status.steps[0].attempts == 3
    assert status.steps[0].reason == "ModelUnavailable"
    assert status.usage is not None and status.usage.requests == 3


async def test_an_answer_that_does_not_fit_its_schema_fails_the_run() -> None:
    status = await finished({"steps": [step("a", outputSchema=NUMBERS)]}, {"reply": "no JSON"})
    assert status.phase is WorkflowPhase.FAILED
    assert status.message is not None and "InvalidOutput" in status.message


@pytest.mark.parametrize(("score", "expected"), [(3, StepPhase.SUCCEEDED), (9, StepPhase.SKIPPED)])
async def test_a_condition_decides_whether_a_step_runs(score: int, expected: StepPhase) -> None:
    spec = {
        "steps": [
            step("judge", outputSchema={"type": "integer"}, extract={"score": "output"}),
            step("again", "judge", when="steps.judge.extract.score < 8"),
            step("end", "again"),
        ]
    }
    status = await finished(spec, {"script": [{"match": "judge", "reply": str(score)}]})
    assert phases(status) == {
        "judge": StepPhase.SUCCEEDED,
        "again": expected,
        "end": StepPhase.SUCCEEDED,
    }


async def test_a_wait_lets_the_clock_wake_the_run() -> None:
    spec = {"steps": [{"name": "pause", "wait": {"duration": "50ms"}}, step("a", "pause")]}
    status = await finished(spec, {})
    assert status.phase is WorkflowPhase.SUCCEEDED


async def test_no_more_attempts_run_than_the_pool_has_places_for() -> None:
    most = 0

    def watch(status: WorkflowStatus, spec: WorkflowSpec) -> None:
        nonlocal most
        items = status.steps[0].items if status.steps else None
        most = max(most, items.running if items else 0)

    spec = {"steps": [step("each", forEach={"items": list(range(9))})]}
    run = local_run(spec, {"latency": "5ms"}, [{"concurrency": 2, "replicas": 2}], watch)
    assert (await run.run()).phase is WorkflowPhase.SUCCEEDED
    assert most == 4


async def test_stop_cancels_what_runs_and_runs_on_exit_steps() -> None:
    run = local_run(
        {"steps": [step("long"), step("never", "long")], "onExit": [step("bye")]},
        {"latency": "300ms"},
    )
    task = asyncio.create_task(run.run())
    await asyncio.sleep(0.05)
    run.stop()
    status = await task
    assert status.phase is WorkflowPhase.STOPPED
    assert phases(status) == {
        "long": StepPhase.CANCELLED,
        "never": StepPhase.OMITTED,
        "bye": StepPhase.SUCCEEDED,
    }
    assert status.usage is not None
    assert status.usage.requests == 2, "the cancelled call was made, so it is counted"


async def test_a_cancelled_run_leaves_no_task_behind() -> None:
    run = local_run({"steps": [step("long")]}, {"latency": "30s"})
    task = asyncio.create_task(run.run())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ([], 16),
        ([{"concurrency": 4, "replicas": 3}], 12),
        ([{"concurrency": 4, "autoscaling": {"maxReplicas": 5}}], 20),
        ([{"concurrency": 1}, {"concurrency": 2}], 3),
    ],
)
def test_capacity_is_that_of_the_pools_fully_scaled_up(
    pools: list[dict[str, Any]], expected: int
) -> None:
    specs = [PoolSpec.model_validate({"agentRef": {"name": "a"}} | pool) for pool in pools]
    other = PoolSpec.model_validate({"agentRef": {"name": "other"}})
    assert capacity("a", [*specs, other]) == expected


def model(provider: str, **more: Any) -> ModelSpec:
    return ModelSpec.model_validate({"provider": provider, "name": "x", **more})


SECRET = {"apiKeySecretRef": {"name": "s", "key": "k"}}


@pytest.mark.parametrize(
    ("spec", "environment", "key", "complains"),
    [
        (model("openai"), {"OPENAI_API_KEY": "sk"}, "sk", False),
        (model("openai"), {"CORRAL_KEY_MY_MODEL": "own", "OPENAI_API_KEY": "sk"}, "own", False),
        (model("google"), {"GEMINI_API_KEY": "g"}, "g", False),
        (model("openai"), {}, None, True),
        (model("openai", baseURL="http://x/v1"), {"OPENAI_API_KEY": "sk"}, None, False),
        (model("openai", baseURL="http://x/v1", **SECRET), {"OPENAI_API_KEY": "sk"}, None, True),
        (model("openai", baseURL="http://x/v1"), {"CORRAL_KEY_MY_MODEL": "own"}, "own", False),
        (model("simulated"), {}, None, False),
    ],
)
def test_a_key_comes_from_the_environment_and_never_goes_to_a_files_address(
    spec: ModelSpec, environment: dict[str, str], key: str | None, complains: bool
) -> None:
    keys = EnvironmentKeys({"my-model": spec}, environment)
    assert keys("my-model") == key
    missing = keys.missing("my-model")
    assert (missing is not None) is complains
    assert missing is None or "CORRAL_KEY_MY_MODEL" in missing


def test_what_is_missing_is_told_all_at_once() -> None:
    workflow = WorkflowSpec.model_validate(
        {
            "steps": [
                {"name": "a", "agentRef": {"name": "absent"}},
                {"name": "b", "agentRef": {"name": "modelless"}},
                {"name": "c", "agentRef": {"name": "keyless"}},
            ]
        }
    )
    agents = {
        "modelless": AgentSpec.model_validate({"modelRef": {"name": "nope"}}),
        "keyless": AgentSpec.model_validate({"modelRef": {"name": "real"}}),
    }
    models = {"real": model("openai")}
    keys = EnvironmentKeys(models, {})
    with pytest.raises(NotRunnableError) as raised:
        assemble(workflow, agents, models, keys=keys)
    absent, modelless, keyless = raised.value.problems
    assert "no Agent 'absent'" in absent
    assert "no Model 'nope'" in modelless
    assert "OPENAI_API_KEY" in keyless
