"""A simulated Model as pydantic-ai's: for Agents with tools, approvals and real fallbacks."""

from collections.abc import Sequence

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from corral.worker.simulated import SimulatedModel


class ScriptedModel(Model):
    """Asks for the tool calls of the rule that matches, and answers when it has their results.

    Args:
        call: the number of this call in its attempt, from 1.
    """

    def __init__(self, simulated: SimulatedModel, attempt_id: str, call: int) -> None:
        super().__init__()
        self._simulated = simulated
        self._attempt_id = attempt_id
        self._call = call

    @property
    def model_name(self) -> str:
        """The word that marks what is simulated."""
        return "simulated"

    @property
    def system(self) -> str:
        """As the Model's provider."""
        return "simulated"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answers after the latency.

        Raises:
            AttemptFailedError: ModelUnavailable, if this call is to fail.
        """
        rule = self._simulated.rule_for(_prompt(messages))
        await self._simulated.wait(self._attempt_id, self._call)
        wanted = rule.tool_calls or []
        asked = sum(isinstance(message, ModelResponse) for message in messages)
        simulation = self._simulated.simulation
        return ModelResponse(
            parts=[TextPart(rule.reply)]
            if not wanted or _called(messages, {call.name for call in wanted})
            else [
                ToolCallPart(call.name, dict(call.arguments), f"call-{asked + 1}-{index + 1}")
                for index, call in enumerate(wanted)
            ],
            usage=RequestUsage(
                input_tokens=simulation.input_tokens, output_tokens=simulation.output_tokens
            ),
            model_name=self.model_name,
        )


def _prompt(messages: Sequence[ModelMessage]) -> str:
    """The step's input, also where the conversation goes on from another attempt."""
    for message in messages:
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                return part.content
    return ""


def _called(messages: Sequence[ModelMessage], names: set[str]) -> bool:
    return any(
        isinstance(part, ToolCallPart) and part.tool_name in names
        for message in messages
        if isinstance(message, ModelResponse)
        for part in message.parts
    )
