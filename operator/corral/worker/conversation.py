"""The turns of one attempt with models and tools, on pydantic-ai. Imported on the first use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from pydantic_ai import Agent, ModelRetry, RunContext, StructuredDict, ToolOutput, UsageLimits
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import RunUsage

from corral.api.agent import AgentSpec
from corral.api.attempt import InputRequired
from corral.api.errors import ErrorClass
from corral.api.model import SIMULATED, ModelSpec
from corral.api.trace import TRACEPARENT
from corral.worker.addresses import unsupported
from corral.worker.calls import CallContext, MeteredModel
from corral.worker.chain import Link
from corral.worker.failures import classify
from corral.worker.headers import CORRELATION_HEADER, HeaderSource, sendable
from corral.worker.keys import KeySource
from corral.worker.outcome import AttemptFailedError, ToolObserver
from corral.worker.providers import Clients
from corral.worker.question import ANSWER, Question
from corral.worker.schema import OutputSchema
from corral.worker.scripted import ScriptedModel
from corral.worker.simulated import MAX_REASKS, SimulatedModels
from corral.worker.tool_breakers import ToolBreakers
from corral.worker.tool_identity import Identity


@dataclass
class _Run:
    """What output validation knows of the attempt."""

    schema: OutputSchema | None
    problem: str = ""


class Conversation:
    """Asks models on behalf of one Agent, and calls its tools for them."""

    def __init__(
        self,
        agent: AgentSpec,
        name: str,
        keys: KeySource,
        headers: HeaderSource,
        simulated: SimulatedModels,
        breakers: ToolBreakers,
        observe: ToolObserver,
    ) -> None:
        self._spec = agent
        self._name = name
        self._keys = keys
        self._headers = headers
        self._breakers = breakers
        self._observe = observe
        self._simulations = simulated
        self._clients = Clients()
        self._simulated: dict[str, bool] = {}
        tools = [DeferredToolRequests] if agent.tools else []
        common: dict[str, Any] = {
            "name": name,
            "instructions": agent.instructions or None,
            "deps_type": _Run,
            "retries": {"tools": MAX_REASKS, "output": MAX_REASKS},
        }
        self._text: Agent[_Run, Any] = Agent(output_type=[str, *tools], **common)
        self._structured: Agent[_Run, Any] = Agent(
            output_type=[
                ToolOutput(
                    StructuredDict({"type": "object"}),
                    name=ANSWER,
                    description="Gives the answer. It ends the conversation.",
                    strict=False,
                ),
                *tools,
            ],
            **common,
        )
        self._structured.output_validator(_fitting)

    async def answer(self, question: Question) -> JsonValue | InputRequired:
        """The model's text, or its value that fits the schema; or the calls to be approved.

        Raises:
            AttemptFailedError: with the class and a message.
        """
        chain, context = question.chain, self._context(question)
        usage = RunUsage()
        while True:
            run = _Run(question.schema)
            try:
                return await self._run(question, context, run, usage)
            except UsageLimitExceeded:
                raise chain.told(self._out_of_turns(run)) from None
            except AttemptFailedError as failed:
                # A call's own failure has been through the chain; an answer that never fits has
                # not. The next Model begins anew: its calls of tools have the same effect keys.
                if not chain.fall_back(failed):
                    raise

    async def _run(
        self, question: Question, context: CallContext, run: _Run, usage: RunUsage
    ) -> JsonValue | InputRequired:
        agent = self._text if question.schema is None else self._structured
        limits = self._spec.limits
        asked: dict[str, Any] = {"user_prompt": question.prompt}
        if question.conversation is not None:
            from corral.worker.approvals import resumed

            history, decisions = resumed(question.conversation, question.decisions)
            asked = {"message_history": history, "deferred_tool_results": decisions}
        try:
            result = await agent.run(
                **asked,
                deps=run,
                model=MeteredModel(context.choose(question.chain.now, 0)[0], context),
                usage=usage,
                usage_limits=UsageLimits(
                    request_limit=limits.max_turns, tool_calls_limit=limits.max_tool_calls
                ),
                toolsets=self._toolsets(question),
            )
        except UsageLimitExceeded:
            if context.failure is not None:
                raise context.failure from None
            raise
        except (AttemptFailedError, UnexpectedModelBehavior) as error:
            failed = context.failure
            if failed is None:
                gave_up = self._gave_up(error, question.chain.now.name, run)
                failed = question.chain.told(gave_up)
            raise failed from None
        output = result.output
        if isinstance(output, DeferredToolRequests):
            from corral.worker.approvals import input_required

            return input_required(result.all_messages(), output.approvals)
        if question.schema is None:
            return str(output)
        return question.schema.unwrap(output)

    def warm_up(self, models: Mapping[str, ModelSpec]) -> None:
        """Imports the providers' clients and builds them."""
        for name, spec in models.items():
            if spec.provider == SIMULATED:
                ScriptedModel(self._simulations.get(name, spec), "", 0)
            elif unsupported(name, spec) is None:
                self._clients.get(name, spec, self._keys(name))
        if self._spec.tools:
            import corral.worker.toolset  # noqa: F401

    async def aclose(self) -> None:
        """Closes the clients."""
        await self._clients.aclose()

    def _context(self, question: Question) -> CallContext:
        def choose(link: Link, call: int) -> tuple[Model, str | None]:
            if link.spec.provider == SIMULATED:
                simulated = self._simulations.get(link.name, link.spec)
                return ScriptedModel(simulated, question.attempt_id, call), None
            return self._choose(link.name, link.spec)

        return CallContext(
            chain=question.chain,
            caps=question.caps,
            hidden=question.hidden,
            schema=question.schema,
            meter=question.meter,
            choose=choose,
            settings=lambda traceparent: self._settings(question, traceparent),
            presume_simulated=self._presume_simulated,
            simulated_call=lambda link, call: self._simulations.get(link.name, link.spec).counted(
                question.attempt_id, call
            ),
        )

    def _toolsets(self, question: Question) -> list[AbstractToolset[Any]]:
        if not self._spec.tools:
            return []
        from corral.worker.toolset import AgentTools

        identity = Identity(question.attempt_id, question.effect_key, question.correlation_id)
        return [
            AgentTools(
                self._spec.tools,
                self._headers,
                identity,
                self._spec.limits.max_tool_calls,
                self._breakers,
                question.meter.spans,
                self._observe,
            )
        ]

    def _choose(self, model_ref: str, spec: ModelSpec) -> tuple[Model, str | None]:
        wrong = unsupported(model_ref, spec)
        if wrong:
            raise AttemptFailedError(ErrorClass.MODEL_UNAVAILABLE, wrong)
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

    def _settings(self, question: Question, traceparent: str | None) -> ModelSettings:
        wanted = self._spec.model_settings
        told = {
            "Corral-Attempt-ID": question.attempt_id,
            "Corral-Effect-Key": question.effect_key,
            CORRELATION_HEADER: question.correlation_id,
            TRACEPARENT: traceparent,
        }
        settings = ModelSettings(extra_headers=sendable(told))
        if wanted is not None:
            if wanted.max_tokens is not None:
                settings["max_tokens"] = wanted.max_tokens
            if wanted.temperature is not None:
                settings["temperature"] = float(wanted.temperature)
            if wanted.top_p is not None:
                settings["top_p"] = float(wanted.top_p)
            if wanted.seed is not None:
                settings["seed"] = wanted.seed
        return settings

    def _out_of_turns(self, run: _Run) -> AttemptFailedError:
        limits = self._spec.limits
        return AttemptFailedError(
            ErrorClass.INVALID_OUTPUT,
            f"There was no valid answer within the Agent's limits (maxTurns {limits.max_turns}"
            + ("" if limits.max_tool_calls is None else f", maxToolCalls {limits.max_tool_calls}")
            + ")."
            + (f" {run.problem}" if run.problem else ""),
        )

    def _gave_up(self, error: Exception, model_ref: str, run: _Run) -> AttemptFailedError:
        if type(error) is UnexpectedModelBehavior and "max retries count" in str(error):
            return AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"Model {model_ref} kept calling tools that it does not have, or wrongly.",
            )
        if run.schema is not None and type(error) is UnexpectedModelBehavior:
            return AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"The model's answer does not fit outputSchema after {MAX_REASKS} more requests."
                + (f" {run.problem}" if run.problem else " It gave no JSON."),
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
