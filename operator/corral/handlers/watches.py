"""The watches, by kopf, in a thread and an event loop of their own.

kopf ends its operator on an ERROR in a watch stream, on HTTP 410 and on other answers that it
takes for final; and when it ends it cancels every task of its loop. So it runs apart from the
passes, and is started again: a watch that breaks stops nothing but that watch. ``on.event`` is the
only kind of handler in use: it writes nothing to the objects, neither annotations nor finalizers.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

import kopf
from kopf._cogs.structs.credentials import Vault
from kopf._core.engines.peering import Identity

from corral.kube.client import (
    AGENTS,
    APPROVALS,
    CRONS,
    MODELS,
    PODS,
    POOLS,
    TEMPLATES,
    WORKFLOWS,
    Json,
    Kind,
)
from corral.plan.names import OPERATOR, WORKER_SELECTOR

log = logging.getLogger(__name__)

RESTART_AFTER = 0.5
LAST_MOMENTS = 0.3
BEAT = 0.5
"""Seconds between two signs of life."""
Saw = Callable[[Kind, str | None, Json], None]


class _NothingToCompare(kopf.DiffBaseStorage):
    """What kopf compares objects with to find changes, which costs more than all else it does.

    Passes compare states themselves; ``on.event`` has no use for kopf's differences.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        pass


def _settings(settings: kopf.OperatorSettings) -> None:
    settings.persistence.diffbase_storage = _NothingToCompare()
    settings.posting.enabled = False  # passes post their own Events
    settings.scanning.disabled = True  # CRDs and namespaces need not be watched
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["v1", "pods"] = WORKER_SELECTOR
    settings.watching.inactivity_timeout = 65
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.queueing.idle_timeout = 1.0


def _registry(saw: Saw) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        _settings(settings)

    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # As kube.client.connect: a kubeconfig that is named wins over the pod's account.
        if "KUBECONFIG" in os.environ:
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    kopf.on.startup(registry=registry)(startup)
    kopf.on.login(registry=registry)(login)
    for kind in (MODELS, AGENTS, POOLS, TEMPLATES, APPROVALS, WORKFLOWS, CRONS):
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(_teller(saw, kind))
    kopf.on.event("v1", "pods", registry=registry)(_teller(saw, PODS))
    return registry


def _teller(saw: Saw, kind: Kind) -> Callable[..., Awaitable[None]]:
    # A coroutine: for anything else kopf takes a thread.
    async def tell(event: Any, **_: Any) -> None:
        saw(kind, event["type"], dict(event["object"]))

    tell.__name__ = f"saw_{kind.plural}"
    return tell


class Watches:
    """kopf in a thread. ``saw`` is called in the main loop, in the order of the events."""

    def __init__(self, saw: Saw, main: asyncio.AbstractEventLoop) -> None:
        self._saw = saw
        self._main = main
        self._alive_at = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    def start(self) -> None:
        # kopf warns that it leaves signals alone, which is what is wanted of it.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        # A line for every event that was handed on.
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)
        self._alive_at = monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Has the watches end, which takes them a moment; see ``join``."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Waits for the end of the watches."""
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread, once it is started, or its loop has turned lately.

        Watches that end again and again, as they do while the API server is away, are alive: to
        end the process would not bring it back.
        """
        return self._thread.ident is None or monotonic() - self._alive_at < 30

    def _run(self) -> None:
        while not self._stop.is_set():
            self._alive_at = monotonic()
            loop = asyncio.new_event_loop()
            vault = Vault()
            try:
                loop.run_until_complete(self._watch(vault))
            except (Exception, asyncio.CancelledError):  # kopf cancels all that is in its loop
                log.exception("the watches ended; they are started again")
            finally:
                _abandon(loop, vault)
            self._stop.wait(RESTART_AFTER)

    async def _watch(self, vault: Vault) -> None:
        """Runs kopf until it ends, or begins to.

        After an error in one watch kopf stops the others, and may wait for ever: they log in anew
        while nobody gives them a login any more. So the first watch that ends, ends all.
        """
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[str] = loop.create_future()
        loop.set_task_factory(_tells_of_ended_watchers(broken))
        operator = asyncio.create_task(
            kopf.operator(
                registry=_registry(self._tell),
                clusterwide=True,
                standalone=True,
                # Else kopf asks for the user's name, which a container's user need not have.
                identity=Identity(OPERATOR),
                vault=vault,
            )
        )
        while not operator.done() and not self._stop.is_set():
            self._alive_at = monotonic()
            if broken.done():
                log.warning("%s has ended; all watches are started again", broken.result())
                return
            either: set[asyncio.Future[Any]] = {operator, broken}
            await asyncio.wait(either, timeout=BEAT, return_when=asyncio.FIRST_COMPLETED)
        if operator.done():
            operator.result()

    def _tell(self, kind: Kind, event: str | None, obj: Json) -> None:
        self._main.call_soon_threadsafe(self._saw, kind, event, obj)


def _tells_of_ended_watchers(broken: "asyncio.Future[str]") -> Callable[..., "asyncio.Task[Any]"]:
    """A task factory for kopf's loop. Watchers are endless: the first that ends is told of."""

    def ended(task: "asyncio.Task[Any]") -> None:
        if task.get_name().startswith("watcher for ") and not broken.done():
            broken.set_result(task.get_name())

    def make(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        task.add_done_callback(ended)
        return task

    return make


def _abandon(loop: asyncio.AbstractEventLoop, vault: Vault) -> None:
    """Ends a loop and what is left in it, without waiting long for what does not want to end.

    ``vault`` holds kopf's connections, which kopf closes only where its own end is orderly.
    """
    loop.set_exception_handler(lambda *_: None)  # "destroyed but pending": that is known here
    for task in asyncio.all_tasks(loop):
        task.cancel()
    # Not by a task that waits for them: kopf, as it ends, would cancel that as well.
    loop.call_later(LAST_MOMENTS, loop.stop)
    loop.run_forever()
    with suppress(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(vault.close(), LAST_MOMENTS))
    loop.close()
