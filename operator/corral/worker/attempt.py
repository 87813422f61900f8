"""One attempt as the worker holds it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from corral.api.attempt import AttemptError
from corral.worker.outcome import AttemptOutcome, UsageMeter


class State(StrEnum):
    """The names of A2A's task states."""

    SUBMITTED = "SUBMITTED"
    WORKING = "WORKING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    """It has ended here: another attempt goes on when a person has decided."""


class RefusedError(Exception):
    """The worker does not take this call; ``reason`` is one of ``attempt.REFUSALS``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


Job = Callable[[UsageMeter], Awaitable[AttemptOutcome]]


@dataclass(eq=False)
class Attempt:
    """One attempt. Times are of the table's clock, in seconds."""

    attempt_id: str
    job: Job
    meter: UsageMeter
    context_id: str = ""
    forget_after: float | None = None
    """Seconds after its end, for clients that don't ack; None keeps it until the ack."""
    state: State = State.SUBMITTED
    started_at: float | None = None
    ended_at: float | None = None
    began: float | None = None
    """When it started, in seconds since the epoch."""
    outcome: AttemptOutcome | None = None
    size: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[AttemptOutcome] | None = None
    stop_reason: AttemptError | None = None
    """Set when the table itself stops the attempt, which then is FAILED and not CANCELED."""
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.ended_at is not None

    def elapsed(self, now: float) -> float:
        """How long it has worked; 0 while SUBMITTED, since its timeout has not begun either."""
        if self.started_at is None:
            return 0.0
        return (self.ended_at if self.ended_at is not None else now) - self.started_at
