"""Local runs for tests: simulated models, any number of Agents, templates and people."""

import asyncio
from collections.abc import Mapping
from typing import Any

import yaml

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.local.office import Decide, Office, nobody
from corral.local.runner import LocalRun
from corral.local.team import assemble
from corral.plan.observed import ApprovalView, WantedApproval
from corral.plan.validate import workflow_problems

MODEL = """
provider: simulated
price: {inputPerMillionUSD: "100", outputPerMillionUSD: "0"}
simulation:
  inputTokens: 100
  outputTokens: 10
  reply: done
  script:
  - {match: ^score 1, reply: '{"score": 1}'}
  - {match: ^score 2, reply: '{"score": 5}'}
  - {match: ^broken, reply: not JSON}
"""
A_CALL = "0.01"
"""US dollars of one call."""


def office(
    workflow: WorkflowSpec,
    *,
    agents: str = "worker: {modelRef: {name: m}}",
    templates: Mapping[str, str] | None = None,
    decide: Decide = nobody,
    config_maps: Mapping[str, Mapping[str, str]] | None = None,
    pools: str = "[]",
    latency: str = "0s",
) -> Office:
    """What a run of the workflow shares with its children; every call costs a cent."""
    model = yaml.safe_load(MODEL)
    model["simulation"]["latency"] = latency
    models = {"m": ModelSpec.model_validate(model)}
    found = {name: AgentSpec.model_validate(spec) for name, spec in yaml.safe_load(agents).items()}
    of_templates = {
        name: TemplateSpec.model_validate(yaml.safe_load(text))
        for name, text in (templates or {}).items()
    }
    of_pools = [PoolSpec.model_validate(one) for one in yaml.safe_load(pools)]
    team = assemble(workflow, found, models, of_pools, templates=of_templates)
    return Office(team, models, of_templates, config_maps or {}, decide)


def run_of(text: str, **options: Any) -> LocalRun:
    """A run of the Workflow ``w``."""
    spec = WorkflowSpec.model_validate(yaml.safe_load(text))
    assert workflow_problems(spec) == []
    return LocalRun("w", "local", spec, office(spec, **options))


async def finished(text: str, **options: Any) -> WorkflowStatus:
    """How it ended."""
    async with asyncio.timeout(10):
        return await run_of(text, **options).run()


async def approve(workflow: str, wanted: WantedApproval) -> ApprovalView | None:
    """Somebody who agrees to everything."""
    return ApprovalView("Approve", "ann", "fine", dict.fromkeys(wanted.allow_edit, "7"))
