"""What all passes share: the stores, the slots, the calls, and how to ask for another pass."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from corral.api.agent import AgentBudget, AgentSpec
from corral.api.attempt import AttemptReport, ModelUsage
from corral.api.errors import Reason
from corral.api.model import ModelSpec
from corral.cost.prices import price, source_of
from corral.dispatch.attempts import Attempts
from corral.dispatch.client import WorkerClient
from corral.kube.client import ApiError, Json, Kind, Kube
from corral.kube.tokens import Tokens
from corral.ledger.writer import Ledger
from corral.plan.agent import (
    Readiness,
    agent_problems,
    models_used,
    revision,
    tool_runner,
)
from corral.plan.agent_budgets import Budgets
from corral.plan.keys import WorkflowKey
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView, ModelView, Rates
from corral.plan.state import Charge, priced
from corral.plan.validate import Problem
from corral.plan.views import fallback_of, models_of, rates_of, view_of
from corral.reconcile.contacts import Contacts
from corral.reconcile.flights import Flights
from corral.reconcile.library import Library
from corral.reconcile.slots import Slots
from corral.reconcile.store import ObjectKey, PodStore, Store
from corral.tracing.tracer import Tracer

Spec = TypeVar("Spec", bound=BaseModel)

ANY_AGENT = "*"
"""Among the users of Agents: who looks for one by what it can do."""


def read_spec(model: type[Spec], obj: Json) -> Spec | list[Problem]:
    """An object's spec as the API server sent it: unknown fields are kept, or what is wrong."""
    try:
        return model.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        return [
            Problem("spec." + ".".join(str(part) for part in one["loc"]), one["msg"])
            for one in error.errors(include_url=False)
        ]


@dataclass(frozen=True)
class Capacity:
    """What a pool does for its Agent."""

    ready: bool
    """Whether a worker takes steps."""
    problem: str
    """Why a worker can't start, in a sentence; empty if all can."""


@dataclass
class Wake:
    """How to ask for passes; the controller fills it in."""

    workflow: Callable[..., None] = lambda *_: None
    agent: Callable[..., None] = lambda *_: None
    model: Callable[..., None] = lambda *_: None
    pool: Callable[..., None] = lambda *_: None
    cron: Callable[..., None] = lambda *_: None


@dataclass(frozen=True)
class _Derived:
    changes: tuple[int, int]
    readiness: Readiness
    spec: AgentSpec | None
    revision: str
    rates: Rates
    fallback: tuple[str, Rates] | None
    models: tuple[ModelView, ...]


@dataclass
class World:
    kube: Kube
    tokens: Tokens
    worker: WorkerClient
    attempts: Attempts
    library: Library
    image: str
    """The image of worker pods."""
    image_revision: str = ""
    ledger: Ledger = field(default_factory=lambda: Ledger(None))
    tracer: Tracer = field(default_factory=Tracer)
    budgets: Budgets = field(default_factory=Budgets)
    flights: Flights = field(default_factory=Flights)
    slots: Slots = field(default_factory=Slots)
    contacts: Contacts = field(default_factory=Contacts)
    workflows: Store = field(default_factory=Store)
    agents: Store = field(default_factory=Store)
    models: Store = field(default_factory=Store)
    pools: Store = field(default_factory=Store)
    templates: Store = field(default_factory=Store)
    crons: Store = field(default_factory=Store)
    approvals: Store = field(default_factory=Store)
    pods: PodStore = field(default_factory=PodStore)
    capacity: dict[ObjectKey, dict[str, Capacity]] = field(default_factory=dict)
    """By Agent and pool: whether it has workers, or why they can't start."""
    users: dict[ObjectKey, set[WorkflowKey]] = field(default_factory=dict)
    """By Agent: the unfinished workflows that refer to it."""
    wake: Wake = field(default_factory=Wake)
    patience_until: float = 0.0
    """Until when nothing is given up as late: old results may still be fetched."""
    _models: dict[str, tuple[int, dict[str, ModelSpec]]] = field(default_factory=dict)
    _agents: dict[ObjectKey, "_Derived"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots.gates.specs = self.models_of

    async def put_status(self, kind: Kind, obj: Json) -> Json:
        """Writes a status and takes what came of it; where somebody wrote before, what they wrote.

        Raises:
            ApiError: it was not written; a conflict, or why the newest state can't be read.
        """
        meta, store = obj["metadata"], self.store(kind)
        try:
            written = await self.kube.put_status(kind, obj)
        except ApiError as error:
            if error.conflict:
                store.see(await self.kube.get(kind, meta["namespace"], meta["name"]))
            raise
        store.see(written)
        return written

    def forget_agent(self, key: ObjectKey) -> None:
        """Frees what is kept about an Agent that is gone."""
        self._agents.pop(key, None)

    def store(self, kind: Kind) -> Store:
        """The store of a kind that is watched."""
        stores: dict[str, Store] = {
            "workflows": self.workflows,
            "agents": self.agents,
            "models": self.models,
            "agentpools": self.pools,
            "workflowtemplates": self.templates,
            "cronworkflows": self.crons,
            "approvalrequests": self.approvals,
            "pods": self.pods,
        }
        return stores[kind.plural]

    def models_of(self, namespace: str) -> dict[str, ModelSpec]:
        """The Models of a namespace that can be read, by name."""
        changes = self.models.changes(namespace)
        known = self._models.get(namespace)
        if known is None or known[0] != changes:
            known = self._models[namespace] = (changes, self._read_models(namespace))
        return known[1]

    def _read_models(self, namespace: str) -> dict[str, ModelSpec]:
        found = {}
        for obj in self.models.in_namespace(namespace):
            spec = read_spec(ModelSpec, obj)
            if isinstance(spec, ModelSpec):
                found[obj["metadata"]["name"]] = spec
        return found

    def agent_spec(self, key: ObjectKey) -> AgentSpec | list[Problem] | None:
        """An Agent's spec, or what is wrong with it; None if there is none."""
        obj = self.agents.get(key)
        if obj is None and key[1] == TOOL_RUNNER:
            return tool_runner()
        return None if obj is None else read_spec(AgentSpec, obj)

    def _derived(self, key: ObjectKey) -> "_Derived":
        """What follows from an Agent and its Models: read once a change, not once a pass."""
        changes = (self.agents.changes(key[0]), self.models.changes(key[0]))
        known = self._agents.get(key)
        if known is None or known.changes != changes:
            readiness, spec = self._judge(key)
            used = self.used_models(key[0], spec) if spec else {}
            known = _Derived(
                changes,
                readiness,
                spec,
                revision(spec, used) if spec else "",
                rates_of(spec, used, price) if spec else Rates(),
                fallback_of(spec, used, price) if spec else None,
                models_of(spec, used, price) if spec else (),
            )
            self._agents[key] = known
        return known

    def agent_readiness(self, key: ObjectKey) -> tuple[Readiness, AgentSpec | None]:
        """Whether an Agent that exists can work."""
        derived = self._derived(key)
        return derived.readiness, derived.spec

    def _judge(self, key: ObjectKey) -> tuple[Readiness, AgentSpec | None]:
        spec = self.agent_spec(key)
        if spec is None:
            return Readiness(False, Reason.AGENT_NOT_FOUND, f"there is no Agent {key[1]!r}"), None
        if isinstance(spec, list):
            return Readiness.of(spec), None
        if self.agents.get(key) is None:
            return Readiness.of([]), spec  # the tool runner, which has no Model
        return Readiness.of(agent_problems(spec, self.models_of(key[0]))), spec

    def used_models(self, namespace: str, spec: AgentSpec) -> dict[str, ModelSpec]:
        """The Models that an Agent refers to, by name."""
        return models_used(spec, self.models_of(namespace))

    def agent_revision(self, key: ObjectKey) -> str:
        """What tells how an Agent that can be read answers; empty for any other."""
        return self._derived(key).revision

    def agent_budget(self, key: ObjectKey) -> AgentBudget | None:
        """The budget of an Agent that can be read and has one."""
        if self.agents.get(key) is None:
            return None
        spec = self._derived(key).spec
        return spec.budget if spec else None

    def agent_view(self, key: ObjectKey) -> AgentView | None:
        """An Agent as a workflow sees it; None if there is none."""
        if self.agents.get(key) is None and key[1] != TOOL_RUNNER:
            return None
        derived = self._derived(key)
        readiness, spec = derived.readiness, derived.spec
        if spec is None:
            return AgentView(key[1], "", 0, False, readiness.reason, readiness.message)
        view = view_of(key[1], spec, derived.revision, derived.rates, derived.fallback)
        return replace(
            view,
            ready=readiness.ready,
            reason=readiness.reason,
            message=readiness.message,
            capacity_problem=self.capacity_problem(key, spec)[1],
            busy=self.slots.queued(key) + self.slots.running(key),
            slots=self.slots.capacity(key),
            resets_at=self.budgets.resets_at(key),
            models=tuple(
                replace(model, may_follow=self.slots.gates.may_follow((key[0], model.name)))
                for model in derived.models
            ),
        )

    def pools_of(self, agent: ObjectKey) -> dict[str, Json]:
        """The specs of the pools that name an Agent, by name."""
        return {
            pool["metadata"]["name"]: pool["spec"]
            for pool in self.pools.in_namespace(agent[0])
            if (pool.get("spec") or {}).get("agentRef", {}).get("name") == agent[1]
        }

    def capacity_problem(self, key: ObjectKey, spec: AgentSpec) -> tuple[Reason, str]:
        """Why the Agent has no worker and gets none, in a sentence; empty if that isn't so."""
        pools = self.pools_of(key)
        if not pools:
            if spec.default_pool == "Enabled":
                return Reason.READY, ""
            return Reason.POOL_NOT_FOUND, "no AgentPool names it, and its defaultPool is Disabled"
        known = {name: found for name, found in self.capacity.get(key, {}).items() if name in pools}
        if any(found.ready for found in known.values()):
            return Reason.READY, ""
        for name, found in sorted(known.items()):
            if found.problem:
                return Reason.POD_FAILED, f"pool {name}: {found.problem}"
        if all(
            pool.get("replicas") == 0 and not pool.get("autoscaling") for pool in pools.values()
        ):
            return Reason.SCALING, f"pool {min(pools)} has replicas: 0"
        return Reason.READY, ""

    def price(self, namespace: str) -> Callable[[ModelUsage], Decimal | None]:
        """Prices one usage in that namespace; None where nobody knows a price."""
        models = self.models_of(namespace)
        return lambda usage: price(models.get(usage.model_ref), usage)

    def book(self, namespace: str) -> Callable[[AttemptReport], list[Charge]]:
        """Prices what an attempt in that namespace used."""

        def charges(report: AttemptReport) -> list[Charge]:
            models = self.models_of(namespace)
            found = []
            for usage in report.usage:
                spec = models.get(usage.model_ref)
                used = priced(usage, price(spec, usage))
                found.append(Charge(usage, used, None if used.cost is None else source_of(spec)))
            return found

        return charges


def with_status(obj: Json, status: BaseModel) -> Json:
    """The object with a new status; fields of a newer version's status are kept."""
    known = {info.alias or name for name, info in type(status).model_fields.items()}
    kept: dict[str, Any] = {
        key: value for key, value in (obj.get("status") or {}).items() if key not in known
    }
    new = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**obj, "status": {**kept, **new}}
