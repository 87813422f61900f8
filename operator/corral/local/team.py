"""The Agents of a local run: their views for the planner, and what answers for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.types import seconds
from corral.api.workflow import WorkflowSpec
from corral.local.keys import EnvironmentKeys
from corral.plan.agent import agent_problems, revision
from corral.plan.observed import AgentView
from corral.worker.keys import KeySource
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


Team = Mapping[str, Member]


def assemble(
    workflow: WorkflowSpec,
    agents: Mapping[str, AgentSpec],
    models: Mapping[str, ModelSpec],
    pools: Sequence[PoolSpec] = (),
    keys: EnvironmentKeys | None = None,
) -> Team:
    """The members that the workflow needs.

    Raises:
        NotRunnableError: an Agent, Model or key is missing, or not supported.
    """
    keys = keys or EnvironmentKeys(models)
    needed = dict.fromkeys(
        step.agent_ref.name
        for step in [*(workflow.steps or []), *(workflow.on_exit or [])]
        if step.agent_ref is not None
    )
    problems: dict[str, None] = {}
    team: dict[str, Member] = {}
    for name in needed:
        spec = agents.get(name)
        found = _problems(name, spec, models, keys)
        problems |= dict.fromkeys(found)
        if spec is not None and not found:
            team[name] = _member(name, spec, models, pools, keys)
    if problems:
        raise NotRunnableError(list(problems))
    return team


def _problems(
    name: str, spec: AgentSpec | None, models: Mapping[str, ModelSpec], keys: EnvironmentKeys
) -> list[str]:
    if spec is None:
        return [f"there is no Agent {name!r} in the files; a local run has nothing else"]
    found = [f"Agent {name!r}: {problem}" for problem in agent_problems(spec, models)]
    if not found and spec.model_ref is not None and (no_key := keys.missing(spec.model_ref.name)):
        found.append(no_key)
    return found


def _member(
    name: str,
    spec: AgentSpec,
    models: Mapping[str, ModelSpec],
    pools: Sequence[PoolSpec],
    keys: KeySource,
) -> Member:
    own = {spec.model_ref.name: models[spec.model_ref.name]} if spec.model_ref else {}
    view = AgentView(name, revision(spec, own), seconds(spec.limits.timeout))
    return Member(view, AgentRuntime(spec, name, own, keys), capacity(name, pools))


def capacity(agent: str, pools: Sequence[PoolSpec]) -> int:
    """How many attempts of an Agent its pools would run at once, fully scaled up."""
    of_agent = [pool for pool in pools if pool.agent_ref.name == agent]
    if not of_agent:
        return DEFAULT_CONCURRENCY
    return sum(
        pool.concurrency * (pool.autoscaling.max_replicas if pool.autoscaling else pool.replicas)
        for pool in of_agent
    )
