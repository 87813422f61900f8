"""How long a ready step takes to reach a warm worker."""

import statistics
from itertools import pairwise

from tests.load import objects
from tests.load.report import Figure, Part
from tests.load.site import Site, following

TEAM = "load"
MODEL_LATENCY = 20
"""Milliseconds: long enough that the model's own is certain, short enough for many steps."""


async def latency(site: Site, part: Part) -> None:
    """One chain at a time: from a step's end to the end of the next, both by the worker's log.

    Without what the simulated model takes. So it has all there is between two steps: the answer to
    the operator, its pass, the status write, the call to the worker and the worker's own work.
    """
    sizes = site.sizes
    async with site.namespace() as namespace:
        await site.team(namespace, TEAM, latency=f"{MODEL_LATENCY}ms")
        async with following(site, namespace) as runs:
            await runs.run([objects.chain("warm-up", 3, TEAM)])
            warm_up = runs.newest["warm-up"]["metadata"]["uid"]
            for number in range(sizes.latency_workflows):
                await runs.run([objects.chain(f"chain-{number}", sizes.latency_steps, TEAM)])
        ends = await site.attempts(namespace, TEAM)
    gaps = sorted(
        (later - earlier) * 1000 - MODEL_LATENCY
        for run, of_run in ends.items()
        if run != warm_up
        for earlier, later in pairwise(of_run)
    )
    cuts = statistics.quantiles(gaps, n=100, method="inclusive")
    part.figures += [
        Figure("between two steps, p50", cuts[49], "ms", most=10),
        Figure("between two steps, p99", cuts[98], "ms", most=40),
        Figure("between two steps, longest", gaps[-1], "ms"),
    ]
    part.details |= {"steps": len(gaps), "shortestMilliseconds": round(gaps[0], 1)}
