"""What Agents may still spend in the period that their budget is for.

What was spent is on the Agent's status, and here since that was written; what is reserved follows
from the states of the runs, and is here because several runs share an Agent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from corral.api.agent import AgentBudget, AgentBudgetStatus
from corral.plan.budget import Reservation, period
from corral.plan.keys import AgentKey, WorkflowKey
from corral.plan.observed import Grant
from corral.plan.state import Consumption
from corral.plan.times import parse, rfc3339


@dataclass
class _Account:
    begins: float
    ends: float
    cost: Decimal = Decimal(0)
    tokens: int = 0


class Budgets:
    """The accounts of all Agents that have a budget."""

    def __init__(self) -> None:
        self._accounts: dict[AgentKey, _Account] = {}
        self._held: dict[AgentKey, dict[str, Reservation]] = {}
        self._of_run: dict[WorkflowKey, dict[str, AgentKey]] = {}

    def open(
        self, agent: AgentKey, budget: AgentBudget, status: AgentBudgetStatus | None, now: float
    ) -> None:
        """Begins the period that ``now`` is in, unless it has begun.

        Args:
            status: what was written last; what it says of this very period counts.
        """
        begins, ends = period(budget.period, budget.time_zone, now)
        known = self._accounts.get(agent)
        if known is not None and (known.begins, known.ends) == (begins, ends):
            return
        account = self._accounts[agent] = _Account(begins, ends)
        if known is not None or status is None or status.period_start is None:
            return
        if int(parse(status.period_start)) == int(begins):
            account.cost = Decimal(status.spent_cost_usd or 0)
            account.tokens = status.spent_tokens or 0

    def close(self, agent: AgentKey) -> None:
        """The Agent has no budget any more."""
        self._accounts.pop(agent, None)

    def spend(self, agent: AgentKey, used: Consumption) -> None:
        """Books what an attempt used."""
        if (account := self._accounts.get(agent)) is not None:
            account.cost += used.cost or 0
            account.tokens += used.input_tokens + used.output_tokens

    def make_up(self, agent: AgentKey, used: Consumption) -> None:
        """Books what was used in the period and is not booked; never takes anything off."""
        if (account := self._accounts.get(agent)) is not None:
            account.cost = max(account.cost, used.cost or Decimal(0))
            account.tokens = max(account.tokens, used.input_tokens + used.output_tokens)

    def began_at(self, agent: AgentKey) -> float | None:
        """When its period began; None where there is no budget."""
        account = self._accounts.get(agent)
        return account.begins if account else None

    def reserve(
        self,
        run: WorkflowKey,
        agent: AgentKey,
        budget: AgentBudget | None,
        attempt: str,
        wanted: Reservation,
    ) -> Grant:
        """Holds what an attempt may use, if the period has that much left."""
        account = self._accounts.get(agent)
        if budget is None or account is None:
            return Grant.GRANTED
        held = self._held.setdefault(agent, {})
        spent = Reservation(account.cost, account.tokens)
        if _within(budget, [spent, *held.values(), wanted]):
            held[attempt] = wanted
            self._of_run.setdefault(run, {})[attempt] = agent
            return Grant.GRANTED
        return Grant.LATER if _within(budget, [spent, wanted]) and held else Grant.EXCEEDED

    def hold_only(
        self, run: WorkflowKey, running: Mapping[str, tuple[AgentKey, Reservation]]
    ) -> set[AgentKey]:
        """What a run's attempts hold, as its state says; returns whose Agents it was less for."""
        before = self._of_run.pop(run, {})
        freed = {agent for attempt, agent in before.items() if attempt not in running}
        for attempt, agent in before.items():
            self._held[agent].pop(attempt, None)
        for attempt, (agent, reservation) in running.items():
            self._held.setdefault(agent, {})[attempt] = reservation
        if running:
            self._of_run[run] = {attempt: agent for attempt, (agent, _) in running.items()}
        return freed

    def resets_at(self, agent: AgentKey) -> float | None:
        """When the next period begins."""
        account = self._accounts.get(agent)
        return account.ends if account else None

    def exhausted(self, agent: AgentKey, budget: AgentBudget) -> bool:
        """Whether nothing is left in this period."""
        account = self._accounts.get(agent)
        if account is None:
            return False
        cost, tokens = budget.max_cost_usd, budget.max_tokens
        return (cost is not None and account.cost >= Decimal(cost)) or (
            tokens is not None and account.tokens >= tokens
        )

    def agents(self) -> list[AgentKey]:
        """Those that have a budget."""
        return list(self._accounts)

    def used(self, agent: AgentKey, budget: AgentBudget) -> float | None:
        """The share of the period's money or tokens that is spent, whichever is more."""
        account = self._accounts.get(agent)
        if account is None:
            return None
        shares = []
        if budget.max_cost_usd is not None:
            shares.append(account.cost / Decimal(budget.max_cost_usd))
        if budget.max_tokens is not None:
            shares.append(Decimal(account.tokens) / budget.max_tokens)
        return float(max(shares, default=Decimal(0)))

    def status(self, agent: AgentKey) -> AgentBudgetStatus | None:
        """What the Agent's status shows."""
        account = self._accounts.get(agent)
        if account is None:
            return None
        held = self._held.get(agent, {}).values()
        reserved = sum((one.cost or Decimal(0) for one in held), Decimal(0))
        return AgentBudgetStatus(
            period_start=rfc3339(account.begins),
            resets_at=rfc3339(account.ends),
            spent_cost_usd=f"{account.cost.normalize():f}",
            reserved_cost_usd=f"{reserved.normalize():f}",
            spent_tokens=account.tokens,
        )


def _within(budget: AgentBudget, parts: list[Reservation]) -> bool:
    cost = sum((part.cost or Decimal(0) for part in parts), Decimal(0))
    tokens = sum(part.tokens for part in parts)
    if budget.max_cost_usd is not None and cost > Decimal(budget.max_cost_usd):
        return False
    return budget.max_tokens is None or tokens <= budget.max_tokens
