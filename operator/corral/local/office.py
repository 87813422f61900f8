"""What a local run shares with its child Workflows: people, places, money, memory."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.api.agent import AgentBudget
from corral.api.attempt import ModelUsage
from corral.api.model import ModelSpec
from corral.api.template import TemplateSpec
from corral.cost.prices import price
from corral.local.places import Places
from corral.local.tasks import Wake
from corral.local.team import Team
from corral.plan.agent_budgets import Budgets
from corral.plan.facts import ArtifactNeed, ConfigMapNeed, Facts, Lost, Memo, MemoNeed
from corral.plan.observed import ApprovalView, WantedApproval
from corral.plan.state import Consumption, priced
from corral.plan.views import Price

Decide = Callable[[str, WantedApproval], Awaitable[ApprovalView | None]]
"""Asks people about (Workflow's name, question); None if nobody can be asked."""


class StuckError(Exception):
    """The run can't go on: it waits for what nobody can do here."""


class NobodyDecidesError(StuckError):
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
    warn: Callable[[str], None] = lambda sentence: None
    """Told of what people should know, such as a share of a budget that is spent."""
    undecided: NobodyDecidesError | None = None
    """The first question that nobody can answer: nothing starts after it."""
    places: Places = field(init=False)
    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By run and hash: outputs that are too large for a state."""
    memos: dict[str, Memo] = field(default_factory=dict)
    flights: dict[str, str] = field(default_factory=dict)
    """By memo key: who works the result out."""
    budgets: Budgets = field(default_factory=Budgets)
    runs: set[Wake] = field(default_factory=set)
    """How to wake each run that has not ended."""
    _held_back: dict[Wake, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.places = Places(self.team)

    def hold_back(self, wake: Wake) -> None:
        """A run waits for money that is reserved now, or for a result that is worked out now."""
        self._held_back.setdefault(wake)

    def release(self) -> None:
        """Wakes those who were held back: something was let go of."""
        waiting, self._held_back = self._held_back, {}
        for wake in waiting:
            wake()

    def leave(self, wake: Wake) -> None:
        """A run has ended."""
        self.runs.discard(wake)
        self._held_back.pop(wake, None)
        self.places.forget(wake)

    def nobody_decides(self, error: NobodyDecidesError) -> None:
        """Nothing starts any more: what people are not asked can't be answered later either."""
        self.undecided = self.undecided or error
        for wake in self.runs:
            wake()

    def supply(self, facts: Facts) -> None:
        """Makes known all that was asked for."""
        for need in facts.needs:
            if isinstance(need, ArtifactNeed):
                facts.known[need] = self.value(need.run_id, need.sha256)
            elif isinstance(need, MemoNeed):
                facts.known[need] = self.memos.get(need.key)
            elif isinstance(need, ConfigMapNeed):
                facts.known[need] = self.config_maps.get(need.name, {}).get(need.key)
        facts.needs.clear()

    def value(self, run_id: str, sha256: str) -> Any:
        """A large output; ``Lost`` if it is not there."""
        return self.values.get((run_id, sha256), Lost(f"the output {sha256} is not there"))

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
