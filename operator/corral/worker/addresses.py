"""Which Models can be called."""

from corral.api.model import OPENAI_COMPATIBLE, OWN_PROTOCOL, ModelSpec


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
