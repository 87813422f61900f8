"""API keys from environment variables."""

import os
from collections.abc import Mapping

from corral.api.model import ModelSpec

PREFIX = "CORRAL_KEY_"
USUAL = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "cerebras": ("CEREBRAS_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "together": ("TOGETHER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
"""The variables that the providers' own tools read."""


class EnvironmentKeys:
    """From a Model's name to its key: ``CORRAL_KEY_<MODEL>``, else the provider's own variable.

    A Model with a baseURL gets only the former: a file must not be able to send the key that
    somebody keeps for a provider to an address of its choice.
    """

    def __init__(
        self, models: Mapping[str, ModelSpec], environment: Mapping[str, str] | None = None
    ) -> None:
        self._models = models
        self._environment = os.environ if environment is None else environment

    def __call__(self, model: str) -> str | None:
        """The key; None if no variable is set."""
        for variable in self.variables(model):
            if value := self._environment.get(variable, "").strip():
                return value
        return None

    def variables(self, model: str) -> tuple[str, ...]:
        """What may hold the key, in the order in which it is looked for."""
        own = PREFIX + "".join(c if c.isalnum() else "_" for c in model).upper()
        spec = self._models.get(model)
        if spec is None or spec.base_url is not None:
            return (own,)
        return (own, *USUAL.get(spec.provider, ()))

    def missing(self, model: str) -> str | None:
        """A sentence that says what to set for a Model that needs a key and has none."""
        spec = self._models[model]
        if spec.provider == "simulated" or self(model) is not None:
            return None
        if spec.base_url is not None and spec.api_key_secret_ref is None:
            return None  # a server that needs none
        return f"Model {model!r} has no API key: set {' or '.join(self.variables(model))}"
