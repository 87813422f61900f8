"""The watches, by kopf, in a thread and an event loop of their own.

kopf ends its operator on an ERROR in a watch stream, on HTTP 410 and on other answers that it
takes for final; and when it ends it cancels every task of its loop. So it runs apart from the
passes, and is started again: a watch that breaks stops nothing but that watch. ``on.event`` is the
only kind of handler in use: it writes nothing to the objects, neither annotations nor finalizers.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import kopf
from kopf._core.engines.peering import Identity

from corral.kube.client import AGENTS, MODELS, PODS, POOLS, WORKFLOWS, Json, Kind
from corral.plan.names import OPERATOR, WORKER_SELECTOR

log = logging.getLogger(__name__)

RESTART_AFTER = 0.5
"""Seconds; kopf itself takes five to end after an error."""
Saw = Callable[[Kind, str | None, Json], None]


def _settings(settings: kopf.OperatorSettings) -> None:
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
    for kind in (MODELS, AGENTS, POOLS, WORKFLOWS):
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
        self._end: Callable[[], object] = lambda: None

    def start(self) -> None:
        # kopf warns that it leaves signals alone, which is what is wanted of it.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        threading.Thread(target=self._run, name="watches", daemon=True).start()

    def stop(self) -> None:
        """Ends the watches, and does not wait for it."""
        self._stop.set()
        self._end()

    @property
    def alive(self) -> bool:
        """Whether the thread or its loop has turned lately.

        Watches that end again and again, as they do while the API server is away, are alive: to
        end the process would not bring it back.
        """
        return monotonic() - self._alive_at < 30

    def _run(self) -> None:
        while not self._stop.is_set():
            self._alive_at = monotonic()
            try:
                asyncio.run(self._watch())
            except Exception:
                log.exception("the watches ended; they are started again")
            self._stop.wait(RESTART_AFTER)

    async def _watch(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def beat() -> None:
            # Not a task: kopf waits for every task of its loop when it ends.
            self._alive_at = monotonic()
            loop.call_later(5, beat)

        def end() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set)

        beat()
        self._end = end
        if self._stop.is_set():
            return
        try:
            await kopf.operator(
                registry=_registry(self._tell),
                clusterwide=True,
                standalone=True,
                # Else kopf asks for the user's name, which a container's user need not have.
                identity=Identity(OPERATOR),
                stop_flag=ended,
            )
        finally:
            self._end = lambda: None

    def _tell(self, kind: Kind, event: str | None, obj: Json) -> None:
        self._main.call_soon_threadsafe(self._saw, kind, event, obj)
