"""What the API server does without corral."""

import asyncio
import time

from corral.kube.client import CONFIG_MAPS, Json
from tests.load.report import Figure, Part
from tests.load.site import Site

WRITERS = 16
WRITES_EACH = 25


async def floor(site: Site, part: Part) -> None:
    """PUTs of 1 KB objects, each writer its own: what a step costs that is but one write."""
    async with site.namespace() as namespace:

        async def write(number: int) -> None:
            body: Json = {"metadata": {"name": f"floor-{number}"}, "data": {"text": "x" * 1024}}
            obj = await site.kube.create(CONFIG_MAPS, namespace, body)
            for turn in range(WRITES_EACH):
                obj["data"]["turn"] = str(turn)
                path = CONFIG_MAPS.path(namespace, obj["metadata"]["name"])
                obj = await site.kube.request("PUT", path, obj)

        before = await site.server()
        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(write(number) for number in range(WRITERS)))
        seconds, writes = time.monotonic() - started, WRITERS * (WRITES_EACH + 1)
        own = time.process_time() - cpu
        server = (await site.server()).cpu - before.cpu
    part.figures += [
        Figure("raw writes", writes / seconds, "/s"),
        Figure("API server's CPU", server / writes * 1000, "ms/write"),
        Figure("client's CPU", own / writes * 1000, "ms/write"),
    ]
