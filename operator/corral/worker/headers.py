"""Headers for servers: what tells them of a call, and secrets for MCP servers.

Secrets are files that the kubelet mounts, read at every connection.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from corral.api.agent import Tool
from corral.api.attempt import HEADERS_DIR
from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptFailedError

CORRELATION_HEADER = "Corral-Correlation-ID"
_WORD = re.compile(r"[!-~]{1,512}")

HeaderSource = Callable[[str, str], str | None]
"""From a tool's and a header's name to the header's value, None if there is none."""

_VALUE = re.compile(r"[\t -~]+")
"""Others make HTTP libraries complain, and quote the value in their complaint."""


class FileHeaders:
    """``<directory>/<tool's name>/<header's name>``."""

    def __init__(self, directory: str = HEADERS_DIR) -> None:
        self._directory = Path(directory)

    def __call__(self, tool: str, header: str) -> str | None:
        """The value, without the newline that editors add; None if absent or empty."""
        try:
            return (self._directory / tool / header).read_text().strip() or None
        except (OSError, UnicodeDecodeError):
            return None


def no_headers(tool: str, header: str) -> str | None:
    """Where there are none."""
    return None


def sendable(headers: Mapping[str, str | None]) -> dict[str, str]:
    """Those that a header can carry: a correlation id is whatever a person wrote."""
    return {name: value for name, value in headers.items() if value and _WORD.fullmatch(value)}


def missing_header(tools: Sequence[Tool] | None, headers: HeaderSource) -> str | None:
    """A sentence that names the Secret and key of the first header whose value is not there."""
    for tool in tools or []:
        for header in (tool.mcp.headers_from if tool.mcp else None) or []:
            if headers(tool.name, header.name) is None:
                reference = header.secret_key_ref
                return (
                    f"Tool {tool.name} has no header {header.name}: Secret {reference.name} "
                    f"has no key {reference.key}, or it is not mounted yet."
                )
    return None


def headers_of(tool: Tool, headers: HeaderSource) -> dict[str, str]:
    """The headers to send to a tool's server now.

    Raises:
        AttemptFailedError: ToolFailed, if a value is missing or can't be sent; never shows one.
    """
    missing = missing_header([tool], headers)
    if missing:
        raise AttemptFailedError(ErrorClass.TOOL_FAILED, missing)
    values = {}
    for header in (tool.mcp.headers_from if tool.mcp else None) or []:
        value = headers(tool.name, header.name) or ""
        if not _VALUE.fullmatch(value):
            raise AttemptFailedError(
                ErrorClass.TOOL_FAILED,
                f"Tool {tool.name}: the value of header {header.name} has characters that a "
                "header can't have.",
            )
        values[header.name] = value
    return values
