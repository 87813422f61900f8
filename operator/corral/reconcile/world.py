"""What all passes share: the stores, the slots, the calls, and how to ask for another pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from corral.api.agent import AgentSpec
from corral.api.attempt import AttemptReport
from corral.api.errors import Reason
from corral.api.model import ModelSpec
from corral.api.types import seconds
from corral.cost.prices import price
from corral.dispatch.attempts import Attempts
from corral.dispatch.client import WorkerClient
from corral.kube.client import Json, Kind, Kube
from corral.kube.tokens import Tokens
from corral.plan.agent import Readiness, agent_problems, revision
from corral.plan.observed import AgentView
from corral.plan.state import Consumption, priced
from corral.plan.validate import Problem
from corral.reconcile.slots import Slots, WorkflowKey
from corral.reconcile.store import ObjectKey, PodStore, Store

Spec = TypeVar("Spec", bound=BaseModel)


def read_spec(model: type[Spec], obj: Json) -> Spec | list[Problem]:
    """An object's spec as the API server sent it: unknown fields are kept, or what is wrong."""
    try:
        return model.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        return [
            Problem("spec." + ".".join(str(part) for part in one["loc"]), one["msg"])
            for one in error.errors(include_url=False)
        ]


@dataclass
class Wake:
    """How to ask for passes; the controller fills it in."""

    workflow: Callable[..., None] = lambda *_: None
    agent: Callable[..., None] = lambda *_: None
    model: Callable[..., None] = lambda *_: None
    pool: Callable[..., None] = lambda *_: None


@dataclass
class World:
    kube: Kube
    tokens: Tokens
    worker: WorkerClient
    attempts: Attempts
    image: str
    """The image of worker pods."""
    image_revision: str = ""
    slots: Slots = field(default_factory=Slots)
    workflows: Store = field(default_factory=Store)
    agents: Store = field(default_factory=Store)
    models: Store = field(default_factory=Store)
    pools: Store = field(default_factory=Store)
    pods: PodStore = field(default_factory=PodStore)
    capacity_problems: dict[ObjectKey, str] = field(default_factory=dict)
    """By Agent: why its workers can't start."""
    users: dict[ObjectKey, set[WorkflowKey]] = field(default_factory=dict)
    """By Agent: the unfinished workflows that refer to it."""
    wake: Wake = field(default_factory=Wake)

    def store(self, kind: Kind) -> Store:
        """The store of a kind that is watched."""
        stores: dict[str, Store] = {
            "workflows": self.workflows,
            "agents": self.agents,
            "models": self.models,
            "agentpools": self.pools,
            "pods": self.pods,
        }
        return stores[kind.plural]

    def models_of(self, namespace: str) -> dict[str, ModelSpec]:
        """The Models of a namespace that can be read, by name."""
        found = {}
        for obj in self.models.in_namespace(namespace):
            spec = read_spec(ModelSpec, obj)
            if isinstance(spec, ModelSpec):
                found[obj["metadata"]["name"]] = spec
        return found

    def agent_spec(self, key: ObjectKey) -> AgentSpec | list[Problem] | None:
        obj = self.agents.get(key)
        return None if obj is None else read_spec(AgentSpec, obj)

    def agent_readiness(self, key: ObjectKey) -> tuple[Readiness, AgentSpec | None]:
        """Whether an Agent that exists can work."""
        spec = self.agent_spec(key)
        if spec is None:
            return Readiness(False, Reason.AGENT_NOT_FOUND, f"there is no Agent {key[1]!r}"), None
        if isinstance(spec, list):
            return Readiness.of(spec), None
        return Readiness.of(agent_problems(spec, self.models_of(key[0]))), spec

    def used_models(self, namespace: str, spec: AgentSpec) -> dict[str, ModelSpec]:
        """The Models that an Agent refers to, by name."""
        models = self.models_of(namespace)
        name = spec.model_ref.name if spec.model_ref else ""
        return {name: models[name]} if name in models else {}

    def agent_revision(self, key: ObjectKey, spec: AgentSpec) -> str:
        return revision(spec, self.used_models(key[0], spec))

    def agent_view(self, key: ObjectKey) -> AgentView | None:
        """An Agent as a workflow sees it; None if there is none."""
        if self.agents.get(key) is None:
            return None
        readiness, spec = self.agent_readiness(key)
        if spec is None:
            return AgentView(key[1], "", 0, False, readiness.reason, readiness.message)
        return AgentView(
            name=key[1],
            revision=self.agent_revision(key, spec),
            timeout=seconds(spec.limits.timeout),
            ready=readiness.ready,
            reason=readiness.reason,
            message=readiness.message,
            capacity_problem=self.capacity_problems.get(key, ""),
        )

    def book(self, namespace: str) -> Callable[[AttemptReport], Consumption]:
        """Prices what an attempt in that namespace used."""

        def consumption(report: AttemptReport) -> Consumption:
            models = self.models_of(namespace)
            total = Consumption()
            for usage in report.usage:
                total.add(priced(usage, price(models.get(usage.model_ref), usage)))
            return total

        return consumption


def with_status(obj: Json, status: BaseModel) -> Json:
    """The object with a new status; fields of a newer version's status are kept."""
    known = {info.alias or name for name, info in type(status).model_fields.items()}
    kept: dict[str, Any] = {
        key: value for key, value in (obj.get("status") or {}).items() if key not in known
    }
    new = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**obj, "status": {**kept, **new}}
