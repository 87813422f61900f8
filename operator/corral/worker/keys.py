"""API keys: files that the kubelet mounts, read at every call so that rotation needs no restart."""

from collections.abc import Callable, Mapping
from pathlib import Path

from corral.api.attempt import KEYS_DIR
from corral.api.model import ModelSpec

KeySource = Callable[[str], str | None]
"""From a Model's name to its API key, None if there is none."""


class FileKeys:
    """``<directory>/<Model's name>/key``."""

    def __init__(self, directory: str = KEYS_DIR) -> None:
        self._directory = Path(directory)

    def __call__(self, model: str) -> str | None:
        """The key, without the newline that editors add; None if absent or empty."""
        try:
            return (self._directory / model / "key").read_text().strip() or None
        except OSError:
            return None


def missing_key(models: Mapping[str, ModelSpec], keys: KeySource) -> str | None:
    """A sentence that names the Secret and key of the first Model whose key is not there."""
    for name, model in sorted(models.items()):
        reference = model.api_key_secret_ref
        if reference is not None and keys(name) is None:
            return (
                f"Model {name} has no API key: Secret {reference.name} "
                f"has no key {reference.key}, or it is not mounted yet."
            )
    return None
