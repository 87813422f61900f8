"""Answers one attempt: the Agent's instructions, its model, its limits. No server in here."""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.api.types import JsonSchema, seconds
from corral.worker.keys import KeySource
from corral.worker.outcome import AttemptFailedError, AttemptOutcome, UsageMeter
from corral.worker.question import Question
from corral.worker.schema import OutputSchema, SchemaInvalidError, compact_json
from corral.worker.simulated import SimulatedModel

if TYPE_CHECKING:
    from corral.worker.conversation import Conversation

logger = logging.getLogger(__name__)

SIMULATED = "simulated"
_SCHEMAS_KEPT = 32


def render_prompt(text: str | None, data: Mapping[str, Any] | None) -> str:
    """What the model is shown and what a simulated model's rules search.

    The text, then ``inputData`` as compact JSON.
    """
    parts = [text] if text is not None else []
    if data is not None:
        parts.append(compact_json(data))
    return "\n\n".join(parts)


class AgentRuntime:
    """Runs the attempts of one Agent, any number at once.

    Args:
        agent: what to run; ``type: Declarative`` without tools.
        name: the Agent's name, for messages.
        models: by the Model object's name; holds the Agent's ``modelRef``.
        keys: from a Model's name to its API key; asked at every call.
    """

    def __init__(
        self, agent: AgentSpec, name: str, models: Mapping[str, ModelSpec], keys: KeySource
    ) -> None:
        self._agent = agent
        self._name = name
        self._models = models
        self._keys = keys
        self._conversation: Conversation | None = None
        self._simulated: dict[str, SimulatedModel] = {}
        self._schemas: dict[str, OutputSchema] = {}

    async def run(
        self,
        attempt_id: str,
        input: str | None = None,  # noqa: A002 - the field's name in the API
        input_data: Mapping[str, Any] | None = None,
        output_schema: JsonSchema | None = None,
        timeout_seconds: float | None = None,
        *,
        effect_key: str | None = None,
        correlation_id: str | None = None,
        meter: UsageMeter | None = None,
    ) -> AttemptOutcome:
        """Runs an attempt to its end; failures are outcomes, not exceptions.

        Args:
            output_schema: replaces the Agent's own.
            timeout_seconds: of the whole attempt; the Agent's ``limits.timeout`` if absent.
            meter: keeps the usage where the caller can read it after a cancellation.

        Raises:
            asyncio.CancelledError: the attempt was cancelled; ``meter`` has what it used.
        """
        meter = meter or UsageMeter()
        limit = timeout_seconds or seconds(self._agent.limits.timeout)
        schema: OutputSchema | None = None
        output: JsonValue = None
        failure: AttemptFailedError | None = None
        try:
            async with asyncio.timeout(limit) as scope:
                schema = self._schema(
                    self._agent.output_schema if output_schema is None else output_schema
                )
                question = Question(
                    attempt_id=attempt_id,
                    effect_key=effect_key or attempt_id.rpartition(".")[0] or attempt_id,
                    prompt=render_prompt(input, input_data),
                    schema=schema,
                    meter=meter,
                    correlation_id=correlation_id,
                )
                output = await self._answer(question)
        except AttemptFailedError as error:
            failure = error
        except TimeoutError:
            failure = (
                AttemptFailedError(ErrorClass.TIMEOUT, f"The attempt took longer than {limit:g} s.")
                if scope.expired()
                else _internal("TimeoutError")
            )
        except Exception as error:
            logger.exception("An attempt ended with an unexpected error.")
            failure = _internal(type(error).__name__)
        return AttemptOutcome(
            output=output if failure is None else None,
            structured=schema is not None and failure is None,
            error=failure.to_error() if failure else None,
            usage=meter.usage(),
        )

    def problem(self) -> str | None:
        """Why no attempt could succeed with this configuration, in a sentence; None if it could."""
        try:
            name, spec = self._model()
        except AttemptFailedError as failed:
            return failed.message
        from corral.worker.addresses import unsupported

        return None if spec.provider == SIMULATED else unsupported(name, spec)

    def warm_up(self) -> None:
        """Loads what the first attempt needs (seconds of imports); may run in a thread."""
        if self.problem() is None and self._model()[1].provider != SIMULATED:
            self._load_conversation().warm_up(*self._model())

    async def aclose(self) -> None:
        """Closes the connections to providers."""
        if self._conversation is not None:
            await self._conversation.aclose()

    def _model(self) -> tuple[str, ModelSpec]:
        reference = self._agent.model_ref
        if reference is None:
            raise AttemptFailedError(ErrorClass.INTERNAL, f"Agent {self._name} has no modelRef.")
        spec = self._models.get(reference.name)
        if spec is None:
            raise AttemptFailedError(
                ErrorClass.MODEL_UNAVAILABLE,
                f"Agent {self._name} refers to Model {reference.name}, which does not exist.",
            )
        return reference.name, spec

    def _schema(self, schema: JsonSchema | None) -> OutputSchema | None:
        if schema is None:
            return None
        key = compact_json(schema)
        if key not in self._schemas:
            if len(self._schemas) >= _SCHEMAS_KEPT:
                self._schemas.pop(next(iter(self._schemas)))
            try:
                self._schemas[key] = OutputSchema(schema)
            except SchemaInvalidError as error:
                raise AttemptFailedError(ErrorClass.INVALID_OUTPUT, f"{error}.") from None
        return self._schemas[key]

    async def _answer(self, question: Question) -> JsonValue:
        name, spec = self._model()
        if spec.provider != SIMULATED:
            return await self._load_conversation().answer(question, name, spec)
        if name not in self._simulated:
            self._simulated[name] = SimulatedModel(name, spec)
        return await self._simulated[name].answer(
            question.prompt,
            attempt_id=question.attempt_id,
            schema=question.schema,
            max_turns=self._agent.limits.max_turns,
            meter=question.meter,
        )

    def _load_conversation(self) -> "Conversation":
        if self._conversation is None:
            from corral.worker.conversation import Conversation

            self._conversation = Conversation(self._agent, self._name, self._keys)
        return self._conversation


def _internal(what: str) -> AttemptFailedError:
    return AttemptFailedError(ErrorClass.INTERNAL, f"The worker failed with an unexpected {what}.")
