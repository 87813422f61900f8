"""The agent card: what other agents and people discover about this worker's Agent."""

from a2a.types import a2a_pb2

from corral.api.agent import AgentSpec
from corral.api.attempt import EXTENSION

VERSION = "1.0"


def agent_card(agent: AgentSpec, name: str, revision: str, base_url: str) -> a2a_pb2.AgentCard:
    """The card, with addresses below ``base_url``."""
    card = a2a_pb2.AgentCard(
        name=name,
        description=agent.description or f"The agent {name}.",
        version=revision,
        default_input_modes=["text/plain", "application/json"],
        default_output_modes=["application/json" if agent.output_schema else "text/plain"],
    )
    address = base_url.rstrip("/") + "/"
    for binding in ("HTTP+JSON", "JSONRPC"):
        card.supported_interfaces.add(
            url=address, protocol_binding=binding, protocol_version=VERSION
        )
    card.capabilities.streaming = False
    card.capabilities.push_notifications = False
    card.capabilities.extensions.add(
        uri=EXTENSION,
        description="Attempts with exactly one recorded result, and what their model calls used.",
    )
    for capability in agent.capabilities or [name]:
        card.skills.add(
            id=capability, name=capability, description=agent.description, tags=[capability]
        )
    scheme = card.security_schemes["operator"].http_auth_security_scheme
    scheme.scheme, scheme.bearer_format = "bearer", "JWT"
    card.security_requirements.add().schemes["operator"].SetInParent()
    return card
