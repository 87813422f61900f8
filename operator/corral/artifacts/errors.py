"""What can go wrong with the store, in sentences that name no credential."""

import os
import re

_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_USER_INFO = re.compile(r"://[^/\s@]*@")
_LENGTH = 300


class ArtifactStoreError(Exception):
    """The store can't be used: it does not answer, refuses, or is another one than before.

    The same call may succeed later.
    """


class ArtifactMissingError(ArtifactStoreError):
    """The store works, and does not hold the artifact, or not as it was. This will not pass."""


def said(error: BaseException) -> str:
    """An exception as the end of a sentence: one line, without credentials."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redacted(" ".join(str(text).split()))[:_LENGTH].rstrip(".")


def redacted(text: str) -> str:
    """``text`` without passwords in URLs and without the environment's credentials."""
    for variable in _SECRETS:
        if secret := os.environ.get(variable):
            text = text.replace(secret, "[redacted]")
    return _USER_INFO.sub("://", text)
