"""Keeps secrets out of what a worker says: a server that is sent a key may send it back."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse

MARK = "[redacted]"
_LEAST_LENGTH = 6
"""Shorter ones are words that texts have anyway."""


class Redaction:
    """Puts a mark in the place of secrets.

    Args:
        secrets: keys and headers' values; of ``Bearer x`` and the like ``x`` is one as well.
    """

    def __init__(self, secrets: Iterable[str | None]) -> None:
        whole = {secret for secret in secrets if secret}
        parts = whole | {secret.rpartition(" ")[2] for secret in whole}
        written = parts | {quote(part, safe="") for part in parts}
        self._secrets = sorted(
            (text for text in written if len(text) >= _LEAST_LENGTH), key=len, reverse=True
        )

    def text(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return text

    def value(self, value: Any) -> Any:
        """JSON without secrets, names included; other things as they are."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(name): self.value(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return value

    def response(self, response: "ModelResponse") -> "ModelResponse":
        """A model's answer without secrets: what it says, and what it asks tools for."""
        if not self._secrets:
            return response
        parts = [self._fields(part) for part in response.parts]
        clean: ModelResponse = self._fields(replace(response, parts=parts))
        return clean

    def _fields(self, of: Any) -> Any:
        """A dataclass without secrets in its text and JSON."""
        before = {f.name: getattr(of, f.name) for f in fields(of) if f.init and f.name != "parts"}
        after = {name: self.value(one) for name, one in before.items()}
        changed = {name: one for name, one in after.items() if one != before[name]}
        return replace(of, **changed) if changed else of
