"""Single passes of a real controller, which no watch tells anything that the test does not say."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from corral.artifacts.store import ArtifactStore
from corral.dispatch.client import WorkerUnreachableError
from corral.kube.client import AGENTS, CRONS, MODELS, POOLS, TEMPLATES, WORKFLOWS, Json, Kind
from corral.plan.holdings import on_workers
from corral.plan.observed import Payload
from corral.plan.state import Worker, from_journal
from corral.reconcile.controller import WATCHED, Controller
from corral.reconcile.following import worker_of
from corral.reconcile.queue import RetryLaterError
from tests.explore.api_server import ApiServer
from tests.explore.clock import VirtualLoop, virtual_clocks
from tests.explore.operators import IMAGE, KubeInMemory
from tests.explore.scenarios import KINDS, NAMESPACE, SCENARIOS
from tests.explore.workers import Journal, Kubelet

NAME = "chain"
KEY = (NAMESPACE, NAME)
WORKER = (NAMESPACE, "worker")


class _Calls(KubeInMemory):
    """The operator's client, which notes its calls."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(server)
        self.made: list[str] = []

    async def carry(self, method: str, path: str, effect: Callable[[], Json]) -> Json:
        self.made.append(f"{method} {path}")
        return effect()


def _refuse(_: httpx.Request) -> httpx.Response:
    return httpx.Response(401, stream=httpx.ByteStream(b""))


class Leader:
    """A controller that leads, and what it would have sent to workers.

    What it asks them by itself, they refuse: they take its token for none.
    """

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.kube = _Calls(server)
        store = ArtifactStore("memory://passes")
        connecting = partial(httpx.AsyncClient, transport=httpx.MockTransport(_refuse))
        with patch("corral.dispatch.client.HttpxAiohttpClient", connecting):
            self.controller = Controller(self.kube, store, "corral-system", "me", IMAGE)
        self.sent: list[str] = []
        self.cancelled: list[str] = []
        self.lost: list[tuple[str, bool]] = []
        """Pods that were given up, and whether what ran there is tried again."""

    async def lead(self, runs: list[Json] | None = None) -> None:
        """Begins its term, with all that there is, or with Workflows of an old list."""
        for kind in WATCHED:
            old = runs if kind is WORKFLOWS else None
            for obj in await self.kube.list(kind) if old is None else old:
                self.controller.saw(kind, None, obj)
        await self.controller.lease.acquire()

    async def turn(self, plural: str, key: tuple[str, str] = KEY) -> None:
        """One pass, as its queue makes it."""
        with self._recorded():
            await self.controller._queues[plural]._work(key)

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        def follow(payload: Payload, *_: Any) -> None:
            self.sent.append(payload.attempt_id)
            assert payload.attempt_id in self.running(), "it is sent before the status says so"

        def cancel(attempt_id: str, *_: Any) -> None:
            self.cancelled.append(attempt_id)

        def worker_lost(worker: Worker, *, retried: bool) -> None:
            self.lost.append((worker.uid, retried))

        attempts = self.controller.world.attempts
        with patch.multiple(attempts, follow=follow, cancel=cancel, worker_lost=worker_lost):
            yield

    def running(self) -> set[str]:
        """The attempts on workers, as the API server knows the runs."""
        journals = [run["status"].get("journal") for run in self.server.all("workflows")]
        return {one for text in journals if text for one in on_workers(from_journal(text))}

    @property
    def uid(self) -> str:
        run = self.server.get(WORKFLOWS, *KEY)
        assert run is not None
        uid: str = run["metadata"]["uid"]
        return uid


def leading(work: Callable[[Leader], Awaitable[None]]) -> None:
    """Does something with a leader, whose worker is ready and whose run has not begun."""

    async def run() -> None:
        server = ApiServer()
        kubelet = Kubelet(server, Journal({}))
        for obj in SCENARIOS["chain"].objects:
            server.apply(KINDS[obj["kind"]], obj)
        leader = Leader(server)
        await leader.lead()
        try:
            await leader.turn("agentpools", WORKER)
            await asyncio.sleep(2)
            await leader.controller.prime()
            await leader.turn("agentpools", WORKER)
            await work(leader)
        finally:
            for pod in kubelet.pods.values():
                pod.kill()
            await leader.controller._client.close()

    with virtual_clocks(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def label(server: ApiServer, kind: Kind, name: str) -> None:
    """Somebody else writes, and no watch tells of it."""
    server.change(kind, NAMESPACE, name, {"metadata": {"labels": {"by": "ann"}}})


def test_what_is_not_committed_is_not_sent_and_the_newest_state_is_read_without_a_watch() -> None:
    async def work(leader: Leader) -> None:
        label(leader.server, WORKFLOWS, NAME)
        await leader.turn("workflows")
        assert leader.sent == []
        assert leader.kube.made[-1] == f"GET {WORKFLOWS.path(*KEY)}"
        await leader.turn("workflows")
        assert leader.sent == [f"{leader.uid}.s1.0.1.1"]

    leading(work)


def made(kind: str, name: str, **spec: Any) -> Json:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "corral.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


CRON = made(
    "CronWorkflow",
    "nightly",
    schedule="0 0 * * *",
    workflowSpec={"steps": [{"name": "a", "transform": "x"}]},
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(AGENTS, "worker"), (MODELS, "model"), (POOLS, "worker"), (CRONS, "nightly")],
    ids=lambda value: value.plural if isinstance(value, Kind) else "",
)
def test_a_write_that_met_another_s_is_made_again_though_no_watch_tells(
    kind: Kind, name: str
) -> None:
    async def work(leader: Leader) -> None:
        server, key = leader.server, (NAMESPACE, name)
        if kind is CRONS:
            server.apply(CRONS, CRON)
        before = server.get(kind, *key)
        assert before is not None
        newer = {**before, "status": {"fromTheFuture": 1}}
        server.call("PUT", kind.path(*key, "/status"), newer)
        leader.controller.saw(kind, None, server.call("GET", kind.path(*key)))
        label(server, kind, name)
        with pytest.raises(RetryLaterError):
            await leader.turn(kind.plural, key)
        await leader.turn(kind.plural, key)
        found = server.get(kind, *key)
        assert found is not None
        assert found["status"]["conditions"]
        assert found["status"]["fromTheFuture"] == 1, "of a newer version, and not ours to drop"

    leading(work)


def test_a_new_leader_sends_nothing_by_what_an_old_list_says() -> None:
    async def work(first: Leader) -> None:
        await first.turn("workflows")
        server, old = first.server, first.server.call("GET", WORKFLOWS.path(*KEY))
        assert first.sent == [attempt := f"{first.uid}.s1.0.1.1"]
        server.change(WORKFLOWS, *KEY, {"spec": {"shutdown": "Terminate"}})
        first.controller.saw(WORKFLOWS, None, server.call("GET", WORKFLOWS.path(*KEY)))
        await first.turn("workflows")
        assert first.cancelled == [attempt]
        second = Leader(server)
        await second.lead([old])
        await second.turn("workflows")
        await second.turn("workflows")
        assert second.sent == []
        assert second.cancelled == [attempt]
        await second.controller._client.close()

    leading(work)


@pytest.mark.parametrize("how", ["deleted", "stopped", "made again"])
def test_what_runs_is_cancelled_in_the_pass_after_it_was(how: str) -> None:
    async def work(leader: Leader) -> None:
        server, controller = leader.server, leader.controller
        await leader.turn("workflows")
        [attempt] = leader.sent
        if how == "stopped":
            server.change(WORKFLOWS, *KEY, {"spec": {"shutdown": "Stop"}})
            controller.saw(WORKFLOWS, "MODIFIED", server.call("GET", WORKFLOWS.path(*KEY)))
        else:
            gone = server.call("DELETE", WORKFLOWS.path(*KEY))
            if how == "deleted":
                controller.saw(WORKFLOWS, "DELETED", gone)
            else:
                again = server.apply(WORKFLOWS, SCENARIOS["chain"].objects[-1])
                controller.saw(WORKFLOWS, "ADDED", again)
        await leader.turn("workflows")
        assert leader.cancelled == [attempt]
        if how == "made again":
            assert leader.uid not in attempt
            assert leader.sent == [attempt, f"{leader.uid}.s1.0.1.1"]

    leading(work)


def test_a_run_keeps_the_template_that_it_began_with_under_the_next_leader_too() -> None:
    async def work(first: Leader) -> None:
        server, key = first.server, (NAMESPACE, "from-template")
        first_edition, second_edition = (
            [{"name": name, "agentRef": {"name": "worker"}, "input": name}] for name in "ab"
        )
        server.apply(TEMPLATES, made("WorkflowTemplate", "edited", steps=first_edition))
        server.apply(WORKFLOWS, made("Workflow", key[1], workflowTemplateRef={"name": "edited"}))
        await first.controller.prime()
        await first.turn("workflows", key)
        server.change(TEMPLATES, NAMESPACE, "edited", {"spec": {"steps": second_edition}})
        server.change(WORKFLOWS, *key, {"spec": {"suspend": True}})
        second = Leader(server)
        await second.lead()
        for _ in range(2):  # the newest state is read first
            await second.turn("workflows", key)
        run = server.call("GET", WORKFLOWS.path(*key))
        assert run["status"]["phase"] == "Suspended"
        assert [row["name"] for row in run["status"]["steps"]] == ["a"]
        assert second.sent == first.sent == [f"{run['metadata']['uid']}.a.0.1.1"]
        await second.controller._client.close()

    leading(work)


def test_who_may_not_lead_at_the_moment_makes_no_pass() -> None:
    async def work(leader: Leader) -> None:
        await leader.turn("workflows")
        await asyncio.sleep(1)  # Events are posted in the background
        before = list(leader.kube.made), list(leader.sent)
        await asyncio.sleep(9)  # nobody renews the lease
        leader.server.change(WORKFLOWS, *KEY, {"spec": {"shutdown": "Stop"}})
        with pytest.raises(RetryLaterError, match="lease"):
            await leader.turn("workflows")
        assert (leader.kube.made, leader.sent) == before
        assert leader.cancelled == []

    leading(work)


def test_a_worker_that_refused_a_token_is_shown_another() -> None:
    async def work(leader: Leader) -> None:
        [pod] = leader.controller.world.pods
        leader.kube.made.clear()
        for _ in range(2):
            with pytest.raises(WorkerUnreachableError, match="refused the token"):
                await leader.controller._client.inventory(worker_of(pod))
        assert sum(call.endswith("/token") for call in leader.kube.made) == 2

    leading(work)


@pytest.mark.parametrize(
    ("policy", "lost"), [("Retry", [True]), ("Fail", [False]), ("Wait", [])], ids=str
)
def test_what_ran_on_a_node_that_is_gone_is_given_up_as_the_pool_says(
    policy: str, lost: list[bool]
) -> None:
    async def work(leader: Leader) -> None:
        server, controller = leader.server, leader.controller
        server.change(POOLS, *WORKER, {"spec": {"onWorkerLost": policy}})
        [pod] = server.all("pods")
        meta, status = pod["metadata"], pod["status"]
        # As the node controller leaves it: the kubelet says nothing any more.
        silent = [("Ready", "False"), ("ContainersReady", "True")]
        conditions = [{"type": name, "status": value} for name, value in silent]
        key = ("pods", NAMESPACE, meta["name"])
        server.set_status(key, {**status, "conditions": conditions})
        for seconds, expected in ((0, []), (50, []), (20, lost)):
            await asyncio.sleep(seconds)
            await controller.lease.acquire()
            await controller.prime()
            await leader.turn("agentpools", WORKER)
            assert leader.lost == [(meta["uid"], retried) for retried in expected]

    leading(work)
