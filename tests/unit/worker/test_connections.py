"""Connections to providers, by the real clients against a server that refuses what it is asked."""

import asyncio
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters

from corral.api.model import ModelSpec
from corral.worker import connections, providers
from tests.unit.worker.serving import serving

pytestmark = pytest.mark.xdist_group("sdks")  # which take seconds to import, once for both


class Refusing:
    """Answers 404 to everything, and keeps from which port each request came."""

    def __init__(self) -> None:
        self.ports: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.ports.append(scope["client"][1])
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
async def test_a_connection_serves_the_next_call_but_not_after_it_idled(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    server = Refusing()
    clients = providers.Clients()
    async with serving(server) as url:
        spec = ModelSpec.model_validate({"provider": provider, "name": "m", "baseURL": url})
        model = clients.get("m", spec, "key")
        for pause in (0.0, 0.0, 0.6):
            await asyncio.sleep(pause)
            with pytest.raises(ModelAPIError):
                await model.request(
                    [ModelRequest.user_text_prompt("x")], None, ModelRequestParameters()
                )
        await clients.aclose()
    first, second, third = server.ports
    assert first == second != third
