"""Which Agent does a step: the one that it names, or one that can do what it asks for.

Of several that match, ``First`` takes the first by name, ``LeastLoaded`` the one with the fewest
queued and running attempts for each slot, ``Cheapest`` the one whose Model has the lowest price
of input and output together (one without a price comes last). Ties go by name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from corral.api.errors import Reason
from corral.api.workflow import AgentSelector, NestedStep, WorkflowSpec
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView, Pass
from corral.plan.state import Node, Run, Step


def matching(p: Pass, selector: AgentSelector) -> list[AgentView]:
    """The Agents that have all the capabilities, by name, ready or not."""
    wanted = set(selector.match_capabilities)
    return [view for _, view in sorted(p.agents.items()) if wanted <= view.capabilities]


def choose(p: Pass, selector: AgentSelector) -> str | None:
    """The Agent to do the next item; None if none is ready."""
    ready = [view for view in matching(p, selector) if view.ready]
    if not ready:
        return None
    if selector.strategy == "LeastLoaded":
        chosen = min(ready, key=lambda view: _load(p, view))
    elif selector.strategy == "Cheapest":
        chosen = min(ready, key=_price)
    else:
        chosen = ready[0]
    p.chosen[chosen.name] += 1
    return chosen.name


def _load(p: Pass, view: AgentView) -> float:
    return (view.busy + p.chosen[view.name]) / max(1, view.slots)


def _price(view: AgentView) -> tuple[bool, Decimal]:
    rates = view.rates
    if rates.input_usd is None or rates.output_usd is None:
        return True, Decimal(0)
    return False, rates.input_usd + rates.output_usd


def agent_of(spec: NestedStep, node: Node) -> str | None:
    """The Agent whose worker runs an item's attempts; None if none does, or none is chosen yet."""
    if spec.agent_ref is not None:
        return spec.agent_ref.name
    if spec.tool is not None:
        return TOOL_RUNNER
    return node.agent if spec.agent_selector is not None else None


def needs_worker(spec: NestedStep) -> bool:
    """Whether the step's attempts run on workers."""
    return any(one is not None for one in (spec.agent_ref, spec.agent_selector, spec.tool))


def all_steps(specs: Iterable[NestedStep]) -> list[NestedStep]:
    """Steps, each followed by those nested in it."""
    found: list[NestedStep] = []
    for spec in specs:
        found.append(spec)
        found += getattr(spec, "steps", None) or []
    return found


@dataclass(frozen=True)
class Missing:
    """What an unfinished step needs and is not there, or not ready."""

    field: str
    reason: Reason
    message: str


def missing(p: Pass) -> list[Missing]:
    """What keeps the run from going on; what it refers to as a whole comes first."""
    found: dict[object, Missing] = {}
    if p.unavailable is not None:
        reason, message = p.unavailable
        found[""] = Missing("spec", reason, message)
    for place, spec in _unfinished(p):
        if spec.agent_ref is not None:
            view = p.agents.get(spec.agent_ref.name)
            if view is None or not view.ready:
                at = f"{place}.agentRef"
                found.setdefault(spec.agent_ref.name, _no_agent(at, spec.agent_ref.name, view))
        elif spec.agent_selector is not None:
            if not any(view.ready for view in matching(p, spec.agent_selector)):
                key = tuple(spec.agent_selector.match_capabilities)
                found.setdefault(key, _no_match(p, f"{place}.agentSelector", spec.agent_selector))
        elif spec.workflow is not None and p.templates is not None:
            name = spec.workflow.template_ref.name
            if name not in p.templates:
                at = f"{place}.workflow.templateRef"
                why = f"{at}: there is no WorkflowTemplate {name!r}"
                found.setdefault(("template", name), Missing(at, Reason.TEMPLATE_NOT_FOUND, why))
    return list(found.values())


def _unfinished(p: Pass) -> Iterator[tuple[str, NestedStep]]:
    """The steps that may still do something, nested ones too, and the path of each."""
    for path, specs, steps in (
        ("spec.steps", p.spec.steps or [], p.run.steps),
        ("spec.onExit", p.spec.on_exit or [], p.run.exit_steps),
    ):
        for index, outer in enumerate(specs):
            if outer.name in steps and steps[outer.name].final:
                continue
            yield f"{path}[{index}]", outer
            for number, inner in enumerate(outer.steps or []):
                yield f"{path}[{index}].steps[{number}]", inner


def _no_agent(at: str, name: str, view: AgentView | None) -> Missing:
    if view is None:
        return Missing(at, Reason.AGENT_NOT_FOUND, f"{at}: there is no Agent {name!r}")
    return Missing(at, view.reason, f"{at}: Agent {name!r} is not ready: {view.message}")


def _no_match(p: Pass, at: str, selector: AgentSelector) -> Missing:
    wanted = ", ".join(selector.match_capabilities)
    able = matching(p, selector)
    if able:
        why = f"Agent {able[0].name!r}, which has {wanted}, is not ready: {able[0].message}"
        return Missing(at, able[0].reason, f"{at}: {why}")
    return Missing(at, Reason.AGENT_NOT_FOUND, f"{at}: no Agent has the capabilities {wanted}")


def agent_of_attempt(spec: WorkflowSpec, run: Run, attempt: str) -> str | None:
    """The Agent that an attempt of the run was sent to; None if that can't be told any more."""
    _, path, item, _, _ = attempt.rsplit(".", 4)
    specs: Mapping[str, NestedStep] = {
        step.name: step for step in [*(spec.steps or []), *(spec.on_exit or [])]
    }
    steps: Mapping[str, Step] | None = run.steps | run.exit_steps
    outer, *nested = path.split("~")
    names = [(outer, item)] if not nested else [(outer, nested[0]), (nested[-1], item)]
    node = None
    for name, index in names:
        found = specs.get(name)
        if found is None:
            return None
        step = (steps or {}).get(name)
        node = step.nodes[int(index)] if step and int(index) < len(step.nodes) else None
        steps = node.steps if node else None
        last, specs = found, {one.name: one for one in getattr(found, "steps", None) or []}
    return agent_of(last, node or Node())
