"""Tool calls that a person must approve: one attempt ends, another goes on, on any worker."""

from typing import Any

import pytest

from corral.api.attempt import InputRequired, ToolDecision
from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptOutcome
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.tool_bench import Tools, call, model_server, runtime, simulated, tools

FIRST, SECOND = "r.a.0.1.1", "r.a.0.1.2"


def guarded(server: Tools, *calls: dict[str, Any], **agent: Any) -> AgentRuntime:
    """A new runtime each time: nothing is shared between two attempts."""
    model = simulated(*(calls or (call("delete", name="x"),)), reply="all done")
    return runtime({"fake": model}, server.entry(requireApproval=["delete"]), **agent)


def pending(outcome: AttemptOutcome) -> InputRequired:
    assert outcome.error is None, outcome.error
    assert outcome.input_required is not None
    return outcome.input_required


def decisions(required: InputRequired, approved: bool = True, **more: Any) -> list[ToolDecision]:
    return [ToolDecision(call_id=one.call_id, approved=approved, **more) for one in required.calls]


async def test_a_call_that_needs_approval_ends_the_attempt_and_calls_nothing() -> None:
    async with tools() as server:
        outcome = await guarded(server).run(FIRST, "go")
        assert await server.calls() == []
    [waits] = pending(outcome).calls
    assert (waits.tool, waits.arguments) == ("delete", '{"name":"x"}')
    assert (outcome.output, outcome.usage[0].requests) == (None, "1")


async def test_an_approved_call_is_made_by_another_worker_with_exactly_those_arguments() -> None:
    async with tools() as server:
        required = pending(await guarded(server).run(FIRST, "go"))
        outcome = await guarded(server).run(
            SECOND, conversation=required.conversation, decisions=decisions(required)
        )
        [made] = await server.calls()
    assert (outcome.output, outcome.error) == ("all done", None)
    assert made["arguments"] == {"name": "x"}
    assert outcome.usage[0].requests == "1"


async def test_the_same_approved_attempt_again_has_no_second_effect() -> None:
    async with tools() as server:
        required = pending(await guarded(server).run(FIRST, "go"))
        for attempt in (SECOND, "r.a.0.1.3"):
            await guarded(server).run(
                attempt, conversation=required.conversation, decisions=decisions(required)
            )
        assert [made["outcome"] for made in await server.calls()] == ["Answered", "Repeated"]


async def test_a_rejected_call_is_told_to_the_model_with_the_comment() -> None:
    rules = [
        {
            "match": "rejected this call. They say: keep it",
            "search": "conversation",
            "reply": "It stays.",
        },
        {"toolCalls": [call("delete", name="x")], "reply": "never"},
    ]
    async with tools() as server, model_server(*rules) as models:
        agents = [runtime(models, server.entry(requireApproval=["delete"])) for _ in range(2)]
        required = pending(await agents[0].run(FIRST, "go"))
        outcome = await agents[1].run(
            SECOND,
            conversation=required.conversation,
            decisions=decisions(required, approved=False, comment="keep it"),
        )
        for agent in agents:
            await agent.aclose()
        assert await server.calls() == []
    assert outcome.output == "It stays."


async def test_calls_that_need_no_approval_are_made_at_once_and_only_once() -> None:
    async with tools() as server:
        calls = (call("add", a=1, b=2), call("delete", name="x"), call("delete", name="y"))
        required = pending(await guarded(server, *calls).run(FIRST, "go"))
        assert [made["tool"] for made in await server.calls()] == ["add"]
        one, other = decisions(required)
        other.approved = False
        outcome = await guarded(server, *calls).run(
            SECOND, conversation=required.conversation, decisions=[other, one]
        )
        assert [made["tool"] for made in await server.calls()] == ["add", "delete"]
        assert (await server.calls())[1]["arguments"] == {"name": "x"}
    assert outcome.output == "all done"


async def test_a_structured_answer_comes_after_an_approval_too() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with tools() as server:
        model = simulated(call("delete", name="x"), reply='{"n": 1}')

        def agent() -> AgentRuntime:
            return runtime({"fake": model}, server.entry(requireApproval=["delete"]))

        required = pending(await agent().run(FIRST, "go", output_schema=schema))
        outcome = await agent().run(
            SECOND,
            output_schema=schema,
            conversation=required.conversation,
            decisions=decisions(required),
        )
    assert (outcome.output, outcome.structured) == ({"n": 1}, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda d: d[:1], "there is none on", id="a missing decision"),
        pytest.param(lambda d: [], "there is none on", id="no decision"),
        pytest.param(lambda d: [*d, d[0]], "there are two on", id="two on one call"),
        pytest.param(
            lambda d: [*d, ToolDecision(call_id="call-1-9~0", approved=True)],
            "no call that waits has the id",
            id="a call that is not there",
        ),
        pytest.param(
            lambda d: [
                d[0],
                ToolDecision(
                    call_id=d[1].call_id.partition("~")[0] + "~" + d[0].call_id.partition("~")[2],
                    approved=True,
                ),
            ],
            "no call that waits has the id",
            id="an approval of other arguments",
        ),
    ],
)
async def test_decisions_that_are_not_one_for_each_call_are_refused(
    change: Any, words: str
) -> None:
    async with tools() as server:
        calls = (call("delete", name="x"), call("delete", name="y"))
        required = pending(await guarded(server, *calls).run(FIRST, "go"))
        outcome = await guarded(server, *calls).run(
            SECOND,
            conversation=required.conversation,
            decisions=change(decisions(required)),
        )
        assert await server.calls() == []
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.REJECTED
    assert words in outcome.error.message
    assert outcome.usage == []


async def test_decisions_without_a_conversation_are_refused() -> None:
    async with tools() as server:
        outcome = await guarded(server).run(
            SECOND, "go", decisions=[ToolDecision(call_id="call-1-1~0", approved=True)]
        )
        assert await server.calls() == []
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.REJECTED


async def test_an_approval_is_not_valid_for_another_conversation() -> None:
    async with tools() as server:
        one = pending(await guarded(server, call("delete", name="x")).run(FIRST, "go"))
        other = pending(await guarded(server, call("delete", name="all")).run(FIRST, "go"))
        outcome = await guarded(server).run(
            SECOND, conversation=other.conversation, decisions=decisions(one)
        )
        assert await server.calls() == []
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.REJECTED


@pytest.mark.parametrize("text", ["", "2:AAAA", "1:", "1:%%%", "1:AAAA", "1:eJwDAAAAAAE="])
async def test_a_conversation_that_cant_be_read_is_refused(text: str) -> None:
    async with tools() as server:
        outcome = await guarded(server).run(SECOND, conversation=text, decisions=[])
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.INTERNAL
    assert "can't be read" in outcome.error.message


async def test_a_tool_that_is_no_longer_allowed_is_not_called_though_approved() -> None:
    async with tools() as server:
        required = pending(await guarded(server).run(FIRST, "go"))
        now = runtime({"fake": simulated(call("delete", name="x"))}, server.entry(allow=["add"]))
        outcome = await now.run(
            SECOND, conversation=required.conversation, decisions=decisions(required)
        )
        assert await server.calls() == []
    assert outcome.output == "done"
