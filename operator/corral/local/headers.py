"""Headers for MCP servers from environment variables."""

import os
from collections.abc import Iterator, Mapping, Sequence

from corral.api.agent import Tool

PREFIX = "CORRAL_HEADER_"


class EnvironmentHeaders:
    """From a tool's and a header's name to ``CORRAL_HEADER_<TOOL>_<HEADER>``."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment

    def __call__(self, tool: str, header: str) -> str | None:
        """The value; None if the variable is not set."""
        return self._environment.get(variable(tool, header), "").strip() or None

    def missing(self, tools: Sequence[Tool]) -> Iterator[str]:
        """What to set for headers that have no value, a sentence each."""
        for tool in tools:
            for header in (tool.mcp.headers_from if tool.mcp else None) or []:
                if self(tool.name, header.name) is None:
                    name = variable(tool.name, header.name)
                    yield f"tool {tool.name!r} has no header {header.name}: set {name}"


def variable(tool: str, header: str) -> str:
    """The environment variable of a header."""
    text = f"{tool}_{header}"
    return PREFIX + "".join(c if c.isalnum() else "_" for c in text).upper()
