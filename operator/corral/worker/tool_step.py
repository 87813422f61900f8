"""A tool call without a model: what the attempt of a ``tool`` step does."""

from pydantic import JsonValue

from corral.api.attempt import ToolInvocation
from corral.api.errors import ErrorClass
from corral.worker.call_spans import CallSpans
from corral.worker.outcome import AttemptFailedError, ToolObserver
from corral.worker.schema import parse_json
from corral.worker.tool_breakers import ToolBreakers
from corral.worker.tool_identity import Identity
from corral.worker.tool_results import error_of, value_of
from corral.worker.tool_server import ToolServer


async def invoke(
    tool: ToolInvocation,
    identity: Identity,
    seconds: float,
    observe: ToolObserver,
    breakers: ToolBreakers,
    spans: CallSpans,
) -> tuple[JsonValue, bool]:
    """Calls the tool once.

    Args:
        seconds: how long the call may take.
        observe: told of the call.
        breakers: of the worker's tool servers.
        spans: the calls as the attempt's trace shows them.

    Returns:
        Its structured content and True, or its text and False: text that is JSON stays text.

    Raises:
        AttemptFailedError: ToolFailed, if the server can't be reached or the tool failed; Rejected
            if the arguments are not a JSON object.
    """
    try:
        arguments = parse_json(tool.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise AttemptFailedError(
            ErrorClass.REJECTED, f"Tool {tool.name}: its arguments are not a JSON object."
        )
    async with ToolServer(
        "", tool.url, {}, seconds, breakers.of(tool.url), spans, tool=tool.name, observe=observe
    ) as server:
        result = await server.call(tool.name, arguments, identity.meta(tool.name, arguments, 1))
    if result.is_error:
        raise AttemptFailedError(ErrorClass.TOOL_FAILED, f"Tool {tool.name}: {error_of(result)}")
    return value_of(result)
