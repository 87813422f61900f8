"""Which providers there are, and where those that speak OpenAI's protocol are found."""

from corral.api.model import ModelSpec

OPENAI_COMPATIBLE = {
    "openai": "https://api.openai.com/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "deepseek": "https://api.deepseek.com",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together": "https://api.together.xyz/v1",
    "xai": "https://api.x.ai/v1",
}
"""Any other provider with a ``baseURL`` is taken to be OpenAI-compatible too."""

OWN_PROTOCOL = ("anthropic", "google")


def unsupported(name: str, spec: ModelSpec) -> str | None:
    """Why this Model can't be called, in a sentence; None if it can."""
    if not spec.name:
        return f"Model {name} has no spec.name, the model's name at its provider."
    if spec.provider in OWN_PROTOCOL or spec.provider in OPENAI_COMPATIBLE or spec.base_url:
        return None
    return (
        f"Model {name}: provider {spec.provider} has no known address; "
        "set spec.baseURL to an OpenAI-compatible one."
    )
