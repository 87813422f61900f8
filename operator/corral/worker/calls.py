"""One model call: its timeout, its usage, its failure, and leniency with its answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from corral.api.errors import ErrorClass
from corral.api.model import SIMULATED
from corral.api.types import seconds
from corral.worker.call_spans import Begun
from corral.worker.caps import Caps
from corral.worker.chain import Link, ModelChain
from corral.worker.failures import answered, classify, simulated_answer
from corral.worker.outcome import AttemptFailedError, ModelCall, UsageMeter
from corral.worker.providers import FINGERPRINT
from corral.worker.redaction import Redaction
from corral.worker.schema import OutputSchema, parse_json_answer


@dataclass
class CallContext:
    """What the calls of one attempt share."""

    chain: ModelChain
    caps: Caps
    hidden: Redaction
    schema: OutputSchema | None
    meter: UsageMeter
    choose: Callable[[Link, int], tuple[Model, str | None]]
    """The model for the attempt's call of this number, and its key; asked before every call."""
    settings: Callable[[str | None], ModelSettings]
    """Of a call that its server is told this ``traceparent`` of."""
    presume_simulated: Callable[[str, bool | None], bool]
    """Told what a Model's answer said about simulation (None: no answer); tells what to count."""
    simulated_call: Callable[[Link, int], ModelCall]
    """What that call counts where the Model is simulated."""
    calls: int = 0
    failure: AttemptFailedError | None = field(default=None)
    """How the last call failed, whatever pydantic-ai makes of the exception."""


class MeteredModel(WrapperModel):
    """A model whose every call is measured, bounded and classified; or else another one.

    Usage is added to the attempt's meter the moment a call ends, in whatever way it ends, so it
    doesn't matter what becomes of the attempt afterwards.

    Structured output is asked for as a call of one tool: among servers that speak OpenAI's
    protocol tool calls are more widespread, and less restricted in what a schema may say, than
    ``response_format: json_schema``. The real schema is put into the request here, since
    pydantic-ai's own dict schemas can't be recursive. A model that writes the JSON as text instead
    of calling the tool is understood as well.
    """

    def __init__(self, wrapped: Model, context: CallContext) -> None:
        super().__init__(wrapped)
        self._context = context

    def prepare_messages(
        self,
        messages: list[ModelMessage],
        model_request_parameters: ModelRequestParameters | None = None,
    ) -> list[ModelMessage]:
        """Left to each call, since the next one may be another Model's."""
        return messages

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Calls the Model, and after an error that a fallback is meant for that one.

        Raises:
            AttemptFailedError: with the class that fits; Budget if a cap is reached.
        """
        context = self._context
        parameters = self._with_schema(model_request_parameters)
        while True:
            try:
                context.caps.check(context.meter)
                return await self._call(messages, parameters)
            except AttemptFailedError as failed:
                if not context.chain.fall_back(failed):
                    context.failure = context.chain.told(failed)
                    raise context.failure from None

    async def _call(
        self, messages: list[ModelMessage], parameters: ModelRequestParameters
    ) -> ModelResponse:
        context, link = self._context, self._context.chain.now
        context.calls += 1
        self.wrapped, key = context.choose(link, context.calls)
        prepared = self.wrapped.prepare_messages(messages, parameters)
        begun = context.meter.spans.begin()
        settings = context.settings(begun.traceparent)
        try:
            async with asyncio.timeout(seconds(link.spec.timeout)) as scope:
                response = await self.wrapped.request(prepared, settings, parameters)
        except Exception as error:
            if isinstance(error, TimeoutError) and scope.expired():
                failed = AttemptFailedError(
                    ErrorClass.MODEL_UNAVAILABLE,
                    f"Model {link.name} did not answer within {link.spec.timeout}.",
                )
            else:
                failed = classify(error, link.name, key)
            said = answered(error)
            self._count(link, begun, simulated_answer(error), failed, unanswered=not said)
            raise failed from None
        except BaseException:
            self._count(link, begun, None, None, unanswered=True)
            raise
        response = context.hidden.response(response)
        fingerprint = (response.provider_details or {}).get(FINGERPRINT)
        self._count(link, begun, fingerprint == "simulated", None, response)
        return self._understood(response, parameters)

    def _count(
        self,
        link: Link,
        begun: Begun,
        simulated: bool | None,
        failed: AttemptFailedError | None,
        response: ModelResponse | None = None,
        *,
        unanswered: bool = False,
    ) -> None:
        context = self._context
        if link.spec.provider == SIMULATED:
            call = context.simulated_call(link, context.calls)
        else:
            call = ModelCall(
                model_ref=link.name,
                provider=link.spec.provider,
                model=link.spec.name,
                simulated=context.presume_simulated(link.name, simulated),
                input_tokens=response.usage.input_tokens if response else 0,
                output_tokens=response.usage.output_tokens if response else 0,
                cached_input_tokens=response.usage.cache_read_tokens if response else 0,
                seconds=begun.seconds,
                error_class=failed.error_class if failed else None,
                unanswered=unanswered,
                retry_after=failed.retry_after if failed else None,
                response_model=response.model_name if response else None,
                response_id=response.provider_response_id if response else None,
                finish_reason=response.finish_reason if response else None,
            )
        context.meter.add(call)
        context.meter.spans.model_called(begun, call)

    def _with_schema(self, parameters: ModelRequestParameters) -> ModelRequestParameters:
        if self._context.schema is None:
            return parameters
        schema = self._context.schema.parameters()
        return replace(
            parameters,
            output_tools=[
                replace(tool, parameters_json_schema=schema) for tool in parameters.output_tools
            ],
        )

    def _understood(
        self, response: ModelResponse, parameters: ModelRequestParameters
    ) -> ModelResponse:
        schema = self._context.schema
        if schema is None or any(isinstance(part, ToolCallPart) for part in response.parts):
            return response
        text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
        try:
            arguments = schema.wrap(parse_json_answer(text))
        except ValueError:
            return response
        if arguments is None:
            return response
        call = ToolCallPart(tool_name=parameters.output_tools[0].name, args=arguments)
        return replace(response, parts=[call])
