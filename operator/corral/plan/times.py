"""Times: seconds since the epoch inside, RFC 3339 in UTC outside."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def rfc3339(moment: float) -> str:
    """``2026-01-31T12:00:00Z``, to the second, as Kubernetes writes it."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_millis(moment: float) -> str:
    """``2026-01-31T12:00:00.250Z``: steps may take milliseconds."""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def parse(text: str) -> float:
    """The inverse of both.

    Raises:
        ValueError: no RFC 3339 time.
    """
    return datetime.fromisoformat(text).timestamp()


def is_zone(name: str) -> bool:
    """Whether there is a time zone of that IANA name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
