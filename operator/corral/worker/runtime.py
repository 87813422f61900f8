"""Answers one attempt: the Agent's instructions, its model, its limits. No server in here."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from corral.api.agent import AgentSpec
from corral.api.attempt import InputRequired, ToolDecision, ToolInvocation
from corral.api.errors import ErrorClass
from corral.api.model import SIMULATED, ModelSpec
from corral.api.types import JsonSchema, seconds
from corral.worker.addresses import unsupported
from corral.worker.caps import Caps
from corral.worker.chain import ModelChain, chain_of
from corral.worker.headers import HeaderSource, no_headers
from corral.worker.keys import KeySource
from corral.worker.outcome import (
    AttemptFailedError,
    AttemptOutcome,
    ToolObserver,
    UsageMeter,
    unobserved,
)
from corral.worker.question import Question
from corral.worker.redaction import Redaction
from corral.worker.schema import OutputSchema, SchemaInvalidError, compact_json
from corral.worker.simulated import SimulatedModels
from corral.worker.tool_breakers import Tell, ToolBreakers
from corral.worker.tool_identity import Identity

if TYPE_CHECKING:
    from corral.worker.conversation import Conversation

logger = logging.getLogger(__name__)

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
        agent: what to run; ``type: Declarative``. Without a modelRef it can only call tools.
        name: the Agent's name, for messages.
        models: by the Model object's name; holds the Agent's own and its fallbacks.
        keys: from a Model's name to its API key; asked at every call.
        headers: from a tool's and a header's name to its value; asked at every connection.
        observe_tool: told of every call of a tool.
        tell_server: told of tool servers' hosts, and whether they are usable.
    """

    def __init__(
        self,
        agent: AgentSpec,
        name: str,
        models: Mapping[str, ModelSpec],
        keys: KeySource,
        headers: HeaderSource = no_headers,
        observe_tool: ToolObserver = unobserved,
        tell_server: Tell = lambda host, usable: None,
    ) -> None:
        self._agent = agent
        self._name = name
        self._models = models
        self._keys = keys
        self._headers = headers
        self._observe_tool = observe_tool
        self._breakers = ToolBreakers(tell_server)
        self._conversation: Conversation | None = None
        self._simulated = SimulatedModels()
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
        model_ref: str | None = None,
        fallbacks: Collection[str] | None = None,
        max_cost_usd: Decimal | None = None,
        max_tokens: int | None = None,
        tool: ToolInvocation | None = None,
        conversation: str | None = None,
        decisions: Sequence[ToolDecision] = (),
    ) -> AttemptOutcome:
        """Runs an attempt to its end; failures are outcomes, not exceptions.

        Args:
            output_schema: replaces the Agent's own.
            timeout_seconds: of the whole attempt; the Agent's ``limits.timeout`` if absent.
            meter: keeps the usage, and the calls as spans of its trace, where the caller can read
                them after a cancellation.
            model_ref: the Model to begin with instead of the Agent's own: one of its fallbacks.
            fallbacks: those that the attempt may move on to by itself; None is all.
            max_cost_usd: no model call begins once the attempt has cost that much, or the Agent's
                ``limits.maxCostUSD``.
            max_tokens: the same for tokens, sent and received.
            tool: a tool to call, instead of asking a model.
            conversation: where an attempt before left off, as its ``input_required`` said.
            decisions: one for every call that was pending there.

        Raises:
            asyncio.CancelledError: the attempt was cancelled; ``meter`` has what it used.
        """
        meter = meter or UsageMeter()
        limit = timeout_seconds or seconds(self._agent.limits.timeout)
        effect_key = effect_key or attempt_id.rpartition(".")[0] or attempt_id
        structured = False
        output: JsonValue | InputRequired = None
        failure: AttemptFailedError | None = None
        hidden = self.hidden()
        try:
            async with asyncio.timeout(limit) as scope:
                if decisions and conversation is None:
                    raise AttemptFailedError(
                        ErrorClass.REJECTED, "There are decisions, and no conversation to go on."
                    )
                if tool is not None:
                    from corral.worker.tool_step import invoke

                    identity = Identity(attempt_id, effect_key, correlation_id)
                    output, structured = await invoke(
                        tool, identity, limit, self._observe_tool, self._breakers, meter.spans
                    )
                else:
                    schema = self._schema(
                        self._agent.output_schema if output_schema is None else output_schema
                    )
                    structured = schema is not None
                    question = Question(
                        attempt_id=attempt_id,
                        effect_key=effect_key,
                        prompt=render_prompt(input, input_data),
                        schema=schema,
                        meter=meter,
                        chain=chain_of(self._agent, self._name, self._models, model_ref, fallbacks),
                        caps=self._caps(max_cost_usd, max_tokens),
                        hidden=hidden,
                        correlation_id=correlation_id,
                        conversation=conversation,
                        decisions=decisions,
                    )
                    output = await self._answer(question)
        except AttemptFailedError as error:
            failure = error
        except TimeoutError:
            meter.timed_out()
            failure = (
                AttemptFailedError(ErrorClass.TIMEOUT, f"The attempt took longer than {limit:g} s.")
                if scope.expired()
                else _internal("TimeoutError")
            )
        except Exception as error:
            logger.exception("An attempt ended with an unexpected error.")
            failure = _internal(type(error).__name__)
        if failure is not None:
            failure = AttemptFailedError(failure.error_class, hidden.text(failure.message))
            return AttemptOutcome(error=failure.to_error(), usage=meter.usage())
        if isinstance(output, InputRequired):
            return AttemptOutcome(input_required=output, usage=meter.usage())
        return AttemptOutcome(output=output, structured=structured, usage=meter.usage())

    def hidden(self) -> Redaction:
        """Of the keys of the Agent's Models and the headers of its tools, as they are now."""
        keys = (
            self._keys(name) for name, spec in self._models.items() if spec.provider != SIMULATED
        )
        headers = (
            self._headers(tool.name, header.name)
            for tool in self._agent.tools or []
            for header in (tool.mcp.headers_from if tool.mcp else None) or []
        )
        return Redaction([*keys, *headers])

    def problem(self) -> str | None:
        """Why no attempt could succeed with this configuration, in a sentence; None if it could."""
        if self._agent.model_ref is None:
            return None  # it calls tools
        try:
            links = chain_of(self._agent, self._name, self._models).rest
        except AttemptFailedError as failed:
            return failed.message
        problems = (
            unsupported(link.name, link.spec) for link in links if link.spec.provider != SIMULATED
        )
        return next((problem for problem in problems if problem), None)

    def warm_up(self) -> None:
        """Loads what the first attempt needs (seconds of imports); may run in a thread."""
        if self.problem() is not None:
            return
        if self._agent.model_ref is None:
            import corral.worker.tool_step  # noqa: F401
        elif not self._scripted(chain_of(self._agent, self._name, self._models)):
            self._load_conversation().warm_up(self._models)

    async def aclose(self) -> None:
        """Closes the connections to providers."""
        if self._conversation is not None:
            await self._conversation.aclose()

    def _caps(self, max_cost_usd: Decimal | None, max_tokens: int | None) -> Caps:
        own = self._agent.limits.max_cost_usd
        costs = [cap for cap in (max_cost_usd, Decimal(own) if own else None) if cap is not None]
        return Caps(min(costs, default=None), max_tokens, self._models)

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

    def _scripted(self, chain: ModelChain) -> bool:
        """Whether it takes no more than scripted answers: neither a provider's client nor tools."""
        return not self._agent.tools and all(
            link.spec.provider == SIMULATED
            and not any(
                rule.tool_calls
                for rule in (link.spec.simulation.script if link.spec.simulation else None) or []
            )
            for link in chain.rest
        )

    async def _answer(self, question: Question) -> JsonValue | InputRequired:
        if question.conversation is not None or not self._scripted(question.chain):
            return await self._load_conversation().answer(question)
        return await self._simulated.answer(
            question.prompt,
            attempt_id=question.attempt_id,
            chain=question.chain,
            caps=question.caps,
            schema=question.schema,
            max_turns=self._agent.limits.max_turns,
            meter=question.meter,
        )

    def _load_conversation(self) -> "Conversation":
        if self._conversation is None:
            from corral.worker.conversation import Conversation

            self._conversation = Conversation(
                self._agent,
                self._name,
                self._keys,
                self._headers,
                self._simulated,
                self._breakers,
                self._observe_tool,
            )
        return self._conversation


def _internal(what: str) -> AttemptFailedError:
    return AttemptFailedError(ErrorClass.INTERNAL, f"The worker failed with an unexpected {what}.")
