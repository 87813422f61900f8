"""Twice as much as the workers can do."""

import asyncio
import time

from tests.load import objects
from tests.load.parts.throughput import losses
from tests.load.report import Figure, Part
from tests.load.site import Site, following

TEAM = "load"
CONCURRENCY = 4
MODEL_LATENCY = 400
"""Milliseconds; 4 steps at once are 10 a second and worker, which corral itself does with ease."""


async def overload(site: Site, part: Part) -> None:
    """Workflows of one step come at twice the workers' rate: they wait, and none is lost.

    The queue is to cost nothing: the workers stay as busy as they can be.
    """
    sizes = site.sizes
    capacity = sizes.workers * CONCURRENCY * 1000 / MODEL_LATENCY
    count = int(capacity * 2 * sizes.overload)
    async with site.namespace() as namespace:
        await site.team(namespace, TEAM, latency=f"{MODEL_LATENCY}ms", concurrency=CONCURRENCY)
        operator = await site.operator()
        async with following(site, namespace) as runs:
            await runs.run([objects.chain("warm-up", 1, TEAM)])
            started, longest = time.monotonic(), 0
            for number in range(count):
                due = started + number / (capacity * 2)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await runs.submit([objects.chain(f"one-{number}", 1, TEAM)], at_once=1)
                longest = max(longest, len(runs.made) - len(runs.finished))
            submitted = time.monotonic() - started
            await runs.until_finished(runs.made)
            seconds = time.monotonic() - started
            used = await site.operator()
            part.figures += [
                Figure("submitted", count / submitted, "/s"),
                Figure("done", count / seconds, "/s"),
                Figure("of what the workers can do", count / seconds / capacity * 100, "%"),
                Figure("longest queue", longest, "Workflows"),
                Figure("API writes", (used.calls - operator.calls).total() / count, "/step"),
                Figure("operator's CPU", (used.cpu - operator.cpu) / count * 1000, "ms/step"),
                Figure("unexpected errors", used.errors - operator.errors, most=0, must=True),
                *losses(runs, count + 1),
            ]
