"""What may be kept of a value that came from outside: JSON that every reader can read again.

The journal's reader gives up below 200 levels and its writer on halves of surrogate pairs, so
that one strange answer of a model could make a run unreadable. Such a value is refused where it
comes in.
"""

import math
from typing import Any

MAX_DEPTH = 64
"""Lists and objects within one another."""


def unfit(value: Any) -> str:
    """Why ``value`` can't be kept, in words that follow "it"; empty where it can."""
    pending = [(value, 0)]
    while pending:
        current, depth = pending.pop()
        if isinstance(current, str):
            if not _encodable(current):
                return "holds text that is no Unicode"
        elif isinstance(current, float):
            if not math.isfinite(current):
                return f"holds {current}, which JSON cannot"
        elif isinstance(current, list | dict):
            if depth == MAX_DEPTH:
                return f"is nested more than {MAX_DEPTH} levels deep"
            if isinstance(current, dict):
                if not all(isinstance(key, str) and _encodable(key) for key in current):
                    return "has a key that is no text"
                current = list(current.values())
            pending += [(item, depth + 1) for item in current]
    return ""


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
