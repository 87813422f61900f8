"""Starts the worker as a process: ``corral worker``.

uvicorn's own handling of SIGTERM closes the listening socket at once, which loses results that
nobody has fetched yet. Here SIGTERM refuses starts and keeps serving until nothing runs and all
results are acked, or ``drainTimeout`` ends.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from corral.api.attempt import (
    CONFIG_FILE,
    HEADERS_DIR,
    IDENTITY_FILE,
    KEYS_DIR,
    WORKER_PORT,
    OperatorIdentity,
)
from corral.telemetry.logs import configure_logging
from corral.worker.app import Worker, read_config
from corral.worker.headers import FileHeaders
from corral.worker.identity import FileIdentity
from corral.worker.keys import FileKeys

CONFIG_ENV = "CORRAL_WORKER_CONFIG"
KEYS_ENV = "CORRAL_WORKER_KEYS"
HEADERS_ENV = "CORRAL_WORKER_HEADERS"
IDENTITY_ENV = "CORRAL_WORKER_IDENTITY"
PORT_ENV = "CORRAL_WORKER_PORT"
POD_UID_ENV = "POD_UID"

_KEEP_ALIVE_SECONDS = 75
_LEASE_CHECK_SECONDS = 5.0
_IDLE_CHECK_SECONDS = 0.05

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(worker: Worker, listener: socket.socket) -> None:
    """Serves until a SIGTERM or SIGINT and the drain that follows it."""
    config = uvicorn.Config(
        worker.app(),
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config)
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    background = [
        asyncio.create_task(_warm_up(worker, server)),
        asyncio.create_task(_watch_lease(worker)),
        asyncio.create_task(_drain(worker, server, asked_to_end)),
    ]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await worker.runtime.aclose()


async def _drain(worker: Worker, server: uvicorn.Server, asked_to_end: asyncio.Event) -> None:
    await asked_to_end.wait()
    worker.table.drain()
    limit = worker.config.drain_timeout_seconds
    logger.info("The worker drains for at most %g s.", limit)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while not worker.table.idle:  # noqa: ASYNC110 - cheap, and only while draining
                await asyncio.sleep(_IDLE_CHECK_SECONDS)
    if not worker.table.idle:
        logger.warning("The drain timeout ended with attempts running or results not acked.")
    server.should_exit = True


async def _warm_up(worker: Worker, server: uvicorn.Server) -> None:
    """Imports the provider's client once the worker serves, so that readiness doesn't wait."""
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(_IDLE_CHECK_SECONDS)
    try:
        await asyncio.to_thread(worker.runtime.warm_up)
    except Exception:
        logger.exception("The provider's client could not be loaded.")
    _give_memory_back()


def _give_memory_back() -> None:
    """Returns what importing left behind (13 MB with OpenAI's client) to the system.

    What was imported stays for ever: frozen, it costs the garbage collector nothing any more.
    """
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


async def _watch_lease(worker: Worker) -> None:
    while True:
        await asyncio.sleep(_LEASE_CHECK_SECONDS)
        worker.stop_abandoned()


def listen(port: int) -> socket.socket:
    """A socket on all addresses of both IP versions, where there are both."""
    listener: socket.socket | None = None
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            listener = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=2048
            )
    listener = listener or socket.create_server(("", port), backlog=2048)
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, and
    # without it an answer in two parts waits 40 ms for the other side's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def main() -> int:
    """Runs a worker from its environment and configuration file; gives the exit code.

    Environment: POD_UID; optional CORRAL_WORKER_CONFIG, CORRAL_WORKER_KEYS,
    CORRAL_WORKER_HEADERS, CORRAL_WORKER_IDENTITY, CORRAL_WORKER_PORT.
    """
    level = os.environ.get("CORRAL_LOG_LEVEL", "info")
    configure_logging(level)
    logging.captureWarnings(True)  # libraries' warnings as JSON lines too
    path = Path(os.environ.get(CONFIG_ENV, CONFIG_FILE))
    pod_uid = os.environ.get(POD_UID_ENV)
    if not pod_uid:
        logger.error("%s is not set.", POD_UID_ENV)
        return 2

    def identity() -> OperatorIdentity:
        return read_config(path.read_bytes()).operator

    try:
        worker = Worker(
            read_config(path.read_bytes()),
            pod_uid,
            FileKeys(os.environ.get(KEYS_ENV, KEYS_DIR)),
            identity,
            headers=FileHeaders(os.environ.get(HEADERS_ENV, HEADERS_DIR)),
            shown=FileIdentity(os.environ.get(IDENTITY_ENV, IDENTITY_FILE)),
        )
        listener = listen(int(os.environ.get(PORT_ENV, WORKER_PORT)))
    except (OSError, ValueError) as error:
        logger.error("The worker can't start: %s", error)
        return 2
    configure_logging(level, hide=lambda text: worker.runtime.hidden().text(text))
    logger.info("The worker of agent %s listens.", worker.config.agent_name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(worker, listener))
    return 0
