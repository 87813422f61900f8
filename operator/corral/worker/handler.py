"""The request handler behind the A2A SDK's routes: both bindings, one execution per attempt."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from time import monotonic
from typing import Any, NoReturn

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import a2a_pb2
from a2a.utils.errors import (
    ExtendedAgentCardNotConfiguredError,
    PushNotificationNotSupportedError,
    TaskNotFoundError,
    UnsupportedOperationError,
)

from corral.api.attempt import AttemptError
from corral.api.errors import ErrorClass
from corral.telemetry.logs import log_context
from corral.worker.attempt import Attempt, Job, RefusedError
from corral.worker.attempts import AttemptTable
from corral.worker.call_spans import CallSpans
from corral.worker.gate import Gate
from corral.worker.messages import Start, cancelled_task, output_problem, read_start, to_task
from corral.worker.outcome import AttemptOutcome, CallObserver, UsageMeter
from corral.worker.refusals import to_a2a
from corral.worker.runtime import AgentRuntime

logger = logging.getLogger(__name__)

PLAIN_RESULT_SECONDS = 600.0
"""How long a result is kept for a client that does not ack."""
_MAX_WAIT_SECONDS = 60.0
_CANCEL_WAIT_SECONDS = 2.0
_WAIT = re.compile(r"\bwait=([0-9]{1,6})\b")


class WorkerRequestHandler(RequestHandler):
    """Sends start or attach to attempts; streaming and push notifications are not offered."""

    def __init__(
        self,
        table: AttemptTable,
        runtime: AgentRuntime,
        gate: Gate,
        revision: str,
        observe: CallObserver | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._table = table
        self._runtime = runtime
        self._gate = gate
        self._revision = revision
        self._observe = observe
        self._clock = clock

    async def on_message_send(
        self, params: a2a_pb2.SendMessageRequest, context: ServerCallContext
    ) -> a2a_pb2.Task:
        """Starts or attaches, then waits as long as ``Prefer: wait=`` says.

        Without that header it waits for the end, unless the client asked to return immediately.
        """
        start = read_start(params.message)
        headers = _headers(context)
        try:
            self._gate.check(headers)
            attempt = self._start(start, params.message.task_id)
        except RefusedError as refused:
            raise to_a2a(refused) from None
        default = 0.0 if params.configuration.return_immediately else None
        await _wait(attempt, _wanted_wait(headers, default))
        return self._task(attempt)

    async def on_get_task(
        self, params: a2a_pb2.GetTaskRequest, context: ServerCallContext
    ) -> a2a_pb2.Task | None:
        """The task, after ``Prefer: wait=`` seconds or its end; None once it is acked."""
        headers = self._checked(context)
        attempt = self._table.find(params.id)
        if attempt is None:
            return None
        await _wait(attempt, _wanted_wait(headers, 0.0))
        return self._task(attempt)

    async def on_cancel_task(
        self, params: a2a_pb2.CancelTaskRequest, context: ServerCallContext
    ) -> a2a_pb2.Task | None:
        """Cancels; also success for what has ended, and for what has not come yet."""
        self._checked(context)
        attempt = self._table.cancel(params.id)
        if attempt is None:
            return cancelled_task(params.id)
        await _wait(attempt, _CANCEL_WAIT_SECONDS)
        return self._task(attempt)

    async def on_list_tasks(
        self, params: a2a_pb2.ListTasksRequest, context: ServerCallContext
    ) -> a2a_pb2.ListTasksResponse:
        """Everything that is held, on one page."""
        self._checked(context)
        tasks = [
            self._task(attempt)
            for attempt in self._table.attempts()
            if params.context_id in ("", attempt.context_id)
        ]
        if params.status:
            tasks = [task for task in tasks if task.status.state == params.status]
        return a2a_pb2.ListTasksResponse(tasks=tasks, total_size=len(tasks), page_size=len(tasks))

    async def on_message_send_stream(
        self, params: a2a_pb2.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        """Not offered."""
        raise UnsupportedOperationError("Streaming is not offered.")
        yield

    async def on_subscribe_to_task(
        self, params: a2a_pb2.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Any, None]:
        """Not offered."""
        raise UnsupportedOperationError("Streaming is not offered.")
        yield

    async def on_create_task_push_notification_config(
        self, params: a2a_pb2.TaskPushNotificationConfig, context: ServerCallContext
    ) -> NoReturn:
        """Not offered."""
        raise PushNotificationNotSupportedError

    async def on_get_task_push_notification_config(
        self, params: a2a_pb2.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> NoReturn:
        """Not offered."""
        raise PushNotificationNotSupportedError

    async def on_list_task_push_notification_configs(
        self, params: a2a_pb2.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> NoReturn:
        """Not offered."""
        raise PushNotificationNotSupportedError

    async def on_delete_task_push_notification_config(
        self, params: a2a_pb2.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> NoReturn:
        """Not offered."""
        raise PushNotificationNotSupportedError

    async def on_get_extended_agent_card(
        self, params: a2a_pb2.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> NoReturn:
        """Not offered."""
        raise ExtendedAgentCardNotConfiguredError

    def _start(self, start: Start, task_id: str) -> Attempt:
        plain = start.request is None
        if plain and task_id and task_id != start.attempt_id:
            if self._table.find(task_id) is None:
                raise TaskNotFoundError
            raise UnsupportedOperationError("An attempt takes no further messages.")
        wrong_revision = None
        if start.request is not None and start.request.agent_revision != self._revision:
            wrong_revision = f"This worker runs revision {self._revision}."
        return self._table.start(
            start.attempt_id,
            self._job(start),
            meter=UsageMeter(
                self._observe,
                CallSpans(start.attempt_id, start.request.traceparent if start.request else None),
            ),
            context_id=start.context_id or start.attempt_id,
            forget_after=PLAIN_RESULT_SECONDS if plain else None,
            wrong_revision=wrong_revision,
        )

    def _job(self, start: Start) -> Job:
        request = start.request
        effect_key = request.effect_key if request else start.attempt_id
        correlation_id = request.correlation_id if request else None

        async def job(meter: UsageMeter) -> AttemptOutcome:
            with log_context(
                correlation_id=correlation_id,
                attempt=start.attempt_id,
                trace_id=meter.spans.trace_id,
            ):
                began = self._clock()
                outcome = await self._runtime.run(
                    start.attempt_id,
                    start.text,
                    start.data,
                    start.schema,
                    start.timeout_seconds,
                    effect_key=effect_key,
                    correlation_id=correlation_id,
                    meter=meter,
                    model_ref=request.model_ref if request else None,
                    fallbacks=request.fallbacks if request else None,
                    max_cost_usd=start.max_cost_usd,
                    max_tokens=start.max_tokens,
                    tool=request.tool if request else None,
                    conversation=request.conversation if request else None,
                    decisions=request.decisions if request else (),
                )
                outcome = _within(outcome, start.max_output_bytes)
                _log(outcome, round(self._clock() - began, 4))
            return outcome

        return job

    def _checked(self, context: ServerCallContext) -> Mapping[str, str]:
        headers = _headers(context)
        try:
            self._gate.check(headers)
        except RefusedError as refused:
            raise to_a2a(refused) from None
        return headers

    def _task(self, attempt: Attempt) -> a2a_pb2.Task:
        return to_task(attempt, self._gate.pod_uid, self._revision, self._clock())


def _log(outcome: AttemptOutcome, seconds: float) -> None:
    extra: dict[str, Any] = {"seconds": seconds}
    if outcome.error is not None:
        extra["error_class"] = outcome.error.error_class
        logger.info("An attempt failed: %s", outcome.error.message, extra=extra)
    elif outcome.input_required is not None:
        tools = ", ".join(call.tool for call in outcome.input_required.calls)
        logger.info("An attempt ended: a person has to approve calls of %s.", tools, extra=extra)
    else:
        logger.info("An attempt succeeded.", extra=extra)


def _within(outcome: AttemptOutcome, max_output_bytes: int) -> AttemptOutcome:
    if outcome.error is not None:
        return outcome
    problem = output_problem(outcome, max_output_bytes)
    if problem is None:
        return outcome
    error = AttemptError(error_class=ErrorClass.INVALID_OUTPUT, message=problem)
    return AttemptOutcome(usage=outcome.usage, error=error)


def _headers(context: ServerCallContext) -> Mapping[str, str]:
    headers: Mapping[str, str] = context.state["headers"]
    return headers


def _wanted_wait(headers: Mapping[str, str], default: float | None) -> float | None:
    found = _WAIT.search(headers.get("prefer", ""))
    return min(float(found[1]), _MAX_WAIT_SECONDS) if found else default


async def _wait(attempt: Attempt, seconds: float | None) -> None:
    """Until the attempt has ended, at most so many seconds; None is without a limit."""
    if attempt.finished or seconds == 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await attempt.ended.wait()
    except TimeoutError:
        pass
