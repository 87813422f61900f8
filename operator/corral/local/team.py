"""The Agents of a local run: their views for the planner, and what answers for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.workflow import NestedStep, WorkflowSpec
from corral.cost.prices import price
from corral.local.headers import EnvironmentHeaders
from corral.local.keys import EnvironmentKeys
from corral.plan.agent import agent_problems, models_used, revision, tool_runner
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView
from corral.plan.selection import all_steps
from corral.plan.template import called_by, cycle
from corral.plan.views import fallback_of, rates_of, view_of
from corral.worker.headers import missing_header
from corral.worker.runtime import AgentRuntime

DEFAULT_CONCURRENCY = 16
"""Attempts at once of an Agent without a pool: one worker's default."""


class NotRunnableError(Exception):
    """Something is missing without which the workflow can't run here; one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Member:
    """An Agent that can work."""

    view: AgentView
    runtime: AgentRuntime
    capacity: int
    """Attempts at once."""
    spec: AgentSpec


Team = Mapping[str, Member]


def assemble(
    workflow: WorkflowSpec,
    agents: Mapping[str, AgentSpec],
    models: Mapping[str, ModelSpec],
    pools: Sequence[PoolSpec] = (),
    keys: EnvironmentKeys | None = None,
    templates: Mapping[str, TemplateSpec] | None = None,
    config_maps: Mapping[str, Mapping[str, str]] | None = None,
) -> Team:
    """The members that the workflow needs, and the templates that it reaches.

    An Agent that is only looked for by what it can do is left out if it can't work.

    Args:
        config_maps: their data by name; None where they are looked for when they are needed.

    Raises:
        NotRunnableError: an Agent, Model, key, header, template or ConfigMap is missing, or not
            supported.
    """
    keys = keys or EnvironmentKeys(models)
    headers = EnvironmentHeaders()
    problems: dict[str, None] = {}
    if workflow.retry_of is not None:
        problems["spec.retryOf: a local run has no earlier one to take anything over from"] = None
    steps = all_steps(_reached(workflow, templates or {}, problems))
    if config_maps is not None:
        problems |= dict.fromkeys(_missing_lists(steps, config_maps))
    named = dict.fromkeys(step.agent_ref.name for step in steps if step.agent_ref is not None)
    sought = agents if any(step.agent_selector is not None for step in steps) else {}
    team: dict[str, Member] = {}
    unfit: dict[str, list[str]] = {}
    for name in {**named, **dict.fromkeys(sought)}:
        spec = agents.get(name)
        found = _problems(name, spec, models, keys, headers)
        if name in named:
            problems |= dict.fromkeys(found)
        if spec is not None and not found:
            team[name] = _member(name, spec, models, pools, keys, headers)
        elif name not in named:
            unfit[name] = found
    problems |= dict.fromkeys(_without_agent(steps, team, unfit, agents))
    if any(step.tool is not None for step in steps):
        team[TOOL_RUNNER] = _member(TOOL_RUNNER, tool_runner(), {}, (), keys, headers)
    if problems:
        raise NotRunnableError(list(problems))
    return team


def _reached(
    workflow: WorkflowSpec, templates: Mapping[str, TemplateSpec], problems: dict[str, None]
) -> Iterable[NestedStep]:
    """The steps of the workflow, and of all templates that they call."""
    found = [*(workflow.steps or []), *(workflow.on_exit or [])]
    pending, seen = called_by(workflow), set[str]()
    for name in pending:
        if path := cycle(name, templates):
            problems[f"WorkflowTemplate {path[0]!r} reaches itself: {' → '.join(path)}"] = None
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        template = templates.get(name)
        if template is None:
            problems[f"there is no WorkflowTemplate {name!r} in the files"] = None
            continue
        found += [*template.steps, *(template.on_exit or [])]
        pending += called_by(template)
    return found


def _missing_lists(
    steps: Iterable[NestedStep], config_maps: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    """ConfigMaps that fan-outs take their items from, and that are not in the files."""
    for step in steps:
        ref = step.for_each.config_map_key_ref if step.for_each else None
        if ref is not None and ref.key not in config_maps.get(ref.name, {}):
            yield f"there is no ConfigMap {ref.name!r} with key {ref.key!r} in the files"


def _without_agent(
    steps: Iterable[NestedStep],
    team: Mapping[str, Member],
    unfit: Mapping[str, list[str]],
    agents: Mapping[str, AgentSpec],
) -> Iterator[str]:
    """What is asked for and no Agent of the files can do."""
    for step in steps:
        if step.agent_selector is None:
            continue
        wanted = set(step.agent_selector.match_capabilities)
        if any(wanted <= member.view.capabilities for member in team.values()):
            continue
        able = [name for name in unfit if wanted <= set(agents[name].capabilities or ())]
        for name in able:
            yield from unfit[name]
        if not able:
            yield f"no Agent in the files has the capabilities {', '.join(sorted(wanted))}"


def _problems(
    name: str,
    spec: AgentSpec | None,
    models: Mapping[str, ModelSpec],
    keys: EnvironmentKeys,
    headers: EnvironmentHeaders,
) -> list[str]:
    if spec is None:
        return [f"there is no Agent {name!r} in the files; a local run has nothing else"]
    found = [f"Agent {name!r}: {problem}" for problem in agent_problems(spec, models)]
    if found:
        return found
    found = [why for model in models_used(spec, models) if (why := keys.missing(model))]
    if missing_header(spec.tools, headers) is not None:
        found += [f"Agent {name!r}: {why}" for why in headers.missing(spec.tools or [])]
    return found


def _member(
    name: str,
    spec: AgentSpec,
    models: Mapping[str, ModelSpec],
    pools: Sequence[PoolSpec],
    keys: EnvironmentKeys,
    headers: EnvironmentHeaders,
) -> Member:
    own = models_used(spec, models)
    rates, fallback = rates_of(spec, own, price), fallback_of(spec, own, price)
    view = view_of(name, spec, revision(spec, own), rates, fallback)
    return Member(view, AgentRuntime(spec, name, own, keys, headers), capacity(name, pools), spec)


def capacity(agent: str, pools: Sequence[PoolSpec]) -> int:
    """How many attempts of an Agent its pools would run at once, fully scaled up."""
    of_agent = [pool for pool in pools if pool.agent_ref.name == agent]
    if not of_agent:
        return DEFAULT_CONCURRENCY
    return sum(
        pool.concurrency * (pool.autoscaling.max_replicas if pool.autoscaling else pool.replicas)
        for pool in of_agent
    )
