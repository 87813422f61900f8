"""What a pass over a Workflow sees, as one value."""

from corral.api.errors import Reason
from corral.api.workflow import WorkflowSpec
from corral.kube.client import Json
from corral.plan.budget import Reservation
from corral.plan.keys import WorkflowKey
from corral.plan.kinds import awaited_approvals, children_looked_at
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView, Pass, Result
from corral.plan.selection import all_steps
from corral.plan.state import Run
from corral.plan.template import called_by
from corral.reconcile.children import Children
from corral.reconcile.effective import Specs, depth_of, wanted_above
from corral.reconcile.made import approvals_of
from corral.reconcile.world import ANY_AGENT, World

LOOK_AGAIN = 5.0
"""Seconds after which what a run as a whole refers to is looked for again."""


def gather(
    world: World,
    specs: Specs,
    children: Children,
    key: WorkflowKey,
    obj: Json,
    spec: WorkflowSpec,
    run: Run,
    results: list[Result],
    unavailable: tuple[Reason, str] | None,
) -> Pass:
    """A pass over a Workflow; notes that the run uses its Agents, so that they wake it."""
    shutdown, suspended = wanted_above(world.workflows, obj, children.abandoned)
    update: dict[str, object] = {}
    if shutdown is not None and spec.shutdown != "Terminate":
        update["shutdown"] = shutdown
    if suspended:
        update["suspend"] = True
    spec = spec.model_copy(update=update) if update else spec
    now = world.kube.now()
    template = (obj.get("spec") or {}).get("workflowTemplateRef") or {}
    calls = called_by(spec)
    p = Pass(
        name=key[1],
        namespace=key[0],
        spec=spec,
        run=run,
        agents=_agents(world, key, spec, run),
        now=now,
        results=results,
        patience_until=world.patience_until,
        depth=depth_of(world.workflows, obj),
        templates=specs.budgets(key[0]) if calls else None,
        memo_scope=template.get("name", ""),
        unavailable=unavailable,
        reserve_agent=lambda agent, attempt, cost, tokens: world.budgets.reserve(
            key,
            (key[0], agent),
            world.agent_budget((key[0], agent)),
            attempt,
            Reservation(cost, tokens),
        ),
        flight=lambda memo, place: world.flights.claim(key, memo, place),
        weigh=lambda attempt, model, load: world.slots.gates.weigh(
            key, key[0], attempt, model, load, world.slots.priority(key)
        ),
    )
    p.approvals = approvals_of(world, obj, awaited_approvals(p))
    if calls:
        p.children = children.views(obj, children_looked_at(p))
    if unavailable is not None:
        p.wake.append(now + LOOK_AGAIN)
    return p


def _agents(world: World, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> dict[str, AgentView]:
    names = agents_of(world, key, spec)
    if not run.finished_for_good:
        for name in names:
            world.users.setdefault((key[0], name), set()).add(key)
    views = {name: world.agent_view((key[0], name)) for name in names}
    return {name: view for name, view in views.items() if view is not None}


def agents_of(world: World, key: WorkflowKey, spec: WorkflowSpec) -> set[str]:
    """The Agents that the steps name; all of the namespace where one is looked for."""
    steps = all_steps([*(spec.steps or []), *(spec.on_exit or [])])
    names = {step.agent_ref.name for step in steps if step.agent_ref is not None}
    if any(step.tool is not None for step in steps):
        names.add(TOOL_RUNNER)
    if any(step.agent_selector is not None for step in steps):
        names |= {obj["metadata"]["name"] for obj in world.agents.in_namespace(key[0])}
        names.add(ANY_AGENT)
    return names
