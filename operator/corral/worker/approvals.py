"""Tool calls that wait for a person: what leaves one attempt, and how another goes on.

An approval is bound to the tool and its arguments: the id that a decision names has a hash of both
in it, and it is made anew from the conversation when that goes on.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart
from pydantic_ai.tools import DeferredToolResults, ToolApproved, ToolDenied

from corral.api.attempt import InputRequired, PendingCall, ToolDecision
from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptFailedError
from corral.worker.schema import compact_json
from corral.worker.tool_identity import digest

VERSION = "1"
MAX_CONVERSATION_BYTES = 32 * 2**20


class _Conversation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    messages: str
    """pydantic-ai's JSON."""
    pending: list[str]
    """Ids of the model's tool calls."""


def input_required(
    messages: Sequence[ModelMessage], calls: Sequence[ToolCallPart]
) -> InputRequired:
    """What an attempt leaves behind that ends with these calls waiting.

    The conversation is ``<version>:<base64 of zlib of JSON>``: it is kept where size is dear.
    """
    kept = _Conversation(
        messages=ModelMessagesTypeAdapter.dump_json(list(messages)).decode(),
        pending=[call.tool_call_id for call in calls],
    )
    packed = base64.b64encode(zlib.compress(kept.model_dump_json().encode(), 9)).decode()
    return InputRequired(
        conversation=f"{VERSION}:{packed}",
        calls=[
            PendingCall(
                call_id=_bound_id(call),
                tool=call.tool_name,
                arguments=compact_json(call.args_as_dict()),
            )
            for call in calls
        ],
    )


def resumed(
    conversation: str, decisions: Sequence[ToolDecision]
) -> tuple[list[ModelMessage], DeferredToolResults]:
    """The conversation, and what was decided on its pending calls.

    Raises:
        AttemptFailedError: Internal, if the conversation can't be read; Rejected, if the decisions
            are not one for each pending call.
    """
    kept, messages = _read(conversation)
    last = next((one for one in reversed(messages) if isinstance(one, ModelResponse)), None)
    calls = {
        _bound_id(part): part.tool_call_id
        for part in (last.parts if last else ())
        if isinstance(part, ToolCallPart) and part.tool_call_id in kept.pending
    }
    approvals: dict[str, bool | ToolApproved | ToolDenied] = {}
    for decision in decisions:
        call_id = calls.get(decision.call_id)
        if call_id is None:
            raise _refused(f"no call that waits has the id {decision.call_id!r}")
        if call_id in approvals:
            raise _refused(f"there are two on {decision.call_id!r}")
        approvals[call_id] = (
            ToolApproved() if decision.approved else ToolDenied(_rejection(decision.comment))
        )
    missing = [bound for bound, call_id in calls.items() if call_id not in approvals]
    if missing or len(calls) != len(kept.pending):
        raise _refused(f"there is none on {', '.join(missing) or 'a call that waits'}")
    return messages, DeferredToolResults(approvals=approvals)


def _bound_id(call: ToolCallPart) -> str:
    return f"{call.tool_call_id}~{digest({call.tool_name: call.args_as_dict()})}"


def _read(conversation: str) -> tuple[_Conversation, list[ModelMessage]]:
    version, _, packed = conversation.partition(":")
    try:
        if version != VERSION:
            raise ValueError(version)
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_CONVERSATION_BYTES)
        if not unpacker.eof:
            raise ValueError("too long, or cut off")
        kept = _Conversation.model_validate_json(data)
        return kept, ModelMessagesTypeAdapter.validate_json(kept.messages)
    except (ValueError, ValidationError, zlib.error, binascii.Error):
        raise AttemptFailedError(
            ErrorClass.INTERNAL, "The conversation to go on with can't be read by this worker."
        ) from None


def _rejection(comment: str) -> str:
    return "A person rejected this call." + (f" They say: {comment}" if comment else "")


def _refused(why: str) -> AttemptFailedError:
    return AttemptFailedError(
        ErrorClass.REJECTED, f"The decisions on tool calls are not those that are needed: {why}."
    )
