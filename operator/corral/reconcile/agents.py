"""Passes over Agents and Models: what they come to, and the default pool."""

import logging
from typing import Any, Literal

from corral.api.agent import AgentBudgetStatus, AgentSpec, AgentStatus
from corral.api.errors import ConditionType, Reason
from corral.api.model import ModelSpec, ModelStatus
from corral.api.pool import PoolSpec
from corral.api.types import Condition, Usage
from corral.kube.client import AGENTS, MODELS, POOLS, ApiError, Json
from corral.kube.events import post_event
from corral.plan.agent import Readiness, model_problems
from corral.plan.breaker import Circuit
from corral.plan.conditions import condition, is_true, merge
from corral.plan.names import (
    API_VERSION,
    LABEL_AGENT,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    TOOL_RUNNER,
    default_pool_name,
)
from corral.plan.state import Consumption
from corral.plan.times import is_zone, parse, rfc3339, rfc3339_millis
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.store import ObjectKey, key_of
from corral.reconcile.world import ANY_AGENT, World, read_spec, with_status

log = logging.getLogger(__name__)

USAGE_FLUSH = 10.0
"""Seconds between two writes of an Agent's usage."""
SETTLED_DEMAND_DELAY = 0.25
DEFAULT_MAX_REPLICAS = 10


class Agents:
    """The passes over Agents and Models."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._usage: dict[ObjectKey, Consumption] = {}
        self._flushed: dict[ObjectKey, float] = {}
        self._unsure: dict[ObjectKey, tuple[Usage, Consumption]] = {}
        """What a write makes of the usage, and by adding what: one that failed may be done."""
        self._problems: dict[ObjectKey, str] = {}
        self._spent: dict[ObjectKey, bool] = {}
        self._demand: dict[ObjectKey, tuple[int, int]] = {}
        """Queued and running attempts, as the pools were told last."""
        self._models: dict[ObjectKey, str] = {}
        """Of Models: which generation their Agents were told of."""

    def add_usage(self, key: ObjectKey, used: Consumption) -> None:
        """Books what an attempt used on its Agent; written with the next flush."""
        self._world.budgets.spend(key, used)
        if used.requests:
            self._usage.setdefault(key, Consumption()).add(used)
            self._world.wake.agent(key, USAGE_FLUSH)

    def make_up(self, key: ObjectKey, used: Consumption, in_period: Consumption) -> bool:
        """Adds what the ledger knows of an Agent, since it was made and in its budget's period, and
        its sums don't: an operator that was killed had not written it yet.

        False where a write is under way, so that nobody knows the sums for now.
        """
        obj = self._world.agents.get(key)
        if obj is None:
            return True
        if key in self._unsure:
            return False
        known = Consumption.of(AgentStatus.model_validate(obj.get("status") or {}).usage)
        known.add(self._usage.get(key, Consumption()))
        short = known.short_of(used)
        if short != Consumption():
            log.info("agent %s/%s: %d requests were in the ledger alone", *key, short.requests)
            self._usage.setdefault(key, Consumption()).add(short)
        self._world.budgets.make_up(key, in_period)
        self._world.wake.agent(key)
        return True

    def open_accounts(self) -> None:
        """Opens the accounts of all Agents that have a budget, before any run asks for a part."""
        for obj in list(self._world.agents):
            key = key_of(obj)
            self._budget(key, obj, self._world.agent_readiness(key)[1])

    def open_gates(self) -> None:
        """Takes up what a former leader left of all Models, before any run asks one."""
        now = self._world.kube.now()
        for obj in list(self._world.models):
            status = ModelStatus.model_validate(obj.get("status") or {})
            self._world.slots.gates.open(key_of(obj), status, now)

    async def reconcile(self, key: ObjectKey) -> None:
        """One pass over an Agent: status, default pool, and who waits for it.

        Raises:
            RetryLaterError: the API server refused for now.
        """
        if key in self._unsure:
            await self._make_sure(key)
        obj = self._world.agents.get(key)
        if obj is None and key[1] == TOOL_RUNNER:
            await self._tool_runner(key)
            return
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._world.budgets.close(key)
            self._usage.pop(key, None)
            self._unsure.pop(key, None)
            self._demand.pop(key, None)
            self._world.forget_agent(key)
            # Once: who waits for the Agent asks for this pass, and would be woken by it for ever.
            if self._problems.pop(key, None) is not None:
                self._wake_users(key)
                for pool in self._pools_of(key):
                    self._world.wake.pool((key[0], pool["metadata"]["name"]))
            return
        readiness, spec = self._world.agent_readiness(key)
        revision = self._world.agent_revision(key) if spec else None
        why, problem = self._world.capacity_problem(key, spec) if spec else (Reason.READY, "")
        # Whoever scaled a pool to zero knows; the Agent itself is all right.
        if readiness.ready and problem and why is not Reason.SCALING:
            readiness = Readiness(False, why, problem)
        told = f"{revision} {readiness.reason} {readiness.message} {problem}"
        if self._problems.get(key) != told:
            self._problems[key] = told
            self._wake_users(key)
            for pool in self._pools_of(key):
                self._world.wake.pool((key[0], pool["metadata"]["name"]))
        self._tell_demand(key)
        conditions = [*readiness.conditions(), *self._budget(key, obj, spec)]
        try:
            await self._write_status(key, obj, readiness, conditions, revision)
            if spec is not None:
                await self._default_pool(key, obj, spec.default_pool == "Enabled")
        except ApiError as error:
            if not error.not_found:
                raise RetryLaterError(str(error), error.retry_after) from error

    async def _tool_runner(self, key: ObjectKey) -> None:
        """Workers for tool calls without a model: a pool in every namespace that makes some."""
        self._tell_demand(key)
        try:
            await self._default_pool(key, None, True)
        except ApiError as error:
            raise RetryLaterError(str(error), error.retry_after) from error

    def _budget(self, key: ObjectKey, obj: Json, spec: AgentSpec | None) -> list[Condition]:
        """Opens the period that it is in, and says whether anything is left of it."""
        budgets, now = self._world.budgets, self._world.kube.now()
        if spec is None or spec.budget is None or not is_zone(spec.budget.time_zone):
            budgets.close(key)
            return []
        status = AgentStatus.model_validate(obj.get("status") or {})
        budgets.open(key, spec.budget, status.budget, now)
        ends = budgets.resets_at(key)
        if ends is not None:
            self._world.wake.agent(key, max(1.0, ends - now))
        spent = budgets.exhausted(key, spec.budget)
        if self._spent.get(key, False) != spent:
            self._spent[key] = spent
            self._wake_users(key)
        why = Reason.BUDGET_EXCEEDED if spent else Reason.BUDGET_AVAILABLE
        text = f"spent until {rfc3339(ends)}" if spent and ends is not None else ""
        return [condition(ConditionType.BUDGET_AVAILABLE, not spent, why, text)]

    async def _make_sure(self, key: ObjectKey) -> None:
        """Finds out whether a write that failed was done: its answer may have been lost."""
        try:
            self._world.agents.see(newest := await self._world.kube.get(AGENTS, *key))
        except ApiError as error:
            if not error.not_found:
                raise RetryLaterError(str(error), error.retry_after) from error
            del self._unsure[key]
            return
        usage, added = self._unsure.pop(key)
        if AgentStatus.model_validate(newest.get("status") or {}).usage != usage:
            self._usage.setdefault(key, Consumption()).add(added)

    def _tell_demand(self, key: ObjectKey) -> None:
        """More waiting steps reach the pools at once; what else changes may come in waves."""
        slots = self._world.slots
        demand = slots.queued(key), slots.running(key)
        before = self._demand.get(key, (0, 0))
        if demand == before:
            return
        self._demand[key] = demand
        delay = 0.0 if demand[0] > before[0] else SETTLED_DEMAND_DELAY
        for pool in self._pools_of(key):
            self._world.wake.pool((key[0], pool["metadata"]["name"]), delay)

    def _wake_users(self, key: ObjectKey) -> None:
        users = self._world.users
        for workflow in users.get(key, set()) | users.get((key[0], ANY_AGENT), set()):
            self._world.wake.workflow(workflow)

    async def _write_status(
        self,
        key: ObjectKey,
        obj: Json,
        readiness: Readiness,
        conditions: list[Condition],
        revision: str | None,
    ) -> None:
        now = self._world.kube.now()
        previous = AgentStatus.model_validate(obj.get("status") or {})
        generation = obj["metadata"]["generation"]
        pending = self._usage.get(key)
        since = now - self._flushed.get(key, 0.0)
        due = since >= USAGE_FLUSH
        if pending and not due:  # this pass may have come in place of the one that was asked for
            self._world.wake.agent(key, USAGE_FLUSH - since)
        usage = _sum(previous.usage, pending) if pending and due else previous.usage
        status = previous.model_copy(
            update={
                "observed_generation": generation,
                "revision": revision,
                "usage": usage,
                "budget": self._budget_status(key, previous, conditions, due),
                "conditions": merge(previous.conditions, conditions, generation, now),
            }
        )
        updated = with_status(obj, status)
        if updated["status"] == obj.get("status"):
            return
        if usage is not previous.usage:
            self._usage.pop(key, None)
        if usage is not previous.usage or status.budget != previous.budget:
            self._flushed[key] = now
        if pending and usage is not None and usage is not previous.usage:
            self._unsure[key] = (usage, pending)
        written = await self._world.put_status(AGENTS, updated)
        self._unsure.pop(key, None)
        was_ready = any(c.type == "Ready" and c.status == "True" for c in previous.conditions)
        if not readiness.ready and (was_ready or not previous.conditions):
            await post_event(
                self._world.kube, written, "Warning", readiness.reason, readiness.message
            )

    def _budget_status(
        self, key: ObjectKey, previous: AgentStatus, conditions: list[Condition], due: bool
    ) -> AgentBudgetStatus | None:
        """What is left; amounts change with the usage's writes, a new period at once."""
        now = self._world.budgets.status(key)
        before = previous.budget
        if now is None or before is None or before.period_start != now.period_start:
            return now
        held = is_true(previous.conditions, ConditionType.BUDGET_AVAILABLE)
        available = is_true(conditions, ConditionType.BUDGET_AVAILABLE)
        return now if due or held != available else before

    def _pools_of(self, key: ObjectKey) -> list[Json]:
        return [
            pool
            for pool in self._world.pools.in_namespace(key[0])
            if (pool.get("spec") or {}).get("agentRef", {}).get("name") == key[1]
            and not pool["metadata"].get("deletionTimestamp")
        ]

    async def _default_pool(self, key: ObjectKey, agent: Json | None, enabled: bool) -> None:
        """An Agent without a pool gets one on its first queued step, until another names it."""
        name = default_pool_name(key[1]) if agent else key[1]
        pools = self._pools_of(key)
        own = [pool for pool in pools if agent and _is_default(pool, agent)]
        others = [pool for pool in pools if not (agent and _is_default(pool, agent))]
        if own and (others or not enabled):
            for pool in own:
                await self._world.kube.delete(POOLS, key[0], name, pool["metadata"]["uid"])
        if pools or not enabled or not self._world.slots.queued(key):
            return
        spec: dict[str, Any] = {
            "agentRef": {"name": key[1]},
            "autoscaling": {
                "minReplicas": 0,
                "maxReplicas": DEFAULT_MAX_REPLICAS,
                "scaleDownStabilization": "60s",
            },
        }
        PoolSpec.model_validate(spec)
        body = {
            "apiVersion": API_VERSION,
            "kind": "AgentPool",
            "metadata": {
                "name": name,
                "namespace": key[0],
                "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_AGENT: key[1]},
                "ownerReferences": [_owner(agent)] if agent else [],
            },
            "spec": spec,
        }
        self._world.pools.see((await self._world.kube.make(POOLS, key[0], body))[0])
        self._world.wake.pool((key[0], name))

    async def reconcile_model(self, key: ObjectKey) -> None:
        """One pass over a Model: its conditions, its circuit, and who uses it or waits for it.

        Raises:
            RetryLaterError: the API server refused for now.
        """
        obj = self._world.models.get(key)
        gone = obj is None or obj["metadata"].get("deletionTimestamp")
        told = (
            ""
            if obj is None or gone
            else f"{obj['metadata']['uid']} {obj['metadata']['generation']}"
        )
        if self._models.get(key) != told:
            self._models[key] = told
            for agent in self._world.agents.in_namespace(key[0]):
                self._world.wake.agent((key[0], agent["metadata"]["name"]))
        if obj is None or gone:
            self._models.pop(key, None)
            self._world.slots.gates.close(key)
            return
        gates = self._world.slots.gates
        circuit = gates.call(key).circuit
        spec = read_spec(ModelSpec, obj)
        problems = model_problems(spec) if isinstance(spec, ModelSpec) else spec
        now = self._world.kube.now()
        previous = ModelStatus.model_validate(obj.get("status") or {})
        generation = obj["metadata"]["generation"]
        conditions = Readiness.of(problems).conditions()
        status = previous.model_copy(
            update={
                "observed_generation": generation,
                "circuit": circuit.state,
                "retry_at": _retry_at(previous, now, circuit, gates.clock()),
                "conditions": merge(previous.conditions, conditions, generation, now),
            }
        )
        updated = with_status(obj, status)
        if updated["status"] == obj.get("status"):
            return
        try:
            written = await self._world.put_status(MODELS, updated)
        except ApiError as error:
            if not error.not_found:
                raise RetryLaterError(str(error), error.retry_after) from error
            return
        if (previous.circuit or "Closed") != status.circuit:
            await self._announce_circuit(written, status)

    async def _announce_circuit(self, model: Json, status: ModelStatus) -> None:
        told: dict[str, tuple[Literal["Normal", "Warning"], Reason, str]] = {
            "Closed": ("Normal", Reason.CIRCUIT_CLOSED, "it answers again"),
            "HalfOpen": ("Normal", Reason.CIRCUIT_HALF_OPEN, "one attempt tries it"),
            "Open": ("Warning", Reason.CIRCUIT_OPEN, f"it is left alone until {status.retry_at}"),
        }
        kind, reason, text = told[status.circuit or "Closed"]
        await post_event(self._world.kube, model, kind, reason, text)


def _retry_at(previous: ModelStatus, now: float, circuit: Circuit, clock: float) -> str | None:
    """When a Model is asked again, by the API server's clock; the same for as long as it is."""
    if not circuit.waits(clock):
        return None
    at = now + circuit.retry_at - clock
    if previous.retry_at is not None and abs(parse(previous.retry_at) - at) < 1:
        return previous.retry_at
    return rfc3339_millis(at)


def _is_default(pool: Json, agent: Json) -> bool:
    owners = pool["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == agent["metadata"]["uid"] for owner in owners)


def _owner(agent: Json) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": "Agent",
        "name": agent["metadata"]["name"],
        "uid": agent["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _sum(usage: Usage | None, pending: Consumption) -> Usage:
    total = Consumption.of(usage)
    total.add(pending)
    return total.to_usage()
