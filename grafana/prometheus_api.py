"""Asks a Prometheus."""

import json
import time
import urllib.request
from typing import Any
from urllib.parse import urlencode


class Prometheus:
    """A Prometheus at an address such as ``http://10.99.1.2:9090``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def now(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series that an expression gives, each with ``metric`` and ``value``.

        Args:
            at: when, in seconds since 1970; now where left out.
        """
        return self._asked("query", query=expr, time=time.time() if at is None else at)

    def over(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The same over time, each with ``values``. Times are in seconds."""
        return self._asked("query_range", query=expr, start=start, end=end, step=step)

    def _asked(self, path: str, **words: object) -> list[dict[str, Any]]:
        url = f"{self.address}/api/v1/{path}?{urlencode(words)}"
        with self._open(url, timeout=20) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found
