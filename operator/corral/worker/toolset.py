"""An Agent's tools as pydantic-ai knows them: names, approvals, effect keys, bounds.

The name that a model calls a tool by is the server's own name for it, with ``_`` for what
providers don't allow in names, and at most 64 characters. Where two tools would have the same
name, or one has the name that answers are given by, all of them are called
``<entry's name>_<own name>`` instead.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from mcp.types import Tool as ServerTool
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ApprovalRequired, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from corral.api.agent import MCPServer, Tool
from corral.api.attempt import META_EFFECT_KEY
from corral.api.errors import ErrorClass
from corral.api.types import seconds
from corral.worker.call_spans import CallSpans
from corral.worker.headers import HeaderSource, headers_of
from corral.worker.outcome import AttemptFailedError, ToolObserver, unobserved
from corral.worker.question import ANSWER
from corral.worker.tool_breakers import ToolBreakers
from corral.worker.tool_identity import Identity, digest
from corral.worker.tool_results import bounded, error_of, text_of
from corral.worker.tool_server import ToolServer

logger = logging.getLogger(__name__)

_NAME_LENGTH = 64
_DESCRIPTION_LENGTH = 4096
_OTHER_CHARACTERS = re.compile(r"[^a-zA-Z0-9_-]")
# Arguments are validated by the server, which knows best and says what is wrong.
_ANY_OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


@dataclass(frozen=True)
class _Offered:
    """A tool that the model may call."""

    entry: Tool
    tool: ServerTool
    approval: bool
    server: ToolServer


class AgentTools(AbstractToolset[Any]):
    """The tools of one attempt; connected while it runs.

    Args:
        max_calls: how many calls the attempt may make, failed ones too.
        breakers: of the worker's tool servers.
        spans: the calls as the attempt's trace shows them.
    """

    def __init__(
        self,
        entries: Sequence[Tool],
        headers: HeaderSource,
        identity: Identity,
        max_calls: int | None,
        breakers: ToolBreakers,
        spans: CallSpans,
        observe: ToolObserver = unobserved,
    ) -> None:
        self._entries = [entry for entry in entries if entry.mcp is not None]
        self._headers = headers
        self._identity = identity
        self._max_calls = max_calls
        self._breakers = breakers
        self._spans = spans
        self._observe = observe
        self._calls = 0
        self._offered: dict[str, _Offered] = {}
        self._stack = AsyncExitStack()

    @property
    def id(self) -> str:
        """One toolset for all servers."""
        return "tools"

    async def __aenter__(self) -> Self:
        """Connects to all servers at once.

        Raises:
            AttemptFailedError: ToolFailed, if one can't be reached or lacks a tool that the Agent
                names.
        """
        async with self._stack:
            found = await asyncio.gather(
                *(self._connect(entry) for entry in self._entries), return_exceptions=True
            )
            for result in found:
                if isinstance(result, BaseException):
                    raise result
            self._offered = _named(
                [one for result in found if not isinstance(result, BaseException) for one in result]
            )
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *args: Any) -> None:
        await self._stack.aclose()

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """What the model is told of."""
        return {
            name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=name,
                    description=(offered.tool.description or "")[:_DESCRIPTION_LENGTH] or None,
                    parameters_json_schema=offered.tool.input_schema,
                ),
                max_retries=ctx.max_retries,
                args_validator=_ANY_OBJECT,
            )
            for name, offered in self._offered.items()
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> str:
        """Calls a tool; gives its result as bounded text.

        Raises:
            ApprovalRequired: a person has to agree first.
            ToolFailed: the tool says that it failed, which the model is told.
            AttemptFailedError: ToolFailed, if the server is gone; InvalidOutput, if the attempt
                has made all the calls that it may.
        """
        offered = self._offered[name]
        if offered.approval and not ctx.tool_call_approved:
            raise ApprovalRequired
        self._calls += 1
        if self._max_calls is not None and self._calls > self._max_calls:
            raise AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"The attempt made all of its {self._max_calls} tool calls (maxToolCalls) "
                "without an answer.",
            )
        ordinal = _ordinal(ctx.messages, name, tool_args, ctx.tool_call_id)
        meta = self._identity.meta(name, tool_args, ordinal)
        logger.info("Tool %s is called.", name, extra={"effect_key": meta[META_EFFECT_KEY]})
        result = await offered.server.call(offered.tool.name, tool_args, meta, ctx.tool_call_id)
        if result.is_error:
            raise ToolFailed(error_of(result))
        return bounded(text_of(result))

    async def _connect(self, entry: Tool) -> list[_Offered]:
        mcp = entry.mcp
        assert mcp is not None
        server = ToolServer(
            entry.name,
            mcp.url,
            headers_of(entry, self._headers),
            seconds(mcp.timeout),
            self._breakers.of(mcp.url),
            self._spans,
            observe=self._observe,
        )
        await self._stack.enter_async_context(server)
        tools = {tool.name: tool for tool in await server.list_tools()}
        for field, names in (("allow", mcp.allow), ("requireApproval", mcp.require_approval)):
            for name in names or []:
                if name not in tools:
                    # A name misspelt in requireApproval would leave the real tool unguarded.
                    raise AttemptFailedError(
                        ErrorClass.TOOL_FAILED,
                        f"Tool {entry.name}: {field} names {name!r}, which its server does not "
                        f"have; it has {', '.join(sorted(tools)[:20]) or 'none'}.",
                    )
        return [
            _Offered(entry, tool, name in (mcp.require_approval or []), server)
            for name, tool in tools.items()
            if _allowed(name, mcp)
        ]


def _allowed(name: str, mcp: MCPServer) -> bool:
    return mcp.allow is None or name in mcp.allow


def _named(offered: Sequence[_Offered]) -> dict[str, _Offered]:
    """By the name that the model uses."""
    counts = Counter(_safe(one.tool.name) for one in offered)
    named: dict[str, _Offered] = {}
    for one in offered:
        name = _safe(one.tool.name)
        if counts[name] > 1 or name == ANSWER:
            name = _safe(f"{one.entry.name}_{one.tool.name}")
        if name in named:
            raise AttemptFailedError(
                ErrorClass.TOOL_FAILED,
                f"Tool {one.entry.name}: two tools would be called {name!r}; "
                "rename the entry, or allow only one of them.",
            )
        named[name] = one
    return named


def _safe(name: str) -> str:
    return _OTHER_CHARACTERS.sub("_", name)[:_NAME_LENGTH]


def _ordinal(
    messages: Sequence[ModelMessage], name: str, arguments: Mapping[str, Any], call_id: str | None
) -> int:
    """The how-manieth call of this kind it is in the conversation, from 1.

    Counted by place and not by time, so that it is the same when the conversation goes on in
    another attempt, and when calls of one answer run at the same time.
    """
    wanted, count, found = digest(arguments), 0, 0
    for message in messages:
        for part in message.parts if isinstance(message, ModelResponse) else ():
            if not isinstance(part, ToolCallPart) or part.tool_name != name:
                continue
            if digest(part.args_as_dict()) != wanted:
                continue
            count += 1
            if part.tool_call_id == call_id:
                found = count  # the last one: some servers begin to count ids anew in each answer
    return found or max(count, 1)
