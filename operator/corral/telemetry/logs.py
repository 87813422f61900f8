"""JSON logs on stderr, one object a line, with the correlation id of what is being worked on."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}")
"""A JWT, such as every token of Kubernetes is: libraries quote headers in their complaints."""
_context: ContextVar[Mapping[str, str]] = ContextVar("corral_log_context", default=_NOTHING)


@contextmanager
def log_context(**fields: str | None) -> Iterator[None]:
    """Adds fields (``correlation_id``, ``workflow``, …) to every line logged inside."""
    merged = dict(_context.get()) | {key: value for key, value in fields.items() if value}
    token = _context.set(merged)
    try:
        yield
    finally:
        _context.reset(token)


def in_words(error: BaseException) -> str:
    """An error by its class and what it says; the repr of aiohttp's has a request's headers."""
    return f"{type(error).__name__}: {error}"


def _timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, as status has it."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the context's fields, extra fields.

    Tokens are left out, and what ``hide`` takes out of a text.
    """

    def __init__(self, hide: Callable[[str], str] = str) -> None:
        super().__init__()
        self._hide = hide

    _standard = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line of JSON."""
        line: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context.get(),
        }
        line |= {
            key: value
            for key, value in record.__dict__.items()
            if key not in self._standard and isinstance(value, str | int | float | bool)
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        clean = {
            key: self._hide(_TOKEN.sub("[redacted]", value)) if isinstance(value, str) else value
            for key, value in line.items()
        }
        return json.dumps(clean, default=str)


def configure_logging(level: str = "info", hide: Callable[[str], str] = str) -> None:
    """Sends everything at ``level`` and above to stderr as JSON; third parties at warning.

    Args:
        hide: takes secrets out of a text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(hide))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("corral").setLevel(level.upper())
