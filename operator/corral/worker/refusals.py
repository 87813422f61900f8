"""Refusals in the words of both A2A bindings: HTTP status and reason, JSON-RPC code and reason."""

from a2a.server.jsonrpc_models import JSONRPCError
from a2a.server.request_handlers.response_helpers import EXCEPTION_MAP
from a2a.utils.errors import (
    A2A_ERROR_MAPPING,
    A2A_ERROR_REASONS,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    ErrorMapping,
)

from corral.api.attempt import REFUSALS
from corral.worker.attempt import RefusedError

_FIRST_CODE = -32050
_STATUS = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}


class RefusalA2AError(A2AError):
    """A refusal as the SDK's error. The SDK maps errors by their exact type: one for each."""


def _register(reason: str, status: int, code: int) -> type[RefusalA2AError]:
    kind = type(reason, (RefusalA2AError,), {})
    grpc_status = _STATUS.get(status, "FAILED_PRECONDITION")
    A2A_ERROR_MAPPING[kind] = ErrorMapping(status, grpc_status, reason)
    A2A_ERROR_REASONS[kind] = reason
    JSON_RPC_ERROR_CODE_MAP[kind] = code
    EXCEPTION_MAP[kind] = JSONRPCError
    return kind


_KINDS = {
    reason: _register(reason, status, _FIRST_CODE - index)
    for index, (reason, status) in enumerate(REFUSALS.items())
}


def to_a2a(refused: RefusedError) -> RefusalA2AError:
    """The error to raise in a request handler."""
    return _KINDS[refused.reason](refused.message)
