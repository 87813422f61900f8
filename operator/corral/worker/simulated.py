"""``provider: simulated``: scripted answers without a network and without a provider's client."""

import asyncio
import hashlib
import re

from pydantic import JsonValue

from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec, Simulation
from corral.api.types import seconds
from corral.worker.outcome import AttemptFailedError, ModelCall, UsageMeter
from corral.worker.schema import OutputSchema, parse_json

MAX_REASKS = 3


def call_fails(simulation: Simulation, attempt_id: str, call: int) -> bool:
    """Whether the attempt's call (from 1) fails: drawn from seed, attempt id and call number."""
    drawn = hashlib.sha256(f"{simulation.seed}/{attempt_id}/{call}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % 100 < simulation.failure_percent


class SimulatedModel:
    """One simulated Model. A call counts when it starts, so that counts don't depend on timing."""

    def __init__(self, model_ref: str, spec: ModelSpec) -> None:
        self._model_ref = model_ref
        self._spec = spec
        self._simulation = spec.simulation or Simulation()
        self._rules: list[tuple[re.Pattern[str], str]] | None = None

    def reply_to(self, prompt: str) -> str:
        """The first rule's reply whose ``match`` is found in the prompt, else the default one."""
        if self._rules is None:
            script = self._simulation.script or []
            try:
                self._rules = [(re.compile(rule.match), rule.reply) for rule in script]
            except re.error as error:
                raise AttemptFailedError(
                    ErrorClass.INTERNAL,
                    f"Model {self._model_ref}: {error.pattern!r} is not a regular expression.",
                ) from None
        return next(
            (reply for match, reply in self._rules if match.search(prompt)), self._simulation.reply
        )

    async def answer(
        self,
        prompt: str,
        *,
        attempt_id: str,
        schema: OutputSchema | None,
        max_turns: int,
        meter: UsageMeter,
    ) -> JsonValue:
        """The reply, or its JSON value that fits the schema, asked for as a real model would be.

        Raises:
            AttemptFailedError: ModelUnavailable for a failed call; InvalidOutput if no answer fits.
        """
        reply = self.reply_to(prompt)
        problem = ""
        for call in range(1, min(max_turns, 1 + MAX_REASKS) + 1):
            await self._call(attempt_id, call, meter)
            if schema is None:
                return reply
            try:
                value = parse_json(reply)
            except ValueError as error:
                problem = f"It is not JSON: {error}"
                continue
            problem = schema.problem(value) or ""
            if not problem:
                return value
        raise AttemptFailedError(
            ErrorClass.INVALID_OUTPUT, f"The model's answer does not fit outputSchema. {problem}"
        )

    async def _call(self, attempt_id: str, call: int, meter: UsageMeter) -> None:
        limit, latency = seconds(self._spec.timeout), seconds(self._simulation.latency)
        message: str | None = None
        if latency > limit:
            message = f"Model {self._model_ref} did not answer within {self._spec.timeout}."
        elif call_fails(self._simulation, attempt_id, call):
            message = f"Model {self._model_ref} failed, as its failurePercent asks for."
        failed = ErrorClass.MODEL_UNAVAILABLE if message else None
        meter.add(
            ModelCall(
                model_ref=self._model_ref,
                provider=self._spec.provider,
                model=self._spec.name or "simulated",
                simulated=True,
                input_tokens=self._simulation.input_tokens,
                output_tokens=self._simulation.output_tokens,
                seconds=min(latency, limit),
                error_class=failed,
            )
        )
        await asyncio.sleep(min(latency, limit))
        if message:
            raise AttemptFailedError(ErrorClass.MODEL_UNAVAILABLE, message)
