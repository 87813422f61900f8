"""How long a ready step takes to reach a warm worker."""

import statistics
from itertools import pairwise

from tests.load import objects
from tests.load.report import Figure, Part
from tests.load.site import Site, following

TEAM = "load"
MODEL_LATENCY = 20
"""Milliseconds: enough steps in little time, and no two at once."""


async def latency(site: Site, part: Part) -> None:
    """One chain at a time: what passes between two steps, by the worker's own log.

    Dispatch is from a step's end at the worker to the next one's begin there: the answer to the
    operator, its pass, the status write, and the call to the worker. From end to end, without what
    the simulated model takes, it has the worker's own work besides.
    """
    sizes = site.sizes
    async with site.namespace() as namespace:
        await site.team(namespace, TEAM, latency=f"{MODEL_LATENCY}ms")
        async with following(site, namespace) as runs:
            await runs.run([objects.chain("warm-up", 3, TEAM)])
            warm_up = runs.newest["warm-up"]["metadata"]["uid"]
            before = await site.server()
            for number in range(sizes.latency_workflows):
                await runs.run([objects.chain(f"chain-{number}", sizes.latency_steps, TEAM)])
            after = await site.server()
        attempts = await site.attempts(namespace, TEAM)
    pairs = [
        pair for run, of_run in attempts.items() if run != warm_up for pair in pairwise(of_run)
    ]
    dispatch = [(began - ended) * 1000 for (_, ended), (began, _) in pairs]
    whole = [(later - ended) * 1000 - MODEL_LATENCY for (_, ended), (_, later) in pairs]
    for name, gaps, at_most in (
        ("dispatch", dispatch, (10, 40)),
        ("end to end", whole, (None, None)),
    ):
        cuts = statistics.quantiles(gaps, n=100, method="inclusive")
        part.figures += [
            Figure(f"{name}, p50", cuts[49], "ms", most=at_most[0]),
            Figure(f"{name}, p99", cuts[98], "ms", most=at_most[1]),
        ]
    writes = after.status_writes - before.status_writes
    in_server = (after.status_write_seconds - before.status_write_seconds) / writes * 1000
    part.figures.append(Figure("of which in the API server, for a status write", in_server, "ms"))
    part.details |= {"steps": len(pairs), "longestDispatchMilliseconds": round(max(dispatch), 1)}
