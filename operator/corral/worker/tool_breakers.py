"""The breakers of a worker's tool servers: one that is down fails at once, not after a timeout."""

from collections.abc import Callable
from urllib.parse import urlsplit

from corral.breaker import Breaker
from corral.worker.outcome import AttemptFailedError

FAILURES = 5
"""Failures in a row after which a server is left alone."""
REST = 30.0
"""Seconds for which it is."""
_KEPT = 256
Tell = Callable[[str, bool], None]
"""Told of a server's host and whether it is usable."""


class ToolBreakers:
    """By the URL of the server: all attempts of the worker share them."""

    def __init__(self, tell: Tell = lambda host, usable: None) -> None:
        self._tell = tell
        self._breakers: dict[str, Breaker] = {}

    def of(self, url: str) -> Breaker:
        """The breaker of a server."""
        if url not in self._breakers:
            if len(self._breakers) >= _KEPT:  # a step's URL is whatever its author wrote
                self._breakers.pop(next(iter(self._breakers)))
            host = urlsplit(url).netloc.rpartition("@")[2]
            self._breakers[url] = Breaker(
                FAILURES,
                REST,
                [(BaseException, _says_nothing)],
                lambda usable: self._tell(host, usable),
            )
        return self._breakers[url]


def _says_nothing(error: BaseException) -> bool:
    """Whether a server is not to blame: it said that the tool failed, or the attempt was cancelled.

    What it is to blame for is that very class, not one derived from it.
    """
    return type(error) is not AttemptFailedError
