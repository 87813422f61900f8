"""From an A2A message to an attempt, and from an attempt to an A2A task."""

import hashlib
import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from a2a.types import a2a_pb2
from a2a.utils.errors import ContentTypeNotSupportedError, InvalidParamsError
from google.protobuf.json_format import (  # type: ignore[import-untyped]
    MessageToDict,
    ParseDict,
    ParseError,
)
from google.protobuf.struct_pb2 import Value  # type: ignore[import-untyped]
from pydantic import ValidationError

from corral.api.attempt import EXTENSION, AttemptReport, AttemptRequest, InputRequired
from corral.worker.attempt import Attempt
from corral.worker.call_spans import CallSpans
from corral.worker.outcome import AttemptOutcome
from corral.worker.schema import compact_json, whole_numbers

_SAFE_ID = re.compile(r"[A-Za-z0-9._~-]{1,512}")


@dataclass(frozen=True)
class Start:
    """What a message asks for."""

    attempt_id: str
    context_id: str
    text: str | None
    data: dict[str, Any] | None
    request: AttemptRequest | None
    """None for clients that don't speak the extension."""
    schema: dict[str, Any] | None
    timeout_seconds: float | None
    max_output_bytes: int
    max_cost_usd: Decimal | None = None
    max_tokens: int | None = None


def read_start(message: a2a_pb2.Message) -> Start:
    """Reads a message.

    Raises:
        InvalidParamsError: ids, metadata or parts are not as they must be.
        ContentTypeNotSupportedError: a part is a file.
    """
    request = _extension(message)
    text, data = _parts(message)
    if request is None:
        # The message's own id makes a plain client's repeated send idempotent too.
        return Start(
            attempt_id=_plain_id(message.message_id),
            context_id=message.context_id,
            text=text,
            data=data,
            request=None,
            schema=None,
            timeout_seconds=None,
            max_output_bytes=int(AttemptRequest.model_fields["max_output_bytes"].default),
        )
    ids = {request.attempt_id, message.message_id, message.task_id or request.attempt_id}
    if len(ids) != 1 or not _SAFE_ID.fullmatch(request.attempt_id):
        raise InvalidParamsError("messageId and taskId must be the attempt id, and URL-safe.")
    try:
        schema = json.loads(request.output_schema) if request.output_schema else None
        timeout, size = float(request.timeout_seconds), int(request.max_output_bytes)
        cost = None if request.max_cost_usd is None else Decimal(request.max_cost_usd)
        tokens = None if request.max_tokens is None else int(request.max_tokens)
    except (ValueError, InvalidOperation):
        raise InvalidParamsError("A number or the outputSchema can't be read.") from None
    if not 0 < timeout < float("inf") or size <= 0 or not isinstance(schema, dict | None):
        raise InvalidParamsError("timeoutSeconds, maxOutputBytes or outputSchema is impossible.")
    if cost is not None and not cost.is_finite():
        raise InvalidParamsError("maxCostUSD is impossible.")
    return Start(
        attempt_id=request.attempt_id,
        context_id=message.context_id,
        text=text,
        data=data,
        request=request,
        schema=schema,
        timeout_seconds=timeout,
        max_output_bytes=size,
        max_cost_usd=cost,
        max_tokens=tokens,
    )


def to_task(attempt: Attempt, pod_uid: str, revision: str, now: float) -> a2a_pb2.Task:
    """The task as clients see it: state, output as an artifact, the report as metadata."""
    task = a2a_pb2.Task(id=attempt.attempt_id, context_id=attempt.context_id)
    task.status.state = a2a_pb2.TaskState.Value(f"TASK_STATE_{attempt.state}")
    task.status.timestamp.GetCurrentTime()
    outcome = attempt.outcome or AttemptOutcome(usage=attempt.meter.usage())
    spans = attempt.meter.spans if attempt.finished else CallSpans()
    report = AttemptReport(
        attempt_id=attempt.attempt_id,
        pod_uid=pod_uid,
        agent_revision=revision,
        usage=outcome.usage,
        error=outcome.error,
        input_required=outcome.input_required,
        duration_seconds=f"{attempt.elapsed(now):.6f}",
        started_at=None if attempt.began is None else f"{attempt.began:.6f}",
        traceparent=spans.traceparent,
        model_calls=spans.model_calls,
        tool_calls=spans.tool_calls,
    )
    task.metadata[EXTENSION] = report.to_json()
    if outcome.error is not None:
        _say(task, outcome.error.message)
    elif outcome.input_required is not None:
        _say(task, _request(outcome.input_required))
    elif attempt.state == "COMPLETED":
        part = task.artifacts.add(artifact_id="output", name="output").parts.add()
        if outcome.structured:
            part.data.CopyFrom(ParseDict(outcome.output, Value()))
            part.media_type = "application/json"
        else:
            part.text = str(outcome.output)
    return task


def output_problem(outcome: AttemptOutcome, max_bytes: int) -> str | None:
    """Why an output can't be answered, in a sentence; None if it can.

    It may be too large, or something that a task can't hold: a lone surrogate, a number beyond a
    double, nesting beyond a hundred levels.
    """
    try:
        if outcome.input_required is not None:
            size = len(outcome.input_required.conversation)
        elif outcome.structured:
            ParseDict(outcome.output, Value())
            size = len(compact_json(outcome.output).encode())
        else:
            size = len(str(outcome.output).encode())
    except (ValueError, OverflowError, RecursionError, ParseError):
        return "The output has a text, a number or a depth that A2A can't carry."
    if size <= max_bytes:
        return None
    what = "output" if outcome.input_required is None else "conversation until the approval"
    return f"The {what} has {size} bytes, more than the {max_bytes} that are allowed."


def cancelled_task(attempt_id: str) -> a2a_pb2.Task:
    """The task of an attempt that is not here, and won't be."""
    task = a2a_pb2.Task(id=attempt_id)
    task.status.state = a2a_pb2.TASK_STATE_CANCELED
    task.status.timestamp.GetCurrentTime()
    return task


def _say(task: a2a_pb2.Task, text: str) -> None:
    task.status.message.message_id = f"{task.id}.status"
    task.status.message.role = a2a_pb2.ROLE_AGENT
    task.status.message.parts.add(text=text)


def _request(required: InputRequired) -> str:
    """What has to be approved, in a sentence for a person."""
    calls = "; ".join(f"{call.tool} with {call.arguments[:400]}" for call in required.calls)
    return f"A person has to approve: {calls}"


def _extension(message: a2a_pb2.Message) -> AttemptRequest | None:
    if EXTENSION not in message.metadata:
        return None
    try:
        return AttemptRequest.model_validate(MessageToDict(message.metadata)[EXTENSION])
    except ValidationError as error:
        places = ", ".join(sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]}))
        raise InvalidParamsError(f"The extension's metadata is wrong in: {places}.") from None


def _parts(message: a2a_pb2.Message) -> tuple[str | None, dict[str, Any] | None]:
    texts: list[str] = []
    data: dict[str, Any] | None = None
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind == "text":
            texts.append(part.text)
        elif kind == "data":
            value = whole_numbers(MessageToDict(part.data))
            if not isinstance(value, dict) or data is not None:
                raise InvalidParamsError("There may be one data part, and it must be an object.")
            data = value
        else:
            raise ContentTypeNotSupportedError("Only text and data parts are understood.")
    return ("\n".join(texts) if texts else None), data


def _plain_id(message_id: str) -> str:
    if not message_id:
        raise InvalidParamsError("messageId is missing.")
    if _SAFE_ID.fullmatch(message_id):
        return message_id
    return "m-" + hashlib.sha256(message_id.encode()).hexdigest()[:40]
