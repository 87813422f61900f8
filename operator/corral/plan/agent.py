"""What an Agent comes to: its revision, and whether it can work."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from corral.api.agent import AgentSpec
from corral.api.errors import ConditionType, Reason
from corral.api.model import OPENAI_COMPATIBLE, OWN_PROTOCOL, SIMULATED, ModelSpec
from corral.api.types import Condition
from corral.plan.conditions import condition
from corral.plan.expressions import compact_json
from corral.plan.names import digest
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
    for attribute, field in (("limits", "limits"), ("circuit_breaker", "circuitBreaker")):
        if getattr(spec, attribute) is not None:
            problems.append(Problem(f"spec.{field}", "not supported yet", Reason.NOT_SUPPORTED))
    for index, rule in enumerate((spec.simulation and spec.simulation.script) or []):
        if rule.tool_calls is not None:
            field = f"spec.simulation.script[{index}].toolCalls"
            problems.append(Problem(field, "not supported yet", Reason.NOT_SUPPORTED))
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
    problems = list(_unsupported(spec))
    if spec.output_schema is not None and (why := schema_problem(spec.output_schema)):
        problems.append(Problem("spec.outputSchema", why))
    if problems:
        return problems
    if spec.model_ref is None:
        return [Problem("spec.modelRef", "must be set")]
    name = spec.model_ref.name
    model = models.get(name)
    if model is None:
        return [Problem("spec.modelRef", f"there is no Model {name!r}", Reason.MODEL_NOT_FOUND)]
    return [
        Problem("spec.modelRef", f"Model {name!r}: {problem}", problem.reason)
        for problem in model_problems(model)
    ]


def _unsupported(spec: AgentSpec) -> Iterator[Problem]:
    unsupported = {
        "spec.tools": spec.tools,
        "spec.fallbackModels": spec.fallback_models,
        "spec.budget": spec.budget,
        "spec.a2a": spec.a2a,
        "spec.image": spec.image,
        "spec.limits.maxCostUSD": spec.limits.max_cost_usd,
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
