"""``provider: simulated``: scripted answers without a network and without a provider's client."""

import asyncio
import hashlib
import re

from pydantic import JsonValue

from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec, SimulatedReply, Simulation
from corral.api.types import seconds
from corral.worker.caps import Caps
from corral.worker.chain import ModelChain
from corral.worker.outcome import AttemptFailedError, ModelCall, UsageMeter
from corral.worker.schema import OutputSchema, parse_json

MAX_REASKS = 3


def call_fails(simulation: Simulation, attempt_id: str, call: int) -> bool:
    """Whether the attempt's call (from 1) fails: drawn from seed, attempt id and call number."""
    drawn = hashlib.sha256(f"{simulation.seed}/{attempt_id}/{call}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % 100 < simulation.failure_percent


class SimulatedModel:
    """One simulated Model."""

    def __init__(self, model_ref: str, spec: ModelSpec) -> None:
        self._model_ref = model_ref
        self._spec = spec
        self.simulation = spec.simulation or Simulation()
        self._rules: list[tuple[re.Pattern[str], SimulatedReply]] | None = None

    def rule_for(self, prompt: str) -> SimulatedReply:
        """The first rule whose ``match`` is found in the prompt, else one with the default reply.

        Raises:
            AttemptFailedError: Internal, if a ``match`` is not a regular expression.
        """
        if self._rules is None:
            script = self.simulation.script or []
            try:
                self._rules = [(re.compile(rule.match), rule) for rule in script]
            except re.error as error:
                raise AttemptFailedError(
                    ErrorClass.INTERNAL,
                    f"Model {self._model_ref}: {error.pattern!r} is not a regular expression.",
                ) from None
        otherwise = SimulatedReply(match="", reply=self.simulation.reply)
        return next((rule for match, rule in self._rules if match.search(prompt)), otherwise)

    async def wait(self, attempt_id: str, call: int) -> None:
        """Takes the time of a call.

        Raises:
            AttemptFailedError: ModelUnavailable, if this call is to fail.
        """
        limit, latency = seconds(self._spec.timeout), seconds(self.simulation.latency)
        await asyncio.sleep(min(latency, limit))
        message = self._failure(attempt_id, call)
        if message:
            raise AttemptFailedError(ErrorClass.MODEL_UNAVAILABLE, message)

    def counted(self, attempt_id: str, call: int) -> ModelCall:
        """What a call counts, whether it fails or not."""
        limit, latency = seconds(self._spec.timeout), seconds(self.simulation.latency)
        failed = self._failure(attempt_id, call)
        return ModelCall(
            model_ref=self._model_ref,
            provider=self._spec.provider,
            model=self._spec.name or "simulated",
            simulated=True,
            input_tokens=self.simulation.input_tokens,
            output_tokens=self.simulation.output_tokens,
            seconds=min(latency, limit),
            error_class=ErrorClass.MODEL_UNAVAILABLE if failed else None,
        )

    def _failure(self, attempt_id: str, call: int) -> str | None:
        if seconds(self.simulation.latency) > seconds(self._spec.timeout):
            return f"Model {self._model_ref} did not answer within {self._spec.timeout}."
        if call_fails(self.simulation, attempt_id, call):
            return f"Model {self._model_ref} failed, as its failurePercent asks for."
        return None


class SimulatedModels:
    """Answers for an Agent that has simulated Models only, and no tools."""

    def __init__(self) -> None:
        self._models: dict[str, SimulatedModel] = {}

    def get(self, name: str, spec: ModelSpec) -> SimulatedModel:
        """The simulated Model of that name."""
        if name not in self._models:
            self._models[name] = SimulatedModel(name, spec)
        return self._models[name]

    async def answer(
        self,
        prompt: str,
        *,
        attempt_id: str,
        chain: ModelChain,
        caps: Caps,
        schema: OutputSchema | None,
        max_turns: int,
        meter: UsageMeter,
    ) -> JsonValue:
        """The reply, or its JSON value that fits the schema, asked for as a real model would be.

        A call counts when it starts, so that counts don't depend on timing.

        Raises:
            AttemptFailedError: ModelUnavailable for a failed call; InvalidOutput if no answer
                fits; Budget.
        """
        calls = turns = asked = 0
        while True:
            model = self.get(chain.now.name, chain.now.spec)
            reply = model.rule_for(prompt).reply
            again = False
            try:
                caps.check(meter)
                calls += 1
                call, begun = model.counted(attempt_id, calls), meter.spans.begin()
                meter.add(call)
                try:
                    await model.wait(attempt_id, calls)
                finally:
                    meter.spans.model_called(begun, call)
            except AttemptFailedError as error:
                failed = error
            else:
                if schema is None:
                    return reply
                value, problem = _fitting(reply, schema)
                if not problem:
                    return value
                turns, asked = turns + 1, asked + 1
                again = asked <= MAX_REASKS
                failed = AttemptFailedError(
                    ErrorClass.INVALID_OUTPUT,
                    f"The model's answer does not fit outputSchema. {problem}",
                )
            if turns < max_turns and again:
                continue
            if turns >= max_turns or not chain.fall_back(failed):
                raise chain.told(failed)
            asked = 0


def _fitting(reply: str, schema: OutputSchema) -> tuple[JsonValue, str]:
    """The reply's value, and why it does not fit; empty if it fits."""
    try:
        value = parse_json(reply)
    except ValueError as error:
        return None, f"It is not JSON: {error}"
    return value, schema.problem(value) or ""
