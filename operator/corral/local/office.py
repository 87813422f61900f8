"""What a local run shares with its child Workflows: people, money, memory."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.api.agent import AgentBudget
from corral.api.attempt import ModelUsage
from corral.api.model import ModelSpec
from corral.api.template import TemplateSpec
from corral.cost.prices import price
from corral.local.team import Team
from corral.plan.agent_budgets import Budgets
from corral.plan.facts import ArtifactNeed, ConfigMapNeed, Facts, Lost, Memo, MemoNeed
from corral.plan.observed import ApprovalView, WantedApproval
from corral.plan.state import Consumption, priced
from corral.plan.views import Price

Decide = Callable[[str, WantedApproval], Awaitable[ApprovalView | None]]
"""Asks people about (Workflow's name, question); None if nobody can be asked."""


class NobodyDecidesError(Exception):
    """A step waits for a person, and there is nobody to ask."""

    def __init__(self, workflow: str, wanted: WantedApproval) -> None:
        super().__init__(f"step {wanted.step} of {workflow} waits for a person's approval")
        self.step = wanted.step


async def nobody(workflow: str, wanted: WantedApproval) -> ApprovalView | None:
    """Where no one can be asked."""
    return None


@dataclass
class Office:
    """All that outlasts one run in this process."""

    team: Team
    models: Mapping[str, ModelSpec]
    templates: Mapping[str, TemplateSpec] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    decide: Decide = nobody
    price: Price = price
    clock: Callable[[], float] = time.time
    busy: Counter[str] = field(default_factory=Counter)
    """By Agent: attempts under way."""
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By run and hash: outputs that are too large for a state."""
    memos: dict[str, Memo] = field(default_factory=dict)
    flights: dict[str, str] = field(default_factory=dict)
    """By memo key: who works the result out."""
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """How to wake each run."""
    budgets: Budgets = field(default_factory=Budgets)

    def landed(self) -> None:
        """Somebody has worked out what others may wait for."""
        for wake in self.waiting:
            wake()

    def supply(self, facts: Facts) -> None:
        """Makes known all that was asked for."""
        for need in facts.needs:
            if isinstance(need, ArtifactNeed):
                lost = Lost(f"the output {need.sha256} is not there")
                facts.known[need] = self.values.get((need.run_id, need.sha256), lost)
            elif isinstance(need, MemoNeed):
                facts.known[need] = self.memos.get(need.key)
            elif isinstance(need, ConfigMapNeed):
                facts.known[need] = self.config_maps.get(need.name, {}).get(need.key)
        facts.needs.clear()

    def budget_of(self, namespace: str, agent: str) -> AgentBudget | None:
        """An Agent's budget, its period opened."""
        member = self.team.get(agent)
        limits = member.spec.budget if member else None
        if limits is not None:
            self.budgets.open((namespace, agent), limits, None, self.clock())
        return limits

    def priced(self, usage: list[ModelUsage]) -> Consumption:
        """What was used, with its cost."""
        total = Consumption()
        for used in usage:
            total.add(priced(used, self.price(self.models.get(used.model_ref), used)))
        return total
