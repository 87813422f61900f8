"""What a model is asked in one attempt."""

from dataclasses import dataclass

from corral.worker.outcome import UsageMeter
from corral.worker.schema import OutputSchema


@dataclass(frozen=True)
class Question:
    """One attempt, ready to be asked."""

    attempt_id: str
    effect_key: str
    prompt: str
    schema: OutputSchema | None
    meter: UsageMeter
    correlation_id: str | None = None
