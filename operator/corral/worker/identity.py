"""Who this worker is, as it shows in answers: a token that the kubelet mounts and renews."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic

from corral.api.attempt import IDENTITY_FILE

IdentitySource = Callable[[], str | None]
"""This pod's token for the operator, None if there is none."""

_READ_AGAIN_SECONDS = 30.0
"""Tokens are renewed minutes before they expire."""


class FileIdentity:
    """The token in a file."""

    def __init__(self, path: str = IDENTITY_FILE, clock: Callable[[], float] = monotonic) -> None:
        self._path = Path(path)
        self._clock = clock
        self._token: str | None = None
        self._read_at = float("-inf")

    def __call__(self) -> str | None:
        """The token; None if there is no file, or nothing in it."""
        now = self._clock()
        if self._token is None or now - self._read_at > _READ_AGAIN_SECONDS:
            self._read_at = now
            try:
                self._token = self._path.read_text().strip() or None
            except (OSError, UnicodeDecodeError):
                self._token = None
        return self._token


def anonymous() -> str | None:
    """Where there is none."""
    return None
