"""Worker pods without a kubelet: the real worker application, one for each pod that starts."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import httpx

from corral.api.model import ModelSpec
from corral.kube.client import Json
from corral.plan.names import ANNOTATION_CONFIG, LABEL_REVISION
from corral.plan.state import effect_key
from corral.worker.app import Worker, read_config
from corral.worker.server import _drain, _watch_lease
from corral.worker.simulated import SimulatedModel, SimulatedModels
from tests.explore.api_server import ApiServer, pod_token
from tests.explore.clock import OWNER

START = 1.0
"""Seconds from a pod's creation until it is ready."""
END_NOTICED = 0.5
"""Seconds after which a process' end is seen in its pod."""


@dataclass(frozen=True)
class Execution:
    """One call of a model: what was done, and is to be paid."""

    attempt_id: str
    worker: str
    input_tokens: int
    output_tokens: int

    @property
    def effect_key(self) -> str:
        return effect_key(self.attempt_id)

    @property
    def place(self) -> str:
        """Step, item and iteration."""
        return self.effect_key.split(".", 1)[1]


class Journal:
    """What models were asked, by whatever worker.

    Args:
        failures: how many calls fail, by place: ``step.item``.
    """

    def __init__(self, failures: Mapping[str, int]) -> None:
        self.executions: list[Execution] = []
        self._failures = Counter(failures)
        self._failed: dict[tuple[str, int], bool] = {}

    def fails(self, attempt_id: str, call: int) -> bool:
        """Whether that call fails; the same whenever it is asked."""
        if (attempt_id, call) not in self._failed:
            place = effect_key(attempt_id).split(".", 1)[1].rsplit(".", 1)[0]
            self._failed[attempt_id, call] = self._failures[place] > 0
            self._failures[place] -= 1
        return self._failed[attempt_id, call]


class _JournalledModel(SimulatedModel):
    def __init__(self, name: str, spec: ModelSpec, journal: Journal, worker: str) -> None:
        super().__init__(name, spec)
        self._journal = journal
        self._worker = worker

    async def wait(self, attempt_id: str, call: int) -> None:
        tokens = self.simulation.input_tokens, self.simulation.output_tokens
        self._journal.executions.append(Execution(attempt_id, self._worker, *tokens))
        await super().wait(attempt_id, call)

    def _failure(self, attempt_id: str, call: int) -> str | None:
        if self._journal.fails(attempt_id, call):
            return "the call fails, as planned"
        return super()._failure(attempt_id, call)


class _JournalledModels(SimulatedModels):
    def __init__(self, journal: Journal, worker: str) -> None:
        super().__init__()
        self._journal = journal
        self._worker = worker

    def get(self, name: str, spec: ModelSpec) -> SimulatedModel:
        if name not in self._models:
            self._models[name] = _JournalledModel(name, spec, self._journal, self._worker)
        return self._models[name]


class WorkerPod:
    """One worker process."""

    def __init__(self, pod: Json, journal: Journal) -> None:
        self.key = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.uid: str = pod["metadata"]["uid"]
        self.revision: str = pod["metadata"]["labels"][LABEL_REVISION]
        self.dead = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = copy_context()
        self._context.run(OWNER.set, self._tasks)
        config = read_config(pod["metadata"]["annotations"][ANNOTATION_CONFIG])
        token = pod_token(pod)
        self.worker = Worker(config, self.uid, keys=lambda _: None, shown=lambda: token)
        self.worker.runtime._simulated = _JournalledModels(journal, self.uid)
        self._app = httpx.ASGITransport(self.worker.app(), raise_app_exceptions=True)
        self.started = False

    def start(self) -> None:
        """Begins to serve."""
        self.started = True
        self._spawn(_watch_lease(self.worker))

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":
        return asyncio.get_running_loop().create_task(work, context=self._context)

    async def serve(self, request: httpx.Request) -> httpx.Response:
        """Answers a request, also where whoever asked is not there any more.

        Raises:
            httpx.TransportError: the process is not there, or ends before it answers.
        """
        if self.dead or not self.started:
            raise httpx.ConnectError("connection refused")
        answering = self._spawn(self._app.handle_async_request(request))
        try:
            return cast("httpx.Response", await asyncio.shield(answering))
        except asyncio.CancelledError:
            if self.dead:
                raise httpx.ReadError("connection reset") from None
            raise

    async def drain(self) -> None:
        """What SIGTERM does; returns when the process would end."""
        asked = asyncio.Event()
        asked.set()
        await self._spawn(_drain(self.worker, cast("Any", SimpleNamespace()), asked))

    def kill(self) -> None:
        """Ends the process as it is."""
        self.dead = True
        for task in list(self._tasks):
            task.cancel()


class Kubelet:
    """Runs the pods of an API server."""

    def __init__(self, server: ApiServer, journal: Journal) -> None:
        self._server = server
        self._journal = journal
        self.pods: dict[str, WorkerPod] = {}
        """By UID; those that ended too."""
        self._addresses: dict[str, WorkerPod] = {}
        self.killed: set[str] = set()
        """UIDs of those that were killed."""
        server.watch(self._saw)
        server.on_pod_leaving = self._leaving
        self._leaves: dict[str, asyncio.Task[None]] = {}
        self._context = copy_context()

    def at(self, host: str) -> WorkerPod | None:
        """The pod that has an address."""
        return self._addresses.get(host)

    def _saw(self, plural: str, event: str, obj: Json) -> None:
        if plural == "pods" and event == "ADDED":
            pod = WorkerPod(obj, self._journal)
            self.pods[pod.uid] = pod
            asyncio.get_running_loop().call_later(START, self._started, pod)

    def _started(self, pod: WorkerPod) -> None:
        found = self._server.objects.get(pod.key)
        if found is None or found["metadata"]["uid"] != pod.uid or pod.dead:
            return
        address = f"10.0.0.{len(self._addresses) + 1}"
        self._addresses[address] = pod
        pod.start()
        problem = pod.worker.problem()
        ready = {"type": "Ready", "status": "False" if problem else "True"}
        self._server.set_status(
            pod.key, {"phase": "Running", "podIP": address, "conditions": [ready]}
        )

    def _leaving(self, obj: Json) -> None:
        pod = self.pods[obj["metadata"]["uid"]]
        grace = float(obj["metadata"]["deletionGracePeriodSeconds"])
        if (before := self._leaves.pop(pod.uid, None)) is not None:
            before.cancel()
        # Not in the context of the operator that asked for it, which may be killed.
        self._leaves[pod.uid] = asyncio.get_running_loop().create_task(
            self._leave(pod, grace), context=self._context
        )

    async def _leave(self, pod: WorkerPod, grace: float) -> None:
        if pod.started and not pod.dead:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await pod.drain()
        pod.kill()
        await asyncio.sleep(END_NOTICED)
        found = self._server.objects.get(pod.key)
        if found is not None and found["metadata"]["uid"] == pod.uid:
            self._server.remove(pod.key)

    def kill(self, host: str | None = None) -> None:
        """Kills the worker of that address, or the first that there is."""
        pod = self._addresses.get(host) if host else None
        pod = pod or next((one for one in self.pods.values() if one.started and not one.dead), None)
        if pod is None or pod.dead:
            return
        self.killed.add(pod.uid)
        pod.kill()
        asyncio.get_running_loop().call_later(END_NOTICED, self._ended, pod)

    def _ended(self, pod: WorkerPod) -> None:
        found = self._server.objects.get(pod.key)
        if found is None or found["metadata"]["uid"] != pod.uid:
            return
        ended = {"exitCode": 137, "reason": "Error"}
        container = {"name": "worker", "state": {"terminated": ended}}
        status = {"phase": "Failed", "containerStatuses": [container]}
        self._server.set_status(pod.key, {**found["status"], **status})
