"""How an attempt ends: a value or an error, and what its model calls used until then."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from corral.api.attempt import AttemptError, InputRequired, ModelUsage
from corral.api.errors import ErrorClass

MESSAGE_LENGTH = 1024


class AttemptFailedError(Exception):
    """Ends an attempt with an error class and a sentence for a person, free of secrets."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
        # A model's text can hold lone surrogates, which neither protobuf nor a log can.
        message = message.encode(errors="replace").decode()
        self.message = message if len(message) <= MESSAGE_LENGTH else message[:1023] + "…"

    def to_error(self) -> AttemptError:
        """The same as the report's model."""
        return AttemptError(error_class=self.error_class, message=self.message)


@dataclass(frozen=True)
class ModelCall:
    """One call to a model, answered or not."""

    model_ref: str
    provider: str
    model: str
    simulated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    unanswered: bool = False
    """Nobody knows what it used: it timed out, was cut off or cancelled. A refusal is an answer."""


CallObserver = Callable[[ModelCall], None]


class ToolOutcome(StrEnum):
    """How a tool call ended."""

    ANSWERED = "Answered"
    FAILED = "Failed"
    """The tool said so."""
    UNREACHABLE = "Unreachable"
    """There was no answer, or none that can be read."""


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool."""

    entry: str
    """The Agent's entry that the tool belongs to; empty for a step's call."""
    seconds: float
    outcome: ToolOutcome


ToolObserver = Callable[[ToolCall], None]


def unobserved(call: ToolCall) -> None:
    """Where nobody counts."""


class UsageMeter:
    """Adds up the model calls of one attempt.

    It belongs to the caller of the runtime, so what was used is known even when the attempt is
    cancelled. A call counts as a request whether it was answered or not; a provider that did not
    answer reported no tokens.
    """

    def __init__(self, observe: CallObserver | None = None) -> None:
        self._observe = observe
        self._totals: dict[tuple[str, bool], list[int]] = {}
        self._names: dict[tuple[str, bool], tuple[str, str]] = {}

    def add(self, call: ModelCall) -> None:
        """Counts a call."""
        key = (call.model_ref, call.simulated)
        self._names.setdefault(key, (call.provider, call.model))
        total = self._totals.setdefault(key, [0, 0, 0, 0, 0])
        for index, count in enumerate(
            (
                1,
                call.input_tokens,
                call.output_tokens,
                call.cached_input_tokens,
                int(call.unanswered),
            )
        ):
            total[index] += count
        if self._observe is not None:
            self._observe(call)

    def usage(self) -> list[ModelUsage]:
        """Totals by Model, simulated and real apart, in the order of the first calls."""
        return [
            ModelUsage(
                model_ref=key[0],
                provider=self._names[key][0],
                model=self._names[key][1],
                requests=str(total[0]),
                input_tokens=str(total[1]),
                output_tokens=str(total[2]),
                cached_input_tokens=str(total[3]),
                unanswered=str(total[4]),
                simulated=key[1],
            )
            for key, total in self._totals.items()
        ]


@dataclass(frozen=True)
class AttemptOutcome:
    """What an attempt came to: an output, an error, or what a person has to approve before it can
    go on; the usage in every case."""

    output: JsonValue = None
    structured: bool = False
    """Whether ``output`` is JSON that fits a schema; otherwise it is text."""
    error: AttemptError | None = None
    input_required: InputRequired | None = None
    usage: list[ModelUsage] = field(default_factory=list)
