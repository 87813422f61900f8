"""Gives what fails a rest, so that not everybody who asks it waits for it anew."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

_NAME = "it"
Passing = type[BaseException] | tuple[type[BaseException], Callable[..., bool]]
"""Exceptions, all or those for which the function says so."""


class RestingError(Exception):
    """It failed a moment ago, and is not asked now."""


class Breaker:
    """Lets calls through until several in a row have failed; then, after a rest, one at first.

    Args:
        threshold: failures in a row.
        rest: seconds.
        passing: exceptions that say nothing against what is called.
        tell: told after every call whether it is usable.
    """

    def __init__(
        self,
        threshold: int,
        rest: float,
        passing: Sequence[Passing],
        tell: Callable[[bool], None] = lambda usable: None,
    ) -> None:
        self._factory = AsyncCircuitBreakerFactory(threshold, rest, exclude=[*passing])
        self._tell = tell
        tell(True)

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
            self._tell(breaker.context.state == "closed")
