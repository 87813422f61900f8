"""Which Agent does a step: the one that it names, or one that can do what it asks for.

Of several that match, ``First`` takes the first by name, ``LeastLoaded`` the one with the fewest
queued and running attempts for each slot, ``Cheapest`` the one whose Model has the lowest price
of input and output together (one without a price comes last). Ties go by name.
"""

from collections.abc import Iterable
from decimal import Decimal

from corral.api.workflow import AgentSelector, NestedStep
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView, Pass
from corral.plan.state import Node, Step


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


def missing(p: Pass) -> list[tuple[str, str | None]]:
    """What unfinished steps need and is not there: (step's field, Agent's name or None).

    The name is None where no Agent that is ready matches a selector.
    """
    found: dict[str | tuple[str, ...], tuple[str, str | None]] = {}
    groups: list[tuple[str, Iterable[NestedStep], dict[str, Step]]] = [
        ("spec.steps", p.spec.steps or [], p.run.steps),
        ("spec.onExit", p.spec.on_exit or [], p.run.exit_steps),
    ]
    for path, specs, steps in groups:
        for index, outer in enumerate(specs):
            if outer.name in steps and steps[outer.name].final:
                continue
            at = f"{path}[{index}]"
            inner = getattr(outer, "steps", None) or []
            places = [(at, outer), *((f"{at}.steps[{n}]", one) for n, one in enumerate(inner))]
            for place, spec in places:
                if spec.agent_ref is not None:
                    view = p.agents.get(spec.agent_ref.name)
                    if view is None or not view.ready:
                        name = spec.agent_ref.name
                        found.setdefault(name, (f"{place}.agentRef", name))
                elif spec.agent_selector is not None:
                    wanted = tuple(spec.agent_selector.match_capabilities)
                    if not any(view.ready for view in matching(p, spec.agent_selector)):
                        found.setdefault(wanted, (f"{place}.agentSelector", None))
    return sorted(found.values(), key=lambda one: (one[1] or "", one[0]))
