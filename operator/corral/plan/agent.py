"""What an Agent comes to: its revision, and whether it can work."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from corral.api.agent import AgentLimits, AgentSpec, MCPServer
from corral.api.errors import ConditionType, Reason
from corral.api.model import OPENAI_COMPATIBLE, OWN_PROTOCOL, SIMULATED, ModelSpec
from corral.api.types import Condition
from corral.plan.conditions import condition
from corral.plan.expressions import compact_json
from corral.plan.names import digest
from corral.plan.times import is_zone
from corral.plan.validate import Problem, schema_problem

PROVIDERS = frozenset({*OPENAI_COMPATIBLE, *OWN_PROTOCOL, SIMULATED})

# An explicit list, so that a field that gets a default later does not roll every worker.
_AGENT_FIELDS = (
    "type",
    "description",
    "capabilities",
    "instructions",
    "modelRef",
    "modelSettings",
    "fallbackModels",
    "tools",
    "outputSchema",
    "limits",
    "a2a",
    "image",
)
_MODEL_FIELDS = ("provider", "name", "baseURL", "apiKeySecretRef", "timeout", "simulation")


def revision(agent: AgentSpec, models: Mapping[str, ModelSpec]) -> str:
    """A hash of what decides how the agent answers, of its models too; 16 hexadecimal digits."""
    of_agent = agent.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    of_models = {
        name: {
            key: value
            for key, value in spec.model_dump(
                mode="json", by_alias=True, exclude_defaults=True
            ).items()
            if key in _MODEL_FIELDS
        }
        for name, spec in sorted(models.items())
    }
    chosen = {key: of_agent[key] for key in _AGENT_FIELDS if key in of_agent}
    return digest(compact_json(chosen), compact_json(of_models), length=16)


def model_problems(spec: ModelSpec) -> list[Problem]:
    """What keeps a Model from being used."""
    problems = []
    if spec.provider not in PROVIDERS and spec.base_url is None:
        problems.append(
            Problem(
                "spec.provider",
                f"provider {spec.provider!r} is not supported yet without a baseURL that speaks "
                f"OpenAI's protocol; supported are {', '.join(sorted(PROVIDERS))}",
                Reason.NOT_SUPPORTED,
            )
        )
    if spec.provider != SIMULATED and not spec.name:
        problems.append(Problem("spec.name", f"provider {spec.provider} needs the model's name"))
    for index, rule in enumerate((spec.simulation.script if spec.simulation else None) or []):
        try:
            re.compile(rule.match)
        except re.error as error:
            field = f"spec.simulation.script[{index}].match"
            problems.append(Problem(field, f"is no regular expression: {error}"))
    return problems


def agent_problems(spec: AgentSpec, models: Mapping[str, ModelSpec]) -> list[Problem]:
    """What keeps an Agent from working; ``models`` are those of its namespace, by name."""
    problems = [*_unsupported(spec), *_tool_problems(spec)]
    if spec.output_schema is not None and (why := schema_problem(spec.output_schema)):
        problems.append(Problem("spec.outputSchema", why))
    if spec.budget is not None and not is_zone(spec.budget.time_zone):
        why = f"there is no time zone {spec.budget.time_zone!r}"
        problems.append(Problem("spec.budget.timeZone", why))
    if problems:
        return problems
    if spec.model_ref is None:
        return [Problem("spec.modelRef", "must be set")]
    references = [("spec.modelRef", spec.model_ref.name)]
    for index, fallback in enumerate(spec.fallback_models or []):
        references.append((f"spec.fallbackModels[{index}].modelRef", fallback.model_ref.name))
    for field, name in references:
        model = models.get(name)
        if model is None:
            found = [Problem(field, f"there is no Model {name!r}", Reason.MODEL_NOT_FOUND)]
        else:
            found = [
                Problem(field, f"Model {name!r}: {problem}", problem.reason)
                for problem in model_problems(model)
            ]
        problems += found
    return problems


def models_used(spec: AgentSpec, models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """The Models that an Agent may ask, its own and its fallbacks, by name; those that exist."""
    names = [spec.model_ref.name] if spec.model_ref else []
    names += [fallback.model_ref.name for fallback in spec.fallback_models or []]
    return {name: models[name] for name in names if name in models}


def tool_runner() -> AgentSpec:
    """The Agent without a Model whose workers make the tool calls of ``tool`` steps."""
    return AgentSpec.model_construct(
        type="Declarative",
        description="Makes the tool calls of tool steps.",
        limits=AgentLimits(timeout="5m"),
        instructions="",
        default_pool="Enabled",
    )


def approvers_of(spec: AgentSpec) -> dict[str, tuple[dict[str, str], ...]]:
    """Who may approve the calls of a tool, by what the model calls it.

    Nobody named means whoever has the verb ``approve``. Under the empty name stands everybody who
    may approve any: for a tool whose name can't be told.
    """
    found: dict[str, tuple[dict[str, str], ...]] = {"": ()}
    for name, server in _guarded(spec):
        named = tuple({"kind": one.kind, "name": one.name} for one in server.approvers or ())
        found[name] = named
        found[""] += tuple(one for one in named if one not in found[""])
    return found


def self_approved(spec: AgentSpec) -> frozenset[str]:
    """The tools whose calls whoever made the Workflow may approve, as the model calls them."""
    return frozenset(name for name, server in _guarded(spec) if server.allow_self_approval)


def _guarded(spec: AgentSpec) -> Iterator[tuple[str, MCPServer]]:
    """The tools that need approval: by their own names, and by those that two servers' clash."""
    for tool in spec.tools or []:
        for name in (tool.mcp.require_approval if tool.mcp else None) or []:
            assert tool.mcp is not None
            yield _called(name), tool.mcp
            yield _called(f"{tool.name}_{name}"), tool.mcp


def _called(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _tool_problems(spec: AgentSpec) -> Iterator[Problem]:
    names: set[str] = set()
    for index, tool in enumerate(spec.tools or []):
        field = f"spec.tools[{index}]"
        if tool.agent is not None:
            yield Problem(f"{field}.agent", "not supported yet", Reason.NOT_SUPPORTED)
        if tool.name in names:
            yield Problem(f"{field}.name", f"there are two tools {tool.name!r}")
        names.add(tool.name)
        headers: set[str] = set()
        for header in (tool.mcp.headers_from if tool.mcp else None) or []:
            if header.name.lower() in headers:
                yield Problem(f"{field}.mcp.headersFrom", f"{header.name!r} is there twice")
            headers.add(header.name.lower())


def _unsupported(spec: AgentSpec) -> Iterator[Problem]:
    unsupported = {
        "spec.a2a": spec.a2a,
        "spec.image": spec.image,
        "spec.type": spec.type if spec.type != "Declarative" else None,
    }
    for field, value in unsupported.items():
        if value is not None:
            yield Problem(field, "not supported yet", Reason.NOT_SUPPORTED)


@dataclass(frozen=True)
class Readiness:
    """Whether something can work, as conditions tell it."""

    ready: bool
    reason: Reason
    message: str

    @classmethod
    def of(cls, problems: list[Problem]) -> "Readiness":
        if not problems:
            return cls(True, Reason.READY, "")
        return cls(False, problems[0].reason, "; ".join(str(problem) for problem in problems))

    def conditions(self) -> list[Condition]:
        """Ready, Reconciling and Stalled; what is missing is waited for, what is wrong stalls."""
        waiting = self.reason in (Reason.MODEL_NOT_FOUND, Reason.POD_FAILED, Reason.POOL_NOT_FOUND)
        return [
            condition(ConditionType.READY, self.ready, self.reason, self.message),
            condition(
                ConditionType.RECONCILING,
                not self.ready and waiting,
                self.reason,
                self.message if waiting else "",
            ),
            condition(
                ConditionType.STALLED,
                not self.ready and not waiting,
                self.reason,
                "" if waiting else self.message,
            ),
        ]
