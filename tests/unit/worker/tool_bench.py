"""Tool servers, model servers and Agents that use them: all real, over HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.modelserver.app import create_app as create_model_server
from corral.modelserver.rules import RuleSet
from corral.toolserver.app import create_app
from corral.worker.headers import HeaderSource, no_headers
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.serving import serving


class Tools:
    """A tool server."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/mcp"
        self._journal = f"{url}/journal"

    async def calls(self, **filters: str) -> list[dict[str, Any]]:
        async with httpx.AsyncClient() as client:
            found: list[dict[str, Any]] = (await client.get(self._journal, params=filters)).json()[
                "calls"
            ]
        return found

    def entry(self, name: str = "library", **mcp: Any) -> dict[str, Any]:
        """An Agent's tool."""
        return {"name": name, "mcp": {"url": self.url, **mcp}}


@asynccontextmanager
async def model_server(*rules: dict[str, Any]) -> AsyncIterator[dict[str, dict[str, Any]]]:
    """A model server with these rules, while inside; gives the Models that ask it."""
    async with serving(create_model_server(RuleSet.model_validate({"rules": rules}))) as url:
        yield {"real": {"provider": "openai", "name": "m", "baseURL": f"{url}/v1"}}


@asynccontextmanager
async def tools(token: Callable[[], str | None] = lambda: None) -> AsyncIterator[Tools]:
    """A tool server, while inside."""
    app = create_app(token)
    async with app.router.lifespan_context(app), serving(app) as url:
        yield Tools(url)


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A tool call as rules and scripts have it."""
    return {"name": name, "arguments": arguments}


def simulated(*calls: dict[str, Any], reply: str = "done", **simulation: Any) -> dict[str, Any]:
    """A simulated Model that makes these calls, and then replies."""
    script = [{"match": "", "reply": reply, "toolCalls": list(calls)}]
    return {
        "provider": "simulated",
        "simulation": {
            "script": script if calls else None,
            "reply": reply,
            "inputTokens": 50,
            "outputTokens": 20,
            **simulation,
        },
    }


def runtime(
    models: dict[str, dict[str, Any]] | dict[str, Any],
    *entries: dict[str, Any],
    headers: HeaderSource = no_headers,
    **agent: Any,
) -> AgentRuntime:
    """A runtime whose Agent asks the first of the models."""
    return AgentRuntime(
        AgentSpec.model_validate(
            {"modelRef": {"name": next(iter(models))}, "tools": list(entries) or None, **agent}
        ),
        "researcher",
        {name: ModelSpec.model_validate(spec) for name, spec in models.items()},
        lambda model: None,
        headers,
    )
