"""Agents' sums, held against the ledger.

An Agent's sums are written every ten seconds at most, so an operator that is killed takes the last
ones with it. The ledger has them.
"""

import asyncio
import logging

from corral.ledger.errors import LedgerError
from corral.plan.times import parse
from corral.reconcile.agents import Agents
from corral.reconcile.store import ObjectKey, key_of
from corral.reconcile.world import World

log = logging.getLogger(__name__)

PERIOD = 15.0
"""Seconds, in which workers are asked for what is not in the ledger yet."""


class Recount:
    """Counts every Agent when a term begins, and those of which something comes to light later."""

    def __init__(self, world: World, agents: Agents) -> None:
        self._world = world
        self._agents = agents
        self.due: set[ObjectKey] = set()
        """Of these something is about to be written."""

    async def run(self) -> None:
        """Counts all at once, for budgets; again when workers were asked; then what is due."""
        everybody = {key_of(obj) for obj in self._world.agents}
        await self._count_all(everybody)
        ripe = everybody
        while True:
            await asyncio.sleep(PERIOD)
            left = await self._count_all(ripe)
            ripe = left | self.due
            self.due.clear()

    async def _count_all(self, keys: set[ObjectKey]) -> set[ObjectKey]:
        """Those that could not be counted now."""
        left = set(keys)
        try:
            for key in sorted(keys):
                if await self._count(key):
                    left.discard(key)
        except LedgerError as error:
            log.info("Agents' sums can't be held against the ledger: %s", error)
        return left

    async def _count(self, key: ObjectKey) -> bool:
        obj = self._world.agents.get(key)
        if obj is None:
            return True
        made = parse(obj["metadata"]["creationTimestamp"])
        used = await self._world.ledger.spent(*key, made)
        if used is None:
            return True
        began = self._world.budgets.began_at(key)
        in_period = await self._world.ledger.spent(*key, max(began or made, made))
        return in_period is not None and self._agents.make_up(key, used, in_period)
