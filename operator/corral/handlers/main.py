"""``corral operator``: the process."""

import asyncio
import logging
import os
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from corral.api.types import seconds
from corral.artifacts.errors import ArtifactStoreError
from corral.artifacts.store import ArtifactStore
from corral.handlers.artifacts import ARTIFACTS_PORT, serve_artifacts
from corral.handlers.health import HEALTH_PORT, METRICS_PORT, serve_health
from corral.handlers.ledger import LEDGER_PORT, serve_ledger
from corral.handlers.watches import Watches
from corral.kube.client import ApiError, connect
from corral.ledger.writer import Ledger
from corral.reconcile.controller import Controller
from corral.telemetry.logs import configure_logging
from corral.tracing.tracer import Tracer, endpoint

if TYPE_CHECKING:
    from corral.ledger.outbox import Outbox
    from corral.ledger.store import Store
    from corral.tracing.otlp import Exporter

log = logging.getLogger("corral.operator")

ARTIFACTS_URL = "file:///var/lib/corral/artifacts"
STANDBY = 5.0
"""Seconds without the lease after which a process counts as a standby, which watches too."""
LEDGER_URL = "sqlite:////var/lib/corral/ledger.db"
LEDGER_RETENTION = "9600h"
"""400 days: a year can be compared with the one before it."""


def main() -> int:
    """Runs the operator until it is told to stop (0) or may not lead any more (1).

    Environment: ``POD_NAMESPACE`` (its own namespace, ``corral-system``), ``POD_UID`` (its
    identity), ``CORRAL_WORKER_IMAGE``, ``CORRAL_WORKER_IMAGE_REVISION`` (what tells
    two images of one name apart), ``CORRAL_LOG_LEVEL``, ``CORRAL_HEALTH_PORT``,
    ``CORRAL_METRICS_PORT``, ``CORRAL_ARTIFACTS_URL`` (where large outputs are; S3's endpoint and
    credentials are in the AWS variables), ``CORRAL_ARTIFACTS_PORT``, ``CORRAL_LEDGER_URL`` (a
    database; empty: no ledger), ``CORRAL_LEDGER_RETENTION`` (for how long rows are kept; empty: for
    ever), ``CORRAL_LEDGER_PORT``, and OpenTelemetry's own: with ``OTEL_EXPORTER_OTLP_ENDPOINT`` or
    ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` runs are traced.
    """
    configure_logging(os.environ.get("CORRAL_LOG_LEVEL", "info"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_operate())


async def _operate() -> int:
    namespace = os.environ.get("POD_NAMESPACE", "corral-system")
    identity = os.environ.get("POD_UID") or f"{os.uname().nodename}-{uuid.uuid4().hex[:8]}"
    image = os.environ.get("CORRAL_WORKER_IMAGE", "localhost/corral:dev")
    try:
        artifacts = ArtifactStore(os.environ.get("CORRAL_ARTIFACTS_URL") or ARTIFACTS_URL)
    except ArtifactStoreError as error:
        log.error("CORRAL_ARTIFACTS_URL: %s", error)
        return 1
    try:
        rows = _rows()
        exporter = _exporter(rows)
        ledger = Ledger(rows, _retention(), _outbox(rows, exporter))
    except ValueError as error:
        log.error("%s", error)
        return 1
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with connect() as kube:
        controller = Controller(
            kube,
            artifacts,
            namespace,
            identity,
            image,
            os.environ.get("CORRAL_WORKER_IMAGE_REVISION", ""),
            ledger,
            Tracer(exporter.sampled if exporter else None),
        )
        watches = Watches(controller.saw, loop)
        health = await serve_health(
            alive=lambda: watches.alive,
            ready=controller.synced.is_set,
            sample=controller.measures.sample,
            health_port=int(os.environ.get("CORRAL_HEALTH_PORT", HEALTH_PORT)),
            metrics_port=int(os.environ.get("CORRAL_METRICS_PORT", METRICS_PORT)),
        )
        served = await serve_artifacts(
            artifacts, int(os.environ.get("CORRAL_ARTIFACTS_PORT", ARTIFACTS_PORT))
        )
        books = await serve_ledger(rows, int(os.environ.get("CORRAL_LEDGER_PORT", LEDGER_PORT)))
        lead = asyncio.create_task(_lead(controller, watches))
        stopped = asyncio.create_task(stop.wait())
        checked = asyncio.create_task(_check(artifacts))
        try:
            await asyncio.wait({lead, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if lead.done():
                lead.result()
                return 1
            return 0
        finally:
            watches.stop()
            for task in (lead, stopped, checked):
                task.cancel()
            await asyncio.gather(lead, stopped, checked, return_exceptions=True)
            await books.cleanup()
            await served.cleanup()
            await artifacts.close()
            await health.cleanup()
            if exporter is not None:
                exporter.close()
            if rows is not None:
                await rows.close()


def _rows() -> "Store | None":
    """The ledger's database; None where there is none.

    Raises:
        ValueError: its URL is none; begins with the name of the setting.
    """
    url = os.environ.get("CORRAL_LEDGER_URL")
    if url is None and not os.access(Path(LEDGER_URL.removeprefix("sqlite:///")).parent, os.W_OK):
        log.warning("there is no volume for a ledger, and CORRAL_LEDGER_URL is not set: it is off")
        return None
    if url == "":
        return None
    # A process without a ledger does not load what talks to databases.
    from corral.ledger.store import Store

    try:
        return Store(url or LEDGER_URL)
    except ValueError as error:
        raise ValueError(f"CORRAL_LEDGER_URL: {error}") from None


def _exporter(rows: "Store | None") -> "Exporter | None":
    """Who sends spans; None where no collector is named.

    Raises:
        ValueError: spans have nowhere to wait, or a setting is wrong; begins with its name.
    """
    setting = endpoint()
    if setting is None:
        return None
    if rows is None:
        why = "spans wait in the ledger's database until they are exported, and there is no ledger"
        raise ValueError(f"{setting}: {why}")
    # A process that traces nothing does not load what does.
    from corral.tracing.otlp import Exporter

    return Exporter()


def _outbox(rows: "Store | None", exporter: "Exporter | None") -> "Outbox | None":
    if rows is None or exporter is None:
        return None
    from corral.ledger.outbox import Outbox
    from corral.ledger.shelf import Shelf

    return Outbox(Shelf(rows), exporter.export)


def _retention() -> float | None:
    """Seconds for which rows of the ledger are kept; None for ever.

    Raises:
        ValueError: it is no duration; begins with the name of the setting.
    """
    text = os.environ.get("CORRAL_LEDGER_RETENTION", LEDGER_RETENTION)
    try:
        return seconds(text) if text else None
    except ValueError as error:
        raise ValueError(f"CORRAL_LEDGER_RETENTION: {error}") from None


async def _lead(controller: Controller, watches: Watches) -> None:
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(watches, controller))
        await _prime_and_run(controller)
        watching.cancel()


async def _prime_and_run(controller: Controller) -> None:
    async for attempt in AsyncRetrying(
        wait=wait_exponential_jitter(initial=0.5, max=10),
        retry=retry_if_exception_type(ApiError),
        before_sleep=lambda state: log.warning(
            "the API server can't be read: %s", state.outcome and state.outcome.exception()
        ),
    ):
        with attempt:
            await controller.prime()
    await controller.run()


async def _watch(watches: Watches, controller: Controller) -> None:
    """Starts the watches: they list everything first, which would slow a term's start."""
    await controller.synced.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(STANDBY):
            await controller.taken_up.wait()
    watches.start()


async def _check(artifacts: ArtifactStore) -> None:
    """Says early, and until it has passed, that large outputs can't be stored."""
    async for attempt in AsyncRetrying(
        wait=wait_exponential_jitter(initial=5, max=60),
        retry=retry_if_exception_type(ArtifactStoreError),
        before_sleep=lambda state: log.warning(
            "large outputs can't be stored: %s", state.outcome and state.outcome.exception()
        ),
    ):
        with attempt:
            await artifacts.check()
    log.info("large outputs are stored in %s", artifacts.url)
