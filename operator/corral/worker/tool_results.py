"""What a tool answered, as text and as a value."""

from typing import Any

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from pydantic import JsonValue

from corral.worker.schema import compact_json

MAX_RESULT_BYTES = 64 * 1024
"""What a model is shown of one result: results stay in its context, and are paid for, until the
conversation ends."""
MAX_ERROR_BYTES = 4 * 1024


def text_of(result: CallToolResult) -> str:
    """A result for a model: structured content as compact JSON, else the text.

    What is not text is named and left out.
    """
    if result.structured_content is not None:
        return compact_json(result.structured_content)
    return "\n".join(_text(block) for block in result.content)


def value_of(result: CallToolResult) -> tuple[JsonValue, bool]:
    """A result for a workflow: structured content if there is any, else the text as it is; and
    which of the two."""
    if result.structured_content is not None:
        return result.structured_content, True
    return text_of(result), False


def error_of(result: CallToolResult) -> str:
    """What a tool says of its failure."""
    # Text first: of an error, structured content tends to be details for programs.
    said = "\n".join(_text(block) for block in result.content)
    if not said and result.structured_content is not None:
        said = compact_json(result.structured_content)
    return bounded(said, MAX_ERROR_BYTES) or "The tool failed and said nothing."


def bounded(text: str, limit: int = MAX_RESULT_BYTES) -> str:
    """The text, cut off after so many bytes of UTF-8, with a mark that says so."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    shown = data[:limit].decode(errors="ignore")
    return f"{shown}\n[Cut off: the result has {len(data)} bytes; these are the first {limit}.]"


def _text(block: ContentBlock) -> str:
    if isinstance(block, TextContent):
        return block.text
    if isinstance(block, ResourceLink):
        return str(block.uri)
    if isinstance(block, EmbeddedResource):
        resource: Any = block.resource
        if isinstance(resource, TextResourceContents):
            return resource.text
        assert isinstance(resource, BlobResourceContents)
        return _left_out(resource.mime_type, resource.blob)
    assert isinstance(block, ImageContent | AudioContent)
    return _left_out(block.mime_type, block.data)


def _left_out(kind: str | None, base64: str) -> str:
    return f"[Left out: {kind or 'data'} of about {len(base64) * 3 // 4} bytes.]"
