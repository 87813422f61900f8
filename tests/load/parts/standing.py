"""Thousands of Workflows that are merely there: memory, idleness, and a restart of the operator."""

import asyncio
import time
from itertools import pairwise

from corral.kube.client import (
    AGENTS,
    EVENTS,
    MODELS,
    PODS,
    POOLS,
    WORKFLOWS,
)
from tests.load import objects
from tests.load.parts.throughput import losses
from tests.load.readings import LEASE, OperatorReading
from tests.load.report import Figure, Part
from tests.load.site import SYSTEM, Site, following

TEAM, SLOW, TICKER = "load", "slow", "ticker"
NO_ANSWER = "1h"
TICK = 400
"""Milliseconds that the ticker's model takes."""
TICKS_BEFORE = 5
TICKS = 40
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
SETTLED_AFTER = 15.0
"""Seconds: one round of the operator's sweeps, and some."""


async def standing(site: Site, part: Part) -> None:
    """Thousands of Workflows are there, most finished, some suspended, some with a worker.

    First nothing is done. Then the operator's pod is deleted while a chain, the ticker, runs: its
    longest silence at the worker ends with the first dispatch of the new process.
    """
    sizes = site.sizes
    async with site.namespace() as namespace:
        for team, latency in ((TEAM, ""), (SLOW, NO_ANSWER), (TICKER, f"{TICK}ms")):
            await site.team(namespace, team, latency=latency)
        async with following(site, namespace) as runs:
            finished = sizes.crowd - sizes.waiting - sizes.running
            await runs.run([objects.chain(f"done-{number}", 1, TEAM) for number in range(finished)])
            await runs.submit(
                objects.chain(f"waiting-{number}", 1, TEAM, suspend=True)
                for number in range(sizes.waiting)
            )
            await runs.until(lambda: runs.phases()["Suspended"] == sizes.waiting, "suspended")
            await asyncio.sleep(SETTLED_AFTER)
            await _idle(site, part)
            await runs.submit(
                objects.chain(f"running-{number}", 1, SLOW) for number in range(sizes.running)
            )
            await runs.until(lambda: runs.phases()["Running"] == sizes.running, "running")
        await _restart(site, namespace, part)


async def _idle(site: Site, part: Part) -> None:
    operator, server = await site.operator(), await site.server()
    started = time.monotonic()
    await asyncio.sleep(site.sizes.idle)
    seconds = time.monotonic() - started
    used, served = await site.operator(), await site.server()
    calls = used.calls - operator.calls
    leases = calls.pop(LEASE, 0)
    part.figures += [
        Figure("idle: writes besides the Lease's", calls.total(), most=0),
        Figure("idle: operator's CPU", (used.cpu - operator.cpu) / seconds * 1000, "ms/s"),
        Figure("idle: API server's CPU", (served.cpu - server.cpu) / seconds * 1000, "ms/s"),
        Figure("memory, all done by this process", used.resident / 2**20, "MiB", most=400),
    ]
    part.details["idle"] = {
        "seconds": round(seconds, 1),
        "writesOfTheLease": leases,
        "otherWrites": dict(calls),
    }


async def _restart(site: Site, namespace: str, part: Part) -> None:
    await asyncio.sleep(SETTLED_AFTER)
    before, server = await _versions(site, namespace), await site.server()
    old = await site.operator_pod()
    async with following(site, namespace) as runs:
        await runs.submit([objects.chain(TICKER, TICKS, TICKER)])
        await runs.until(lambda: runs.changes[TICKER] > TICKS_BEFORE, "ticking")
        meta = old["metadata"]
        await site.kube.delete(PODS, SYSTEM, meta["name"], meta["uid"])
        await runs.until_finished([TICKER])
        operator = await _another(site, meta["uid"])
        await asyncio.sleep(max(0.0, operator.started + SETTLED_AFTER - time.time()))
        served, after = await site.server(), await _versions(site, namespace)
        used = await site.operator()
        ticks = (await site.attempts(namespace, TICKER))[runs.newest[TICKER]["metadata"]["uid"]]
        needed = runs.changes[TICKER]
        lost = losses(runs, TICKS)
    silence, dispatched = max((began - ended, began) for (_, ended), (began, _) in pairwise(ticks))
    changed = sorted(name for name in after if after[name] != before.get(name))
    writes = served.status_writes - server.status_writes
    part.figures += [
        Figure(
            "restart: start of the process to first dispatch",
            dispatched - operator.started,
            "s",
            most=8,
        ),
        Figure("restart: silence at the worker", silence, "s"),
        Figure(
            "restart: writes of statuses that were not needed",
            writes - needed,
            most=0,
        ),
        Figure("restart: other objects changed", len(changed), most=0),
        Figure("memory, all read at the start", used.resident / 2**20, "MiB", most=400),
        *lost,
    ]
    part.details["restart"] = {
        "changed": changed[:20],
        "writesOfTheNewProcess": dict(used.calls),
        "writesOfTheTicker": needed,
    }


async def _another(site: Site, uid: str) -> OperatorReading:
    """What the operator that came after that pod says of itself."""
    async with asyncio.timeout(site.sizes.timeout):
        while (await site.operator_pod())["metadata"]["uid"] == uid:
            await asyncio.sleep(0.2)
    return await site.operator()


async def _versions(site: Site, namespace: str) -> dict[str, str]:
    """The resourceVersions of what is in a namespace, without the ticker's; Events among them."""
    found = {}
    for kind in (WORKFLOWS, AGENTS, POOLS, MODELS, PODS, EVENTS):
        for obj in await site.kube.list(kind, namespace, accept=METADATA_ONLY):
            name = obj["metadata"]["name"]
            if not name.startswith(TICKER):
                found[f"{kind.plural}/{name}"] = obj["metadata"]["resourceVersion"]
    return found
