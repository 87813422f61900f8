"""Provider clients: built once a Model, imported when first used, without retries of their own.

The engine retries, with the workflow's policy; a client that also retried would hide failures,
multiply load on a provider in trouble, and spend an attempt's timeout unseen.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from pydantic_ai.models import Model

from corral.api.model import OPENAI_COMPATIBLE, ModelSpec
from corral.worker import connections

FINGERPRINT = "system_fingerprint"
"""Where an OpenAI-compatible answer's fingerprint is kept in ``provider_details``."""

Close = Callable[[], Awaitable[None]]

_NO_KEY = "none"
"""For servers that need no key; the clients insist on one, or look into the environment."""


class Clients:
    """The models of one worker by the Model's name.

    OpenAI's client asks for the key at every request, so one client serves for ever. The others
    take a key only when they are made: theirs are made anew when the key has changed.
    """

    def __init__(self) -> None:
        self._models: dict[str, tuple[str | None, Model[Any]]] = {}
        self._keys: dict[str, str] = {}
        self._close: list[Close] = []

    def get(self, name: str, spec: ModelSpec, key: str | None) -> Model[Any]:
        """The pydantic-ai model to call with this key."""
        self._keys[name] = key or _NO_KEY
        fixed_key = self._keys[name] if spec.provider in _FIXED_KEY else None
        known = self._models.get(name)
        if known is None or known[0] != fixed_key:
            build = _FIXED_KEY.get(spec.provider)
            model, close = build(spec, self._keys[name]) if build else self._openai(name, spec)
            # A client with an old key may still be in use: all are closed at the end.
            self._close.append(close)
            known = self._models[name] = (fixed_key, model)
        return known[1]

    async def aclose(self) -> None:
        """Closes all connections."""
        for close in self._close:
            await close()
        self._close.clear()
        self._models.clear()

    def _openai(self, name: str, spec: ModelSpec) -> tuple[Model[Any], Close]:
        from openai import AsyncOpenAI, DefaultAsyncHttpx2Client
        from openai.types import chat
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        class ChatModel(OpenAIChatModel):
            def _process_provider_details(
                self, response: chat.ChatCompletion
            ) -> dict[str, Any] | None:
                details = super()._process_provider_details(response) or {}
                return {**details, FINGERPRINT: response.system_fingerprint}

        async def key() -> str:
            return self._keys[name]

        client = AsyncOpenAI(
            base_url=spec.base_url or OPENAI_COMPATIBLE[spec.provider],
            api_key=key,
            max_retries=0,
            http_client=DefaultAsyncHttpx2Client(limits=connections.limits()),
        )
        provider = (
            OpenAIProvider(openai_client=client)
            if spec.provider == "openai" and spec.base_url is None
            else OpenAICompatibleProvider(spec.provider, openai_client=client)
        )
        return ChatModel(spec.name, provider=provider), client.close


def _anthropic(spec: ModelSpec, key: str) -> tuple[Model[Any], Close]:
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = AsyncAnthropic(
        api_key=key,
        base_url=spec.base_url or "https://api.anthropic.com",
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(limits=connections.limits()),
    )
    model = AnthropicModel(spec.name, provider=AnthropicProvider(anthropic_client=client))
    return model, client.close


def _google(spec: ModelSpec, key: str) -> tuple[Model[Any], Close]:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    # Of its own, since the provider never closes the one that it would make. The Model's timeout
    # bounds the whole call elsewhere.
    http = httpx2.AsyncClient(timeout=None, limits=connections.limits())
    provider = GoogleProvider(api_key=key, base_url=spec.base_url, http_client=http)
    return GoogleModel(spec.name, provider=provider), http.aclose


_FIXED_KEY: dict[str, Callable[[ModelSpec, str], tuple[Model[Any], Close]]] = {
    "anthropic": _anthropic,
    "google": _google,
}
