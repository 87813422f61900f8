"""Thousands of Workflows at once, and what others notice of them."""

import asyncio
import statistics
import time

from corral.kube.client import Json
from tests.load import objects
from tests.load.parts.throughput import Cost
from tests.load.report import Figure, Part
from tests.load.site import Site, following

TEAM, NEIGHBOUR = "load", "neighbour"
A_FEW_TIMES = 4
"""What another tenant may lose while everything is busy."""


async def crowd(site: Site, part: Part) -> None:
    """Thousands of Workflows applied at once, and what others notice of it.

    A neighbour (the same namespace, its own Agent) and a tenant (another namespace) run one chain
    after another meanwhile; how long these take is compared with an idle operator. What they cost
    is in the crowd's figures.
    """
    sizes = site.sizes
    async with site.namespace() as namespace, site.namespace() as other:
        await site.team(namespace, TEAM)
        await site.team(namespace, NEIGHBOUR)
        await site.team(other, TEAM)
        neighbour = _Tenant(site, namespace, NEIGHBOUR)
        tenant = _Tenant(site, other, TEAM)
        for one in (neighbour, tenant):
            await one.alone()
        ones = [objects.chain(f"one-{number}", 1, TEAM) for number in range(sizes.crowd)]
        cost = Cost(steps=sizes.crowd)
        others = [asyncio.create_task(one.meanwhile()) for one in (neighbour, tenant)]
        try:
            await cost.measure(site, namespace, ones, part)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        part.figures += [*neighbour.figures("neighbour"), *tenant.figures("tenant")]
        part.details |= {"neighbour": neighbour.details(), "tenant": tenant.details()}


class _Tenant:
    """Somebody who runs one chain after another, and how long these take."""

    def __init__(self, site: Site, namespace: str, agent: str) -> None:
        self._site, self._namespace, self._agent = site, namespace, agent
        self._idle: list[float] = []
        self._busy: list[float] = []
        self._count = 0

    async def alone(self) -> None:
        """While nothing else is done; the first run only warms up."""
        for _ in range(4):
            self._idle.append(await self._run())
        del self._idle[0]

    async def meanwhile(self) -> None:
        """Until it is cancelled."""
        while True:
            self._busy.append(await self._run())

    async def _run(self) -> float:
        self._count += 1
        name = f"{self._agent}-chain-{self._count}"
        async with following(self._site, self._namespace) as runs:
            started = time.monotonic()
            await runs.run([objects.chain(name, self._site.sizes.chain_steps, self._agent)])
            return time.monotonic() - started

    def figures(self, who: str) -> list[Figure]:
        idle = statistics.median(self._idle)
        if not self._busy:
            return [Figure(f"{who}'s chains meanwhile", 0, least=1)]
        return [
            Figure(f"{who}'s chain, idle", idle, "s"),
            Figure(f"{who}'s chain, median", statistics.median(self._busy), "s"),
            Figure(
                f"{who}'s chain, median against idle",
                statistics.median(self._busy) / idle,
                "times",
                most=A_FEW_TIMES,
            ),
            Figure(f"{who}'s chain, longest", max(self._busy), "s"),
        ]

    def details(self) -> Json:
        return {
            "idleSeconds": [round(one, 2) for one in self._idle],
            "busySeconds": [round(one, 2) for one in self._busy],
        }
