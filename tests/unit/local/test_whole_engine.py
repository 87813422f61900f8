"""What the operator does, a local run does too: the same planner, with other edges."""

import asyncio

import pytest
import yaml

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.workflow import WorkflowPhase, WorkflowSpec
from corral.local.office import NobodyDecidesError, Office
from corral.local.runner import LocalRun
from corral.local.team import NotRunnableError, assemble
from corral.plan.observed import ApprovalView, WantedApproval
from tests.unit.local.bench import A_CALL, approve, finished
from tests.unit.worker.tool_bench import tools


async def test_nested_steps_run_for_each_item_and_loops_go_round_until_it_is_good() -> None:
    status = await finished("""
steps:
- name: each
  forEach: {items: [a, b], as: doc}
  steps:
  - {name: draft, agentRef: {name: worker}, input: draft $(doc)}
  - {name: add, dependsOn: [draft], transform: "$(steps.draft.output) $(doc)"}
  output: $(steps.add.output)
- name: score
  agentRef: {name: worker}
  input: score $(iteration)
  outputSchema: {type: object}
  loop: {until: output.score > 4, maxIterations: 3}
output: "$(steps.each.outputs) $(steps.score.output.score)"
""")
    assert status.output == '["done a","done b"] 5'
    assert status.usage is not None
    assert status.usage.requests == 4


async def test_a_template_runs_as_a_step_and_hands_its_output_on() -> None:
    status = await finished(
        """
steps:
- name: call
  forEach: {items: [1, 2]}
  workflow: {templateRef: {name: t}, arguments: {who: $(item)}}
output: $(steps.call.outputs)
""",
        templates={
            "t": """
parameters: {type: object, properties: {who: {type: integer}, word: {default: hi}}}
steps:
- {name: ask, agentRef: {name: worker}, input: ask}
output: "$(steps.ask.output) $(arguments.word) $(arguments.who)"
"""
        },
    )
    assert status.output == ["done hi 1", "done hi 2"]
    assert status.usage is not None
    assert status.usage.requests == 2


async def test_a_child_that_fails_fails_its_step_with_its_words() -> None:
    status = await finished(
        "steps: [{name: call, workflow: {templateRef: {name: t}}}]",
        templates={
            "t": "steps: [{name: ask, agentRef: {name: worker}, input: broken, outputSchema: {}}]"
        },
    )
    assert status.phase is WorkflowPhase.FAILED
    assert "step ask failed: InvalidOutput" in (status.message or "")


async def test_a_template_that_is_not_in_the_files_is_told_of_before_anything_runs() -> None:
    with pytest.raises(NotRunnableError, match="there is no WorkflowTemplate 't' in the files"):
        await finished("steps: [{name: call, workflow: {templateRef: {name: t}}}]")


ASKS = """
steps:
- {name: ok, approval: {prompt: 'Go on?', approvers: [{kind: User, name: u}], allowEdit: [n]}}
- {name: use, dependsOn: [ok], transform: $(int(steps.ok.output.values.n) + 1)}
output: $(steps.use.output)
"""


async def test_a_person_is_asked_and_may_set_what_may_be_edited() -> None:
    assert (await finished(ASKS, decide=approve)).output == 8


async def test_where_nobody_can_be_asked_the_run_ends_and_names_the_step() -> None:
    with pytest.raises(NobodyDecidesError, match="step ok of w waits for a person's approval"):
        async with asyncio.timeout(5):
            await finished(ASKS)


async def test_equal_questions_are_asked_once_and_cost_once() -> None:
    status = await finished("""
steps:
- {name: ask, forEach: {items: [1, 2, 3]}, agentRef: {name: worker}, input: ask, memoize: {key: k}}
""")
    (row,) = status.steps or []
    assert row.memoized
    assert status.usage is not None
    assert (status.usage.requests, status.usage.cost_usd) == (1, A_CALL)


async def test_a_budget_ends_a_batch_to_the_cent() -> None:
    batch = """
budget: {maxCostUSD: "0.05", onExceeded: HOW}
steps:
- {name: each, forEach: {items: [1, 2, 3, 4, 5, 6, 7, 8, 9]}, agentRef: {name: worker}, input: go}
"""
    status = await finished(batch.replace("HOW", "Conclude"))
    assert status.phase is WorkflowPhase.SUCCEEDED
    (row,) = status.steps or []
    assert row.items is not None
    assert (row.items.succeeded, row.items.omitted) == (5, 4)
    assert status.usage is not None
    assert status.usage.cost_usd == "0.05"
    # Nobody can raise a budget here, so a run that waits for that is over.
    async with asyncio.timeout(5):
        suspended = await finished(batch.replace("HOW", "Suspend"))
    assert suspended.phase is WorkflowPhase.SUSPENDED


async def test_an_agents_own_budget_holds_over_all_its_steps() -> None:
    agents = """
worker:
  modelRef: {name: m}
  budget: {period: Monthly, maxCostUSD: "0.03", onExceeded: Fail}
"""
    status = await finished(
        """
steps:
- name: each
  forEach: {items: [1, 2, 3, 4, 5], tolerateFailures: 5}
  agentRef: {name: worker}
  input: go
""",
        agents=agents,
    )
    (row,) = status.steps or []
    assert row.items is not None
    assert (row.items.succeeded, row.items.failed) == (3, 2)


async def test_an_agent_is_found_by_what_it_can_do() -> None:
    status = await finished(
        "steps: [{name: a, agentSelector: {matchCapabilities: [write]}, input: go}]",
        agents="""
other: {modelRef: {name: m}}
writer: {modelRef: {name: m}, capabilities: [write, read]}
unfit: {modelRef: {name: nowhere}, capabilities: [write]}
""",
    )
    (row,) = status.steps or []
    assert (row.agent, row.output) == ("writer", "done")


async def test_large_outputs_are_whole_where_the_cluster_shows_references() -> None:
    status = await finished(
        """
arguments: {text: TEXT}
steps:
- {name: long, transform: $(arguments.text)}
- {name: size, dependsOn: [long], transform: $(size(steps.long.output))}
output: $(steps.long.output)
""".replace("TEXT", "x" * 5000)
    )
    assert status.output == "x" * 5000
    assert [row.output for row in status.steps or []][1] == 5000


async def test_a_list_may_come_from_a_config_map_of_the_files() -> None:
    text = """
steps:
- {name: each, forEach: {configMapKeyRef: {name: c, key: k}}, transform: $(item.n)}
output: $(steps.each.outputs)
"""
    status = await finished(text, config_maps={"c": {"k": '{"n": 1}\n\n{"n": 2}\n'}})
    assert status.output == [1, 2]
    with pytest.raises(NotRunnableError, match="key 'k' of ConfigMap 'c' is not there"):
        await finished(text)


async def test_tools_are_called_with_and_without_a_model_and_a_person_agrees_first() -> None:
    asked: list[WantedApproval] = []

    async def note(workflow: str, wanted: WantedApproval) -> ApprovalView | None:
        asked.append(wanted)
        return await approve(workflow, wanted)

    async with tools() as server:
        url = server.url.removesuffix("/mcp")
        script = "[{match: tidy, reply: tidied, toolCalls: [{name: delete, arguments: {name: a}}]}]"
        models = {
            "m": ModelSpec.model_validate(
                {"provider": "simulated", "simulation": {"script": yaml.safe_load(script)}}
            )
        }
        mcp = {"url": f"{url}/mcp", "requireApproval": ["delete"]}
        agent = AgentSpec.model_validate(
            {"modelRef": {"name": "m"}, "tools": [{"name": "t", "mcp": mcp}]}
        )
        spec = WorkflowSpec.model_validate(
            {
                "steps": [
                    {
                        "name": "add",
                        "tool": {
                            "mcp": {"url": f"{url}/mcp"},
                            "name": "add",
                            "arguments": {"a": 1, "b": 2},
                        },
                    },
                    {"name": "tidy", "agentRef": {"name": "worker"}, "input": "tidy"},
                ]
            }
        )
        team = assemble(spec, {"worker": agent}, models)
        status = await LocalRun("w", "local", spec, Office(team, models, decide=note)).run()
    assert [row.output for row in status.steps or []] == [{"result": 3}, "tidied"]
    assert [(one.step, one.tool) for one in asked] == [("tidy", ("delete", '{"name":"a"}'))]
