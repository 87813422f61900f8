"""The watches over real HTTP: whatever breaks a stream, events keep coming."""

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import web

from corral.artifacts.store import ArtifactStore
from corral.handlers import watches as module
from corral.handlers.watches import Watches
from corral.kube.client import (
    AGENTS,
    APPROVALS,
    CRONS,
    MODELS,
    PODS,
    POOLS,
    TEMPLATES,
    WORKFLOWS,
    Kind,
)
from corral.reconcile.controller import Controller
from tests.unit.kube.fake_api import kube_of, served

Json = dict[str, Any]
OURS = (MODELS, AGENTS, POOLS, TEMPLATES, APPROVALS, WORKFLOWS, CRONS)
KINDS = (*OURS, PODS, Kind("", "v1", "namespaces"))
"""The last one only because kopf asks whether there is such a kind."""


class WatchApi:
    """Discovery, lists and watches. Each watch of Workflows meets the next fault.

    ``error-500`` and ``error-410`` come in the stream; ``410`` and ``500`` instead of a stream;
    ``cut`` breaks the connection; ``silent`` never says anything.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        self.workflows: dict[str, Json] = {}
        self.unlisted: set[str] = set()
        self.watches = 0
        self.lists = 0
        self.version = 1
        self.closing = asyncio.Event()
        self._changed = asyncio.Event()
        self._log: list[tuple[int, Json]] = []

    def put(self, name: str) -> None:
        self.version += 1
        obj = self.workflows[name] = {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "Workflow",
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": f"uid-{name}",
                "resourceVersion": str(self.version),
                "generation": 1,
            },
            "spec": {},
        }
        self._log.append((self.version, {"type": "ADDED", "object": obj}))
        self._changed.set()

    def hide(self, name: str) -> None:
        """Deletes an object without a word, as in a gap of a watch."""
        del self.workflows[name]
        self._log = [
            (at, event) for at, event in self._log if event["object"]["metadata"]["name"] != name
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if request.path in ("/api/v1", "/apis/corral.dev/v1alpha1"):
            return web.json_response({"resources": _resources(request.path)})
        if request.path == "/api":
            return web.json_response({"versions": ["v1"]})
        if request.path == "/apis":
            version = {"groupVersion": "corral.dev/v1alpha1", "version": "v1alpha1"}
            group = {"name": "corral.dev", "versions": [version], "preferredVersion": version}
            return web.json_response({"groups": [group]})
        if "namespaces" in parts:
            found = self.workflows.get(parts[-1])
            return web.json_response(found or {}, status=200 if found else 404)
        if "watch" in request.query:
            return await self._watch(request, parts[-1])
        listed = [one for name, one in self.workflows.items() if name not in self.unlisted]
        items = listed if parts[-1] == "workflows" else None  # as the real one says "none"
        self.lists += parts[-1] == "workflows"
        metadata = {"resourceVersion": str(self.version)}
        return web.json_response({"metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        mine = plural == "workflows"
        self.watches += mine
        fault = self.faults.pop(0) if mine and self.faults else ""
        if fault in ("410", "500"):
            body = {"kind": "Status", "code": int(fault), "message": "gone", "reason": "Expired"}
            return web.json_response(body, status=int(fault))
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        if fault.startswith("error-"):
            error = {"kind": "Status", "code": int(fault[6:]), "message": "broken"}
            await stream.write(json.dumps({"type": "ERROR", "object": error}).encode() + b"\n")
            return stream
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
            return stream
        if fault == "silent" or not mine:
            await self.closing.wait()
            return stream
        seen = int(request.query.get("resourceVersion", 0))
        while not self.closing.is_set():
            for at, event in self._log:
                if at > seen:
                    seen = at
                    await stream.write(json.dumps(event).encode() + b"\n")
            self._changed.clear()
            waiting = [asyncio.ensure_future(one.wait()) for one in (self._changed, self.closing)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
        return stream


def _resources(path: str) -> list[Json]:
    return [
        {
            "name": kind.plural,
            "singularName": kind.plural[:-1],
            "kind": kind.plural[:-1].title(),
            "namespaced": kind.plural != "namespaces",
            "verbs": ["get", "list", "watch", "patch", "update", "create", "delete"],
        }
        for kind in KINDS
        if path == kind.path().rpartition("/")[0]
    ]


@asynccontextmanager
async def watching(
    api: WatchApi, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Watches, list[str], str]]:
    monkeypatch.setattr(module, "RESTART_AFTER", 0.02)
    monkeypatch.setattr(module, "BEAT", 0.05)
    plain = module._settings

    def impatient(settings: Any) -> None:
        plain(settings)
        settings.watching.inactivity_timeout = 0.5
        settings.watching.reconnect_backoff = 0.02
        settings.networking.error_backoffs = [0.02]

    monkeypatch.setattr(module, "_settings", impatient)
    seen: list[str] = []

    def saw(kind: Kind, event: str | None, obj: Json) -> None:
        assert kind is WORKFLOWS
        seen.append(obj["metadata"]["name"])

    async with served(api.handle) as address:
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        file = folder / "kubeconfig"
        file.write_text(json.dumps(config))
        monkeypatch.setitem(os.environ, "KUBECONFIG", str(file))
        watches = Watches(saw, asyncio.get_running_loop())
        watches.start()
        try:
            yield watches, seen, address
        finally:
            watches.stop()
            api.closing.set()
            await asyncio.to_thread(watches.join, 5)
            gc.collect()  # what was left open is told of in this test and no other


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", ["error-500", "error-410", "410", "500", "cut", "silent"])
async def test_events_keep_coming_after(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = WatchApi(fault, fault)
    api.put("first")
    async with watching(api, tmp_path, monkeypatch) as (watches, seen, _):
        await until(lambda: "first" in seen)
        await until(lambda: not api.faults)
        api.put("second")
        await until(lambda: "second" in seen)
        assert watches.alive
        # What the list told already needs no watch; it comes back all the same.
        await until(lambda: api.watches >= 3)


async def test_a_thread_that_turns_no_more_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    watches = Watches(lambda *_: None, asyncio.get_running_loop())
    watches.stop()
    watches.start()
    watches.join(5)
    assert watches.alive
    monkeypatch.setattr(module, "monotonic", lambda: monotonic() + 31)
    assert not watches.alive


@asynccontextmanager
async def comparing(api: WatchApi) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """A controller without watches: compares, and tells what it knows of."""
    async with served(api.handle) as address, kube_of(address) as kube:
        artifacts = ArtifactStore("memory://test")
        controller = Controller(kube, artifacts, "corral-system", "me", "image")
        await controller.prime()
        assert controller.synced.is_set()

        async def compared() -> list[str]:
            await controller._compare()
            return sorted(obj["metadata"]["name"] for obj in controller.world.workflows)

        yield compared
        await controller._client.close()


async def test_what_was_deleted_in_a_gap_is_found_by_the_sweep() -> None:
    api = WatchApi()
    for name in ("stays", "goes"):
        api.put(name)
    async with comparing(api) as compared:
        api.hide("goes")
        assert await compared() == ["stays"]


async def test_what_no_watch_told_of_is_found_once_it_is_not_merely_late() -> None:
    api = WatchApi()
    async with comparing(api) as compared:
        api.put("new")
        assert await compared() == []
        assert await compared() == ["new"]


async def test_an_old_list_makes_no_ghosts() -> None:
    api = WatchApi()
    for name in ("old", "young"):
        api.put(name)
    async with comparing(api) as compared:
        api.unlisted = {"young"}
        assert await compared() == ["old", "young"]
