"""How an attempt ends: a value or an error, and what its model calls used until then."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from corral.api.attempt import AttemptError, InputRequired, ModelUsage
from corral.api.errors import ErrorClass
from corral.worker.call_spans import CallSpans

MESSAGE_LENGTH = 1024
_FAILURES = frozenset({ErrorClass.MODEL_UNAVAILABLE, ErrorClass.RATE_LIMITED})
"""Of these the model is to blame, whoever asks it."""


class AttemptFailedError(Exception):
    """Ends an attempt with an error class and a sentence for a person, free of secrets."""

    def __init__(
        self, error_class: ErrorClass, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retry_after = retry_after
        """Seconds for which a provider asked to be left alone."""
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
    retry_after: float | None = None
    """Seconds for which the provider asked to be left alone."""
    response_model: str | None = None
    """The model that answered, as it calls itself."""
    response_id: str | None = None
    finish_reason: str | None = None

    @property
    def cut_off(self) -> bool:
        """Whether it was stopped from here before there was an answer."""
        return self.unanswered and self.error_class is None


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
    tool: str
    """As the server calls it."""
    seconds: float
    outcome: ToolOutcome
    call_id: str | None = None
    """The model's id of the call."""


ToolObserver = Callable[[ToolCall], None]


def unobserved(call: ToolCall) -> None:
    """Where nobody counts."""


class UsageMeter:
    """Adds up the model calls of one attempt.

    It belongs to the caller of the runtime, so what was used is known even when the attempt is
    cancelled. A call counts as a request whether it was answered or not; a provider that did not
    answer reported no tokens.

    Args:
        observe: told of every call of a model.
        spans: the calls as the attempt's trace shows them.
    """

    def __init__(self, observe: CallObserver | None = None, spans: CallSpans | None = None) -> None:
        self._observe = observe
        self.spans = spans or CallSpans()
        self._totals: dict[tuple[str, bool], _Total] = {}
        self._last: ModelCall | None = None

    def add(self, call: ModelCall) -> None:
        """Counts a call."""
        self._last = call
        self._of(call).add(call)
        if self._observe is not None:
            self._observe(call)

    def timed_out(self) -> None:
        """The attempt's time was over: a model that was being asked had not answered."""
        if self._last is not None and self._last.cut_off:
            self._of(self._last).failures += 1

    def usage(self) -> list[ModelUsage]:
        """Totals by Model, simulated and real apart, in the order of the first calls."""
        return [
            ModelUsage(
                model_ref=key[0],
                provider=total.provider,
                model=total.model,
                requests=str(total.requests),
                input_tokens=str(total.input_tokens),
                output_tokens=str(total.output_tokens),
                cached_input_tokens=str(total.cached_input_tokens),
                unanswered=str(total.unanswered),
                simulated=key[1],
                answered=total.answered,
                failures=str(total.failures),
                retry_after_seconds=(
                    None if total.retry_after is None else f"{total.retry_after:.3f}"
                ),
            )
            for key, total in self._totals.items()
        ]

    def _of(self, call: ModelCall) -> "_Total":
        key = (call.model_ref, call.simulated)
        return self._totals.setdefault(key, _Total(call.provider, call.model))


@dataclass
class _Total:
    """The calls of one Model."""

    provider: str
    model: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    unanswered: int = 0
    answered: bool = False
    failures: int = 0
    retry_after: float | None = None

    def add(self, call: ModelCall) -> None:
        self.requests += 1
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.cached_input_tokens += call.cached_input_tokens
        self.unanswered += int(call.unanswered)
        if call.error_class in _FAILURES:
            self.failures += 1
        elif not call.cut_off:
            self.answered, self.failures = True, 0
        self.retry_after = call.retry_after


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
