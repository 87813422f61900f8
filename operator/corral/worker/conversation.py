"""The turns of one attempt with a real model, on pydantic-ai. Imported on the first use."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from pydantic_ai import Agent, ModelRetry, RunContext, StructuredDict, ToolOutput, UsageLimits
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import OWN_PROTOCOL, ModelSpec
from corral.worker.addresses import unsupported
from corral.worker.calls import CallContext, MeteredModel
from corral.worker.failures import classify
from corral.worker.keys import KeySource
from corral.worker.outcome import AttemptFailedError
from corral.worker.providers import Clients
from corral.worker.question import Question
from corral.worker.schema import OutputSchema
from corral.worker.simulated import MAX_REASKS

_HEADER_VALUE = re.compile(r"[!-~]{1,512}")
"""What may go into a header: a correlation id is whatever a person wrote."""


@dataclass
class _Run:
    """What output validation knows of the attempt."""

    schema: OutputSchema | None
    problem: str = ""


class Conversation:
    """Asks real models on behalf of one Agent."""

    def __init__(self, agent: AgentSpec, name: str, keys: KeySource) -> None:
        self._spec = agent
        self._keys = keys
        self._clients = Clients()
        self._simulated: dict[str, bool] = {}
        common: dict[str, Any] = {
            "name": name,
            "instructions": agent.instructions or None,
            "deps_type": _Run,
            "retries": {"tools": MAX_REASKS, "output": MAX_REASKS},
        }
        self._text: Agent[_Run, Any] = Agent(output_type=str, **common)
        self._structured: Agent[_Run, Any] = Agent(
            output_type=ToolOutput(
                StructuredDict({"type": "object"}),
                name="answer",
                description="Gives the answer. It ends the conversation.",
                strict=False,
            ),
            **common,
        )
        self._structured.output_validator(_fitting)

    async def answer(self, question: Question, model_ref: str, spec: ModelSpec) -> JsonValue:
        """The model's text, or its value that fits the schema.

        Raises:
            AttemptFailedError: with the class and a message.
        """
        wrong = unsupported(model_ref, spec)
        if wrong:
            raise AttemptFailedError(ErrorClass.MODEL_UNAVAILABLE, wrong)
        context = CallContext(
            model_ref=model_ref,
            spec=spec,
            schema=question.schema,
            meter=question.meter,
            choose=lambda: self._choose(model_ref, spec),
            presume_simulated=lambda said: self._presume_simulated(model_ref, said),
        )
        run = _Run(question.schema)
        agent = self._text if question.schema is None else self._structured
        limits = self._spec.limits
        try:
            result = await agent.run(
                question.prompt,
                deps=run,
                model=MeteredModel(self._choose(model_ref, spec)[0], context),
                model_settings=self._settings(question, spec),
                usage_limits=UsageLimits(
                    request_limit=limits.max_turns, tool_calls_limit=limits.max_tool_calls
                ),
            )
        except (AttemptFailedError, UsageLimitExceeded, UnexpectedModelBehavior) as error:
            raise context.failure or self._gave_up(error, model_ref, run) from None
        output = result.output
        return output if question.schema is None else question.schema.unwrap(output)

    def warm_up(self, model_ref: str, spec: ModelSpec) -> None:
        """Imports the provider's client and builds it."""
        if unsupported(model_ref, spec) is None:
            self._clients.get(model_ref, spec, self._keys(model_ref))

    async def aclose(self) -> None:
        """Closes the clients."""
        await self._clients.aclose()

    def _choose(self, model_ref: str, spec: ModelSpec) -> tuple[Model, str | None]:
        key = self._keys(model_ref)
        if key is None and spec.api_key_secret_ref is not None:
            secret = spec.api_key_secret_ref
            raise AttemptFailedError(
                ErrorClass.AUTH,
                f"Model {model_ref} has no API key: "
                f"key {secret.key} of Secret {secret.name} is not there.",
            )
        return self._clients.get(model_ref, spec, key), key

    def _presume_simulated(self, model_ref: str, said: bool | None) -> bool:
        """A call without an answer is taken to have gone where the last answer came from."""
        if said is not None:
            self._simulated[model_ref] = said
        return self._simulated.get(model_ref, False)

    def _settings(self, question: Question, spec: ModelSpec) -> ModelSettings:
        wanted = self._spec.model_settings
        settings = ModelSettings()
        if wanted is not None:
            if wanted.max_tokens is not None:
                settings["max_tokens"] = wanted.max_tokens
            if wanted.temperature is not None:
                settings["temperature"] = float(wanted.temperature)
            if wanted.top_p is not None:
                settings["top_p"] = float(wanted.top_p)
            if wanted.seed is not None:
                settings["seed"] = wanted.seed
        if spec.provider not in OWN_PROTOCOL:
            headers = {
                "Corral-Attempt-ID": question.attempt_id,
                "Corral-Effect-Key": question.effect_key,
            }
            if question.correlation_id:
                headers["Corral-Correlation-ID"] = question.correlation_id
            settings["extra_headers"] = {
                name: value for name, value in headers.items() if _HEADER_VALUE.fullmatch(value)
            }
        return settings

    def _gave_up(self, error: Exception, model_ref: str, run: _Run) -> AttemptFailedError:
        detail = f" {run.problem}" if run.problem else ""
        if isinstance(error, UsageLimitExceeded):
            limits = self._spec.limits
            return AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"There was no valid answer within the Agent's limits (maxTurns {limits.max_turns}"
                + (f", maxToolCalls {limits.max_tool_calls}" if limits.max_tool_calls else "")
                + f").{detail}",
            )
        if run.schema is not None and type(error) is UnexpectedModelBehavior:
            return AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"The model's answer does not fit outputSchema after {MAX_REASKS} more requests."
                + (detail or " It gave no JSON."),
            )
        return classify(error, model_ref, None)


async def _fitting(context: RunContext[_Run], output: dict[str, Any]) -> dict[str, Any]:
    """Asks again for what does not fit the schema, and says why."""
    schema = context.deps.schema
    problem = schema.problem(schema.unwrap(output)) if schema else None
    if problem:
        context.deps.problem = problem
        raise ModelRetry(f"The answer does not fit the schema. {problem} Give it again, corrected.")
    return output
