"""Gives a store that fails a rest, so that not every pass waits for it anew."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from corral.telemetry import metrics

_NAME = "artifacts"


class RestingError(Exception):
    """The store failed a moment ago, and is not asked now."""


class Breaker:
    """Lets calls through until several in a row have failed; then, after a rest, one at first.

    Args:
        threshold: failures in a row.
        rest: seconds.
        passing: exceptions that say nothing against the store.
    """

    def __init__(self, threshold: int, rest: float, passing: list[type[BaseException]]) -> None:
        self._factory = AsyncCircuitBreakerFactory(threshold, rest, exclude=[*passing])
        metrics.ARTIFACT_STORE_USABLE.set(1)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around a call.

        Raises:
            RestingError: instead of the call.
        """
        breaker = await self._factory.get_breaker(_NAME)
        # purgatory lets every call through once the rest is over; one is enough to find out.
        if breaker.context.state == "half-opened":
            raise RestingError
        try:
            async with breaker:
                yield
        except OpenedState:
            raise RestingError from None
        finally:
            metrics.ARTIFACT_STORE_USABLE.set(breaker.context.state == "closed")
