"""A tool server that is down is left alone, and tried again by one call."""

import asyncio
from time import monotonic

import pytest

from corral.api.agent import AgentSpec
from corral.api.attempt import ToolInvocation
from corral.worker import tool_breakers
from corral.worker.outcome import AttemptOutcome
from corral.worker.runtime import AgentRuntime
from corral.worker.tool_breakers import FAILURES

DEAD = "http://127.0.0.1:1/mcp"


def runtime(told: list[tuple[str, bool]]) -> AgentRuntime:
    return AgentRuntime(
        AgentSpec.model_validate({"description": "Calls tools.", "modelRef": {"name": "m"}}),
        "caller",
        {},
        lambda _: None,
        tell_server=lambda host, usable: told.append((host, usable)),
    )


async def call(of: AgentRuntime, url: str = DEAD) -> AttemptOutcome:
    tool = ToolInvocation(url=url, name="add")
    return await of.run("r.s.0.1.1", timeout_seconds=20, tool=tool)


def message(outcome: AttemptOutcome) -> str:
    assert outcome.error is not None
    assert outcome.error.error_class == "ToolFailed"
    return outcome.error.message


async def test_a_server_that_failed_several_times_is_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tool_breakers, "REST", 0.5)
    told: list[tuple[str, bool]] = []
    worker = runtime(told)
    for _ in range(FAILURES):
        assert "left alone" not in message(await call(worker))
    assert told[-1] == ("127.0.0.1:1", False)
    started = monotonic()
    assert "left alone for a moment" in message(await call(worker))
    assert "left alone" not in message(await call(worker, "http://127.0.0.1:2/mcp"))
    await asyncio.sleep(max(0.0, started + 0.6 - monotonic()))
    several = await asyncio.gather(*(call(worker) for _ in range(4)))
    asked = [one for one in several if "left alone" not in message(one)]
    assert len(asked) == 1, "one finds out for all"
