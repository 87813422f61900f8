"""The tools: some that look something up, one with an effect, some that misbehave on purpose."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, cast

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult
from pydantic import BaseModel, Field

from corral.api.attempt import META_EFFECT_KEY
from corral.toolserver.journal import Journal

MAX_LARGE_BYTES = 16 * 2**20
_MAX_SLOW_SECONDS = 600.0
_EFFECTS_KEPT = 100_000

DOCUMENTS = (
    (
        "Solid-state batteries",
        "A solid electrolyte replaces the liquid one. It does not burn, and allows lithium metal "
        "anodes with about 400 Wh/kg in the laboratory; making it cheaply is what is missing.",
    ),
    (
        "Sodium-ion batteries",
        "Sodium is cheap and everywhere. Cells reach about 160 Wh/kg and work well in the cold; "
        "they suit grid storage and small cars.",
    ),
    (
        "Redox flow batteries",
        "Energy is stored in tanks of electrolyte, so power and capacity are bought apart. They "
        "last for decades and are heavy: for the grid, not for vehicles.",
    ),
    (
        "Heat pumps",
        "A heat pump moves three to four units of heat for each unit of electricity. Propane as "
        "a refrigerant harms the climate little.",
    ),
    (
        "Offshore wind",
        "Turbines of 15 MW stand in water of up to 60 m; floating ones go deeper. Grid "
        "connections are what projects wait for.",
    ),
    (
        "Green hydrogen",
        "Electrolysers split water with renewable electricity at about 50 kWh a kilogram. Steel "
        "and fertiliser need it first.",
    ),
)
"""What ``search`` knows: titles and texts."""


class Found(BaseModel):
    """A document that matches."""

    title: str
    text: str


class Deleted(BaseModel):
    """What ``delete`` did."""

    name: str
    deletions: int
    """How often something of that name has been deleted."""


class Effects:
    """Deletions, each effect key at most once."""

    def __init__(self) -> None:
        self._done: dict[str, Deleted] = {}
        self._counts: dict[str, int] = {}

    def delete(self, name: str, effect_key: str | None) -> Deleted:
        """Deletes, unless that key has been here before."""
        if effect_key is not None and effect_key in self._done:
            return self._done[effect_key]
        self._counts[name] = self._counts.get(name, 0) + 1
        deleted = Deleted(name=name, deletions=self._counts[name])
        if effect_key is not None:
            self._done[effect_key] = deleted
            if len(self._done) > _EFFECTS_KEPT:
                self._done.pop(next(iter(self._done)))
        return deleted

    def known(self, effect_key: object) -> bool:
        """Whether that key has been here before."""
        return effect_key in self._done

    def clear(self) -> None:
        """Forgets everything."""
        self._done.clear()
        self._counts.clear()


def create_server(journal: Journal, effects: Effects, name: str = "corral-tools") -> MCPServer:
    """The server with its tools; every call is written to the journal."""

    async def recorded(
        ctx: ServerRequestContext[Any, Any],
        call_next: Callable[[ServerRequestContext[Any, Any]], Awaitable[Any]],
    ) -> Any:
        if ctx.method != "tools/call":
            return await call_next(ctx)
        params, meta = ctx.params or {}, cast("Mapping[str, Any]", ctx.meta or {})
        repeated = effects.known(meta.get(META_EFFECT_KEY))
        outcome = "Failed"
        try:
            result = await call_next(ctx)
            if not _failed(result):
                outcome = "Repeated" if repeated else "Answered"
            return result
        finally:
            journal.record(
                tool=str(params.get("name")),
                arguments=params.get("arguments") or {},
                outcome=outcome,
                meta=meta,
                headers=getattr(ctx.request, "headers", {}),
            )

    server: MCPServer[Any] = MCPServer(
        name, log_level="WARNING", middleware=[recorded], subscriptions=False
    )

    @server.tool()
    async def search(
        query: Annotated[str, Field(description="Words to look for.")],
    ) -> list[Found]:
        """Search a small library on energy; the best matches come first."""
        words = _words(query)
        ranked = sorted(
            (-2 * len(words & _words(title)) - len(words & _words(text)), title, text)
            for title, text in DOCUMENTS
        )
        return [Found(title=title, text=text) for score, title, text in ranked if score][:3]

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    @server.tool()
    async def delete(
        name: Annotated[str, Field(description="What to delete.")], context: Context[Any, Any]
    ) -> Deleted:
        """Delete something for ever."""
        meta = cast("Mapping[str, Any]", context.request_context.meta or {})
        return effects.delete(name, meta.get(META_EFFECT_KEY))

    @server.tool()
    async def fail(message: str) -> str:
        """Fail with a message."""
        raise ToolError(message)

    @server.tool()
    async def slow(seconds: Annotated[float, Field(ge=0, le=_MAX_SLOW_SECONDS)]) -> str:
        """Answer after a while."""
        await asyncio.sleep(seconds)
        return f"This took {seconds:g} s."

    @server.tool(structured_output=False)
    async def large(size: Annotated[int, Field(ge=0, le=MAX_LARGE_BYTES)]) -> str:
        """Answer with a text of so many bytes."""
        return ("0123456789" * (size // 10 + 1))[:size]

    return server


def _words(text: str) -> set[str]:
    """The words that say what it is about."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def _failed(result: Any) -> bool:
    if isinstance(result, CallToolResult):
        return bool(result.is_error)
    return isinstance(result, dict) and bool(result.get("isError"))
