"""One worker, over A2A 1.0's HTTP+JSON binding and corral's own endpoints."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient
from pydantic import ValidationError

from corral.api.attempt import (
    ACK_PATH,
    DRAIN_PATH,
    EXTENSION,
    HEADER_EPOCH,
    HEADER_IDENTITY,
    HEADER_WORKER_UID,
    INVENTORY_PATH,
    REFUSALS,
    Ack,
    AttemptReport,
    AttemptRequest,
    Inventory,
)
from corral.plan.expressions import compact_json, whole_numbers
from corral.plan.observed import Payload
from corral.plan.state import Worker, effect_key
from corral.telemetry.logs import in_words

log = logging.getLogger(__name__)

WAIT_SECONDS = 25
_TIMEOUT = httpx.Timeout(35.0, connect=2.0)
_MAX_ANSWER = 64 * 2**20
"""Bytes of one answer: an inventory of many results, not of one output."""
_NO_ANSWER = (
    httpx.HTTPError,
    httpx.InvalidURL,
    aiohttp.ClientError,
    ValueError,
    RecursionError,
    OSError,
)
_FINAL = frozenset(
    {
        "TASK_STATE_COMPLETED",
        "TASK_STATE_FAILED",
        "TASK_STATE_CANCELED",
        "TASK_STATE_REJECTED",
        "TASK_STATE_INPUT_REQUIRED",
    }
)
"""States after which an attempt does nothing more: another goes on where input was required."""


@dataclass(frozen=True)
class CallContext:
    """What an attempt belongs to, for whoever looks for it later."""

    correlation_id: str | None = None
    traceparent: str | None = None
    """The attempt's span."""


class WorkerUnreachableError(Exception):
    """No answer, none that could be read, or another's: the call may or may not have arrived."""


class RefusedError(Exception):
    """The worker said no; ``reason`` is one of ``attempt.REFUSALS``, or the HTTP status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class Task:
    """A worker's word on an attempt."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        try:
            self.report = AttemptReport.model_validate(body["metadata"][EXTENSION])
            self.state = str(body["status"]["state"])
        except (KeyError, TypeError, ValidationError) as error:
            raise WorkerUnreachableError(f"the answer is no task of ours: {error!r}") from error

    @property
    def final(self) -> bool:
        return self.state in _FINAL

    @property
    def input_required(self) -> bool:
        return self.state == "TASK_STATE_INPUT_REQUIRED" and self.report.input_required is not None

    @property
    def succeeded(self) -> bool:
        return self.state == "TASK_STATE_COMPLETED"

    def output(self) -> Any:
        """The artifact's value: text, or JSON."""
        for artifact in self._body.get("artifacts", []):
            for part in artifact.get("parts", []):
                if "data" in part:
                    return whole_numbers(part["data"])
                return part.get("text", "")
        return ""


class WorkerClient:
    """Calls to workers. All raise ``RefusedError`` and ``WorkerUnreachableError``.

    Args:
        token: the token for a pod UID; may raise ``WorkerUnreachableError``.
        epoch: the leader's epoch.
        doubt: why the token of an answer does not show that the pod of that UID sent it, as the
            end of a sentence; None if it does. What is doubted is not looked at.
        refused_token: is told that a worker took a token for none.
    """

    def __init__(
        self,
        token: Callable[[str], Awaitable[str]],
        epoch: Callable[[], int],
        doubt: Callable[[str, str], Awaitable[str | None]],
        refused_token: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._token = token
        self._epoch = epoch
        self._doubt = doubt
        self._strangers: set[str] = set()
        self._refused_token = refused_token
        # aiohttp's transport: httpx' own pool costs 20 ms of CPU a call with 128 calls open.
        self._http = HttpxAiohttpClient(
            timeout=_TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, payload: Payload, context: CallContext = CallContext()) -> Task:
        """Starts the attempt, or attaches to it; answers when it has ended or after 25 s."""
        run_id = payload.attempt_id.split(".", 1)[0]
        request = AttemptRequest(
            attempt_id=payload.attempt_id,
            effect_key=effect_key(payload.attempt_id),
            agent_revision=payload.agent_revision,
            timeout_seconds=f"{payload.timeout:.3f}",
            output_schema=(
                compact_json(payload.output_schema) if payload.output_schema is not None else None
            ),
            model_ref=payload.model_ref,
            fallbacks=list(payload.fallbacks),
            max_cost_usd=None if payload.max_cost_usd is None else f"{payload.max_cost_usd:f}",
            max_tokens=None if payload.max_tokens is None else str(payload.max_tokens),
            tool=payload.tool,
            conversation=payload.conversation,
            decisions=list(payload.decisions),
            traceparent=context.traceparent,
            correlation_id=context.correlation_id,
        )
        parts: list[dict[str, Any]] = []
        if payload.input is not None or payload.input_data is None:
            parts.append({"text": payload.input or ""})
        if payload.input_data is not None:
            parts.append({"data": payload.input_data})
        message = {
            "messageId": payload.attempt_id,
            "taskId": payload.attempt_id,
            "contextId": run_id,
            "role": "ROLE_USER",
            "parts": parts,
            "metadata": {EXTENSION: request.to_json()},
        }
        answer = await self._call(
            payload.worker, "POST", "/message:send", {"message": message}, wait=WAIT_SECONDS
        )
        return Task(answer.get("task") or {})

    async def get(self, worker: Worker, attempt_id: str) -> Task:
        """The task, when it has ended or after 25 s."""
        return Task(await self._call(worker, "GET", f"/tasks/{attempt_id}", wait=WAIT_SECONDS))

    async def cancel(self, worker: Worker, attempt_id: str) -> Task | None:
        """Cancels; the task with what it used, or None where the worker does not hold it."""
        body = await self._call(worker, "POST", f"/tasks/{attempt_id}:cancel", {})
        metadata = body.get("metadata")
        return Task(body) if isinstance(metadata, dict) and EXTENSION in metadata else None

    async def ack(self, worker: Worker, attempt_ids: Sequence[str], *, booked: bool = True) -> None:
        """Tells that results are committed and need not be kept, but for what is to be booked."""
        ack = Ack(attempt_ids=list(attempt_ids), booked=booked)
        await self._call(worker, "POST", ACK_PATH, ack.to_json())

    async def inventory(self, worker: Worker) -> Inventory:
        """What the worker holds."""
        return _inventory(await self._call(worker, "GET", INVENTORY_PATH))

    async def drain(self, worker: Worker) -> Inventory:
        """Lets the worker start nothing more."""
        return _inventory(await self._call(worker, "POST", DRAIN_PATH, {}))

    async def _call(
        self, worker: Worker, method: str, path: str, body: Any = None, wait: int | None = None
    ) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {await self._token(worker.uid)}",
            HEADER_WORKER_UID: worker.uid,
            HEADER_EPOCH: str(self._epoch()),
            "A2A-Version": "1.0",
            "A2A-Extensions": EXTENSION,
            "Accept-Encoding": "identity",
        }
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        try:
            async with self._http.stream(
                method, _url(worker.url + path), json=body, headers=headers
            ) as response:
                content = await _limited(response)
            answer = json.loads(content) if content else {}
        except _NO_ANSWER as error:
            raise WorkerUnreachableError(f"{method} {path}: {in_words(error)}") from error
        if response.status_code == 401:
            # The worker's clock or its keys differ from ours for now: another token may do.
            self._refused_token(worker.uid)
            raise WorkerUnreachableError(f"{method} {path}: the worker refused the token")
        # Refusals as well: a stranger could depose this operator by one.
        doubt = await self._doubt(worker.uid, response.headers.get(HEADER_IDENTITY, ""))
        if doubt:
            why = f"the answer is not signed by {worker.pod}: {doubt}"
            if worker.uid not in self._strangers:
                self._strangers.add(worker.uid)
                log.warning("%s", why)
            raise WorkerUnreachableError(f"{method} {path}: {why}")
        if response.status_code >= 400:
            raise _refused(response.status_code, answer)
        return answer if isinstance(answer, dict) else {}


@lru_cache(maxsize=4096)
def _url(text: str) -> httpx.URL:
    """An URL that httpx need not take apart again, which is a third of what a call costs it."""
    return httpx.URL(text)


async def _limited(response: httpx.Response) -> bytes:
    """The body, unless a worker that has gone wrong sends more than there may be."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > _MAX_ANSWER:
            raise ValueError(f"the answer has more than {_MAX_ANSWER} bytes")
    return bytes(content)


def _inventory(body: Mapping[str, Any]) -> Inventory:
    try:
        return Inventory.model_validate(body)
    except ValidationError as error:
        raise WorkerUnreachableError(f"the answer is no inventory: {error!r}") from error


def _refused(status: int, answer: Any) -> RefusedError:
    # A worker that has gone wrong may say anything.
    error = answer.get("error") if isinstance(answer, dict) else None
    error = error if isinstance(error, dict) else {}
    details = error.get("details")
    first = details[0] if isinstance(details, list) and details else None
    reason = first.get("reason") if isinstance(first, dict) else None
    if not isinstance(reason, str) or reason not in REFUSALS:
        reason = str(status)
    return RefusedError(reason, str(error.get("message", ""))[:300])
