"""JSON logs on stderr, one object a line, with the correlation id of what is being worked on."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})
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


def _timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, as status has it."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the context's fields, extra fields."""

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
        return json.dumps(line, default=str)


def configure_logging(level: str = "info") -> None:
    """Sends everything at ``level`` and above to stderr as JSON; third parties at warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("corral").setLevel(level.upper())
