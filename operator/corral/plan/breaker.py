"""The circuit of a Model: whether it may be asked, after how it answered.

============  ==================================================  ============================
state         lets start                                          becomes
============  ==================================================  ============================
Closed        everything, but while the provider asked to wait    Open: so many failures in a row
Open          nothing, until ``resetAfter`` is over; then one     HalfOpen: with that one
HalfOpen      nothing more                                        Closed: it was answered
                                                                  Open: it failed
============  ==================================================  ============================

A failure is a call that ended with ModelUnavailable, with RateLimited, or without an answer within
the attempt's time. Everything else that the provider said is an answer. The one attempt of
HalfOpen is the probe; if it ends without a call of the Model, the next takes its place at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from corral.api.model import SIMULATED, CircuitBreaker, ModelSpec
from corral.api.types import seconds

State = Literal["Closed", "Open", "HalfOpen"]


def breaker_of(spec: ModelSpec) -> CircuitBreaker | None:
    """The breaker of a Model; one that only simulates failures has none unless it names one."""
    if spec.circuit_breaker is None and spec.provider == SIMULATED:
        return None
    return spec.circuit_breaker or CircuitBreaker()


@dataclass
class Circuit:
    """One Model's. Times are seconds of a clock that never goes back."""

    breaker: CircuitBreaker | None = None
    """None: it never opens."""
    failures: int = 0
    """In a row."""
    opened: bool = False
    retry_at: float = 0.0
    """When it is asked again: an open circuit's probe, or what the provider asked to wait."""
    probes: set[str] = field(default_factory=set)
    """Attempts whose end decides; more than one only where a former leader began them."""

    @property
    def state(self) -> State:
        if not self.opened:
            return "Closed"
        return "HalfOpen" if self.probes else "Open"

    def lets_start(self, now: float) -> bool:
        """Whether one attempt more may ask the Model."""
        return now >= self.retry_at and not (self.opened and self.probes)

    def waits(self, now: float) -> bool:
        """Whether it is left alone until ``retry_at``."""
        return now < self.retry_at or (self.opened and not self.probes)

    def begin(self, attempt: str) -> None:
        """An attempt is to ask the Model, as ``lets_start`` said that it may."""
        if self.opened:
            self.probes.add(attempt)

    def end(self, attempt: str, now: float, *, answered: bool, failures: int) -> None:
        """An attempt is over: whether a call of it was answered, and how many failed since then.

        Neither, where it made no call, or nobody knows.
        """
        was_probe = attempt in self.probes
        self.probes.discard(attempt)
        if self.opened:
            # Of the others one can't say whether they began before the trouble did.
            if was_probe and failures:
                self._open(now)
            elif was_probe and answered:
                self.close()
            return
        self.failures = failures if answered else self.failures + failures
        if self.breaker is not None and self.failures >= self.breaker.failure_threshold:
            self._open(now)

    def hold(self, until: float) -> None:
        """The provider asked to be left alone until then."""
        self.retry_at = max(self.retry_at, until)

    def close(self) -> None:
        """Lets everything through again."""
        self.opened = False
        self.failures = 0
        self.probes.clear()

    def _open(self, now: float) -> None:
        self.opened = True
        self.failures = 0
        if self.breaker is not None:
            self.hold(now + seconds(self.breaker.reset_after))
