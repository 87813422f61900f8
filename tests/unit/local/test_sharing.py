"""What a run and its children have in common: places, money, results, what is wanted of them."""

import asyncio

import pytest

from corral.api.workflow import StepPhase, WorkflowPhase, WorkflowStatus
from corral.local.office import NobodyDecidesError, StuckError
from corral.local.places import Places
from corral.plan.observed import ApprovalView, WantedApproval
from tests.unit.local.bench import approve, finished, office, run_of

ONE_PLACE = "[{agentRef: {name: worker}, concurrency: 1}]"
ASK = "steps: [{name: ask, agentRef: {name: worker}, input: ask}]"
CALLS = """
steps:
- name: call
  forEach: {items: [1, 2, 3, 4], tolerateFailures: 4}
  workflow: {templateRef: {name: t}}
"""
MONTHLY = "worker: {modelRef: {name: m}, budget: {period: Monthly, maxCostUSD: LIMIT}}"


def cost(status: WorkflowStatus) -> str | None:
    return status.usage.cost_usd if status.usage else None


async def test_children_that_find_no_place_are_woken_when_there_is_one() -> None:
    status = await finished(CALLS, templates={"t": ASK}, pools=ONE_PLACE, latency="5ms")
    assert status.phase is WorkflowPhase.SUCCEEDED
    assert cost(status) == "0.04"


async def test_a_wide_fan_out_lets_its_neighbour_have_every_other_place() -> None:
    order: list[str] = []
    wide = """
steps:
- {name: each, forEach: {items: [1, 2, 3, 4, 5, 6]}, agentRef: {name: worker}, input: wide}
"""
    narrow = """
steps:
- {name: one, agentRef: {name: worker}, input: a}
- {name: two, dependsOn: [one], agentRef: {name: worker}, input: b}
"""
    run = run_of(
        """
steps:
- {name: wide, workflow: {templateRef: {name: wide}}}
- {name: narrow, workflow: {templateRef: {name: narrow}}}
""",
        templates={"wide": wide, "narrow": narrow},
        pools=ONE_PLACE,
        latency="5ms",
    )

    def note(status: WorkflowStatus, spec: object) -> None:
        for row in status.steps or []:
            if row.phase is StepPhase.SUCCEEDED and row.name not in order:
                order.append(row.name)

    run.on_status = note
    await run.run()
    assert order == ["narrow", "wide"]


async def test_places_are_given_in_the_order_of_asking() -> None:
    run = run_of(ASK, pools=ONE_PLACE)
    woken: list[str] = []
    places = Places(run.office.team)

    def first() -> None:
        woken.append("first")

    def second() -> None:
        woken.append("second")

    places.take("worker")
    places.settle(first, ["worker"])
    places.settle(second, ["worker"])
    assert woken == []
    places.leave("worker")
    assert places.free_for("worker", second) == 0, "somebody else comes first"
    places.settle(second, ["worker"])
    assert woken == ["first"]
    assert (places.free_for("worker", first), places.free_for("worker", second)) == (1, 0)
    places.settle(first, [])
    assert woken == ["first", "second"], "the first made no use of it"
    assert places.free_for("worker", second) == 1


async def test_an_agents_budget_is_one_for_all_children() -> None:
    agents = MONTHLY.replace("LIMIT", '"0.03", onExceeded: Fail')
    status = await finished(CALLS, templates={"t": ASK}, agents=agents)
    (row,) = status.steps or []
    assert row.items is not None
    assert (row.items.succeeded, row.items.failed) == (3, 1)
    assert cost(status) == "0.03"


async def test_what_is_reserved_now_is_waited_for() -> None:
    # Room for one worst case at a time: the schema may be asked for again.
    agents = MONTHLY.replace("LIMIT", '"0.07"').replace("{name: m}", "{name: m}, outputSchema: {}")
    templates = {"t": ASK.replace("input: ask", "input: score 1")}
    status = await finished(CALLS, templates=templates, agents=agents, latency="5ms")
    assert status.phase is WorkflowPhase.SUCCEEDED
    assert cost(status) == "0.04"


async def test_a_result_that_a_child_works_out_is_waited_for_by_the_others() -> None:
    template = ASK.replace("input: ask", "input: ask, memoize: {key: k}")
    status = await finished(CALLS, templates={"t": template}, latency="5ms")
    assert cost(status) == "0.01"


async def test_stopping_stops_the_children_too_and_counts_what_they_used() -> None:
    run = run_of(CALLS, templates={"t": ASK}, latency="30s")
    task = asyncio.create_task(run.run())
    while not run.office.places.busy("worker"):
        await asyncio.sleep(0)
    run.stop()
    status = await task
    assert status.phase is WorkflowPhase.STOPPED
    assert status.usage is not None
    assert status.usage.requests == 4
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_child_whose_arguments_are_wrong_never_starts() -> None:
    template = f"parameters: {{type: object, required: [topic]}}\n{ASK}"
    status = await finished(CALLS.replace(", tolerateFailures: 4", ""), templates={"t": template})
    assert status.phase is WorkflowPhase.FAILED
    assert "'topic' is a required property" in (status.message or "")
    assert status.usage is None


BRANCHES = """
steps:
- {name: ok, approval: {prompt: 'Go on?', approvers: [{kind: User, name: u}] MORE}}
- {name: long, agentRef: {name: worker}, input: long}
- {name: after, dependsOn: [long], agentRef: {name: worker}, input: after}
"""


async def test_what_runs_ends_and_is_counted_before_a_run_that_nobody_decides_is_over() -> None:
    run = run_of(BRANCHES.replace(" MORE", ""), latency="20ms")
    async with asyncio.timeout(5):
        with pytest.raises(NobodyDecidesError, match="step ok of w waits"):
            await run.run()
    phases = {row.name: row.phase for row in run.status.steps or []}
    assert phases["long"] is StepPhase.SUCCEEDED
    assert phases["after"] is StepPhase.PENDING, "nothing starts any more"
    assert cost(run.status) == "0.01"


async def test_where_time_decides_nobody_need_be_asked() -> None:
    status = await finished(BRANCHES.replace(" MORE", ", timeout: 20ms, onTimeout: Approve"))
    assert status.phase is WorkflowPhase.SUCCEEDED


async def test_a_question_of_a_child_that_nobody_answers_ends_the_whole_run() -> None:
    run = run_of(CALLS, templates={"t": BRANCHES.replace(" MORE", "")})
    async with asyncio.timeout(5):
        with pytest.raises(NobodyDecidesError, match="step ok of w-"):
            await run.run()


async def test_nobody_is_asked_any_more_once_the_run_is_stopped() -> None:
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def never(workflow: str, wanted: WantedApproval) -> ApprovalView | None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        return None

    run = run_of(BRANCHES.replace(" MORE", ""), decide=never)
    task = asyncio.create_task(run.run())
    await asked.wait()
    run.stop()
    assert (await task).phase is WorkflowPhase.STOPPED
    assert dropped.is_set()


@pytest.mark.parametrize(
    ("text", "agents", "why"),
    [
        (f"suspend: true\n{ASK}", "worker: {modelRef: {name: m}}", "w is suspended"),
        (ASK, MONTHLY.replace("LIMIT", '"0.001"'), "budget of Agent 'worker' is spent"),
        (CALLS, MONTHLY.replace("LIMIT", '"0.02"'), "w-.*budget of Agent 'worker' is spent"),
    ],
)
async def test_a_run_that_waits_for_what_nobody_can_do_here_is_over(
    text: str, agents: str, why: str
) -> None:
    run = run_of(text, agents=agents, templates={"t": ASK} if text is CALLS else {})
    async with asyncio.timeout(5):
        with pytest.raises(StuckError, match=why):
            await run.run()


async def test_a_childs_own_budget_that_suspends_fails_its_step() -> None:
    template = f'budget: {{maxCostUSD: "0.001"}}\n{ASK}'
    status = await finished(
        "steps: [{name: call, workflow: {templateRef: {name: t}}}]", templates={"t": template}
    )
    (row,) = status.steps or []
    assert (row.phase, row.reason) == (StepPhase.FAILED, "Budget")


async def test_people_are_told_of_the_share_of_a_budget_that_is_spent() -> None:
    run = run_of(f'budget: {{maxCostUSD: "0.02", warnAt: [50]}}\n{ASK}')
    said: list[str] = []
    run.office.warn = said.append
    await run.run()
    assert said == ["Workflow w: 50% of the budget of 0.02 USD are spent"]


async def test_children_ask_people_too_and_a_person_may_refuse() -> None:
    refused = ApprovalView("Reject", "ann", "not yet")

    async def refuse(workflow: str, wanted: WantedApproval) -> ApprovalView | None:
        return refused if workflow.startswith("w-") else await approve(workflow, wanted)

    status = await finished(
        "steps: [{name: call, workflow: {templateRef: {name: t}}}]",
        templates={"t": BRANCHES.replace(" MORE", "")},
        decide=refuse,
    )
    assert status.phase is WorkflowPhase.FAILED
    assert "rejected by ann: not yet" in (status.message or "")


def test_no_office_is_shared_by_accident() -> None:
    run = run_of(ASK)
    assert office(run.spec).places is not run.office.places
