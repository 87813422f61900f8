"""The cluster as the parts of the benchmark see it."""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from corral.kube.client import (
    AGENTS,
    MODELS,
    PODS,
    POOLS,
    WORKFLOWS,
    ApiError,
    Json,
    Kind,
    Kube,
)
from corral.plan.times import parse
from tests.load import objects
from tests.load.readings import OperatorReading, ServerReading, operator_reading, server_reading
from tests.load.sizes import Sizes

NAMESPACES = Kind("", "v1", "namespaces")
SYSTEM = "corral-system"
OPERATORS = "app.kubernetes.io/component=operator"
POSTS_AT_ONCE = 32


class LoadError(Exception):
    """What was waited for did not come, or the cluster is not as it has to be."""


@dataclass
class Site:
    """A cluster with corral, and how large the load on it is to be."""

    kube: Kube
    sizes: Sizes
    operator_url: str | None = None
    """Where the operator's metrics are, if it does not run in a pod."""

    async def text(self, path: str) -> str:
        """What the API server, or what it leads to, answers as text."""
        async with self._get(path) as answer:
            if answer.status != 200:
                raise LoadError(f"GET {path}: {answer.status} {(await answer.text())[:200]}")
            return await answer.text()

    @asynccontextmanager
    async def _get(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        # Not by Kube.request: that reads JSON, once, within a time.
        headers: dict[str, str] = {}
        await self.kube._api.update_params_for_auth(
            headers, [], ["BearerToken"], path, "GET", None, request_auth=None
        )
        url = self.kube._api.configuration.host + path
        endless = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with self.kube._session().get(url, headers=headers, timeout=endless) as answer:
            yield answer

    async def operator_pod(self) -> Json:
        """The pod of the operator."""
        for pod in await self.kube.list(PODS, SYSTEM, labels=OPERATORS):
            if not pod["metadata"].get("deletionTimestamp"):
                return pod
        raise LoadError(f"no pod of the operator is in {SYSTEM}")

    async def operator(self) -> OperatorReading:
        """The operator's counters now."""
        if self.operator_url is not None:
            async with aiohttp.ClientSession() as session, session.get(self.operator_url) as answer:
                return operator_reading(await answer.text())
        return operator_reading(await self.asked(await self.operator_pod(), 9090, "metrics"))

    async def asked(self, pod: Json, port: int, path: str) -> str:
        """What a pod answers, as text, through the API server."""
        meta = pod["metadata"]
        return await self.text(f"{PODS.path(meta['namespace'], meta['name'])}:{port}/proxy/{path}")

    async def workers(self, namespace: str, pool: str) -> list[Json]:
        """The pods of a pool."""
        return await self.kube.list(PODS, namespace, labels=f"corral.dev/pool={pool}")

    async def server(self) -> ServerReading:
        """The API server's counters now."""
        return server_reading(await self.text("/metrics"))

    @asynccontextmanager
    async def namespace(self) -> AsyncIterator[str]:
        """A namespace; deleted afterwards, its Workflows first and all at once."""
        name = f"load-{uuid.uuid4().hex[:6]}"
        await self.kube.request("POST", NAMESPACES.path(), {"metadata": {"name": name}})
        try:
            yield name
        finally:
            await self.clear(name)
            await self.kube.request("DELETE", NAMESPACES.path(name=name))

    async def clear(self, namespace: str) -> None:
        """Deletes all Workflows of a namespace, and waits until they are gone."""
        async with asyncio.timeout(self.sizes.timeout):
            while True:
                await self.kube.request("DELETE", WORKFLOWS.path(namespace), timeout=300)
                path, one = WORKFLOWS.path(namespace), {"limit": "1"}
                if not (await self.kube.request("GET", path, query=one))["items"]:
                    return

    async def team(
        self, namespace: str, name: str, *, latency: str = "", concurrency: int = 0
    ) -> None:
        """Makes a Model, an Agent and its workers, all of that name, and waits for the workers."""
        sizes = self.sizes
        latency = latency or f"{sizes.latency}ms"
        pool = objects.pool(name, sizes.workers, concurrency or sizes.concurrency)
        await self.kube.create(MODELS, namespace, objects.model(name, latency))
        await self.kube.create(AGENTS, namespace, objects.agent(name))
        await self.kube.create(POOLS, namespace, pool)
        for _ in range(1200):
            status = (await self.kube.get(POOLS, namespace, name)).get("status") or {}
            if status.get("readyReplicas", 0) >= sizes.workers:
                return
            await asyncio.sleep(0.1)
        raise LoadError(f"the workers of {namespace}/{name} are not ready after 120 s")

    async def attempts(self, namespace: str, pool: str) -> dict[str, list[tuple[float, float]]]:
        """When the attempts of each run began and ended, in order, as a pool's workers log."""
        found: dict[str, list[tuple[float, float]]] = {}
        for pod in await self.workers(namespace, pool):
            name = pod["metadata"]["name"]
            for line in (await self.text(f"{PODS.path(namespace, name)}/log")).splitlines():
                if "An attempt succeeded." in line:
                    told = json.loads(line)
                    run, ended = told["attempt"].split(".", 1)[0], parse(told["time"])
                    found.setdefault(run, []).append((ended - told["seconds"], ended))
        return {run: sorted(of_run) for run, of_run in found.items()}


@dataclass
class Runs:
    """The Workflows of a namespace, followed by a watch. Times are ``time.time()``."""

    site: Site
    namespace: str
    made: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    newest: dict[str, Json] = field(default_factory=dict)
    """The newest state of each."""
    changes: Counter[str] = field(default_factory=Counter)
    """How often each was changed."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(self, workflows: Iterable[Json], at_once: int = POSTS_AT_ONCE) -> None:
        """Makes Workflows as fast as the API server takes them."""
        waiting = list(workflows)[::-1]

        async def post() -> None:
            while waiting:
                workflow = waiting.pop()
                self.made[workflow["metadata"]["name"]] = time.time()
                await self._post(workflow)

        await asyncio.gather(*(post() for _ in range(at_once)))

    async def _post(self, workflow: Json) -> None:
        # A server that is busy may answer too late, or not at all.
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ApiError) and error.may_pass),
            wait=wait_random_exponential(max=5),
            stop=stop_after_delay(self.site.sizes.timeout),
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                try:
                    await self.site.kube.create(WORKFLOWS, self.namespace, workflow)
                except ApiError as error:
                    # Made by a try of which only the answer was lost.
                    if not (error.conflict and attempt.retry_state.attempt_number > 1):
                        raise

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until something holds of what the watch has told.

        Raises:
            LoadError: it does not in time; ``what`` says what was waited for.
        """
        deadline = time.monotonic() + self.site.sizes.timeout
        while not holds():
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                found = ", ".join(f"{count} {phase}" for phase, count in self.phases().items())
                raise LoadError(
                    f"{self.namespace}: not {what} after {self.site.sizes.timeout:g} s: {found}"
                ) from None

    async def until_finished(self, names: Iterable[str]) -> None:
        """Waits until these Workflows have finished."""
        wanted = set(names)
        await self.until(lambda: wanted <= self.finished.keys(), f"all of {len(wanted)} finished")

    async def run(self, workflows: list[Json]) -> None:
        """Makes Workflows and waits for their end."""
        await self.submit(workflows)
        await self.until_finished(one["metadata"]["name"] for one in workflows)

    def phases(self) -> Counter[str]:
        """How many of those that were made here are in each phase."""
        return Counter((one.get("status") or {}).get("phase", "") for one in self._own())

    def model_calls(self) -> int:
        """How many calls of models are on their bills."""
        used = [(one.get("status") or {}).get("usage") or {} for one in self._own()]
        return sum(one.get("requests", 0) for one in used)

    def _own(self) -> list[Json]:
        return [self.newest[name] for name in self.made if name in self.newest]

    def _see(self, event: Json) -> None:
        obj = event["object"]
        if event["type"] == "ERROR":
            raise LoadError(f"the watch of {self.namespace} ended: {obj.get('message')}")
        name = obj["metadata"]["name"]
        if event["type"] == "DELETED":
            return
        self.newest[name] = obj
        self.changes[name] += event["type"] == "MODIFIED"
        if (obj.get("status") or {}).get("finishedAt") and name not in self.finished:
            self.finished[name] = time.time()
        self._news.set()

    async def _watch(self, version: str) -> None:
        while True:
            path = f"{WORKFLOWS.path(self.namespace)}?watch=1&resourceVersion={version}"
            try:
                async with self.site._get(path) as answer:
                    rest = b""
                    async for piece in answer.content.iter_any():
                        *lines, rest = (rest + piece).split(b"\n")
                        for line in lines:
                            event = json.loads(line)
                            self._see(event)
                            version = event["object"]["metadata"]["resourceVersion"]
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def following(site: Site, namespace: str) -> AsyncIterator[Runs]:
    """Follows the Workflows of a namespace from now on."""
    runs = Runs(site, namespace)
    page = await site.kube.request("GET", WORKFLOWS.path(namespace), query={"limit": "1"})
    task = asyncio.create_task(runs._watch(page["metadata"]["resourceVersion"]))
    try:
        yield runs
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
