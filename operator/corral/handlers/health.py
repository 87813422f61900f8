"""Liveness, readiness and metrics over HTTP."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

HEALTH_PORT = 8081
METRICS_PORT = 9090


async def serve_health(
    alive: Callable[[], bool],
    ready: Callable[[], bool],
    sample: Callable[[], None],
    health_port: int = HEALTH_PORT,
    metrics_port: int = METRICS_PORT,
) -> web.AppRunner:
    """Serves ``/healthz`` and ``/readyz`` on one port, ``/metrics`` on another; to be cleaned up.

    Args:
        sample: called before metrics are shown.

    Raises:
        OSError: a port is taken.
    """

    def answer(holds: bool) -> web.Response:
        return web.Response(text="ok" if holds else "no", status=200 if holds else 503)

    async def healthz(_: web.Request) -> web.Response:
        return answer(alive())

    async def readyz(_: web.Request) -> web.Response:
        return answer(ready())

    async def exposition(_: web.Request) -> web.Response:
        sample()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for port in (health_port, metrics_port):
        await web.TCPSite(runner, None, port).start()
    return runner
