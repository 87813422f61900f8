"""What a model is asked in one attempt."""

from collections.abc import Sequence
from dataclasses import dataclass

from corral.api.attempt import ToolDecision
from corral.worker.caps import Caps
from corral.worker.chain import ModelChain
from corral.worker.outcome import UsageMeter
from corral.worker.redaction import Redaction
from corral.worker.schema import OutputSchema

ANSWER = "answer"
"""The tool by which a model gives structured answers."""


@dataclass(frozen=True)
class Question:
    """One attempt, ready to be asked."""

    attempt_id: str
    effect_key: str
    prompt: str
    schema: OutputSchema | None
    meter: UsageMeter
    chain: ModelChain
    caps: Caps
    hidden: Redaction
    """Of what the attempt's servers are sent: keys and headers."""
    correlation_id: str | None = None
    conversation: str | None = None
    """Where an attempt before left off; the prompt is part of it."""
    decisions: Sequence[ToolDecision] = ()
