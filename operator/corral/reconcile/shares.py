"""What runs hold of what all share: slots, Agents' budgets, turns with memoized results.

After every pass a run holds what its state says, and whoever waited for what it let go of is woken.
"""

import logging

from corral.api.workflow import WorkflowSpec
from corral.artifacts.errors import ArtifactStoreError
from corral.plan.holdings import models_asked, on_workers, reservations, turns
from corral.plan.keys import WorkflowKey
from corral.plan.observed import Pass
from corral.plan.state import Run
from corral.reconcile.gather import agents_of
from corral.reconcile.store import ObjectKey
from corral.reconcile.world import World

log = logging.getLogger(__name__)

SETTLED_DEMAND_DELAY = 0.25
"""Seconds after which agents hear of demand that merely changed."""
COALESCE = 0.05
"""Seconds for which something that may come in waves waits for more."""


class Shares:
    """Settles what each run holds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[ObjectKey, tuple[int, int]] = {}
        """By Agent: queued and running attempts when it was woken last."""

    def take_up(self, key: WorkflowKey, spec: WorkflowSpec | None, run: Run) -> None:
        """Notes what a run that a former leader began holds: slots, money, calls, turns."""
        self._world.slots.keep_only(key, on_workers(run))
        if spec is not None:
            self._settle_budgets(key, spec, run)
            self._resume_calls(key, spec, run)
        for memo, place in turns(run):
            self._world.flights.claim(key, memo, place)

    def _resume_calls(self, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> None:
        """What the run has in flight counts against its Models' limits."""
        for attempt, (agent, told) in models_asked(spec, run).items():
            view = self._world.agent_view((key[0], agent))
            for model in view.models if view else ():
                if told in (None, model.name):
                    load = model.load(structured=True)
                    self._world.slots.gates.resume(key, attempt, (key[0], model.name), load)
                    break

    def settle(self, key: WorkflowKey, spec: WorkflowSpec, run: Run, freed: set[ObjectKey]) -> None:
        """Holds what the state says; ``freed`` are Agents of which slots were let go before."""
        slots, wake = self._world.slots, self._world.wake
        freed = freed | slots.keep_only(key, on_workers(run))
        self._settle_budgets(key, spec, run)
        if run.finished_for_good:
            freed |= slots.forget(key)
            self._no_longer_uses(key)
        agents = {(key[0], name) for name in agents_of(self._world, key, spec)}
        for waiting in slots.waiting_for(freed):
            if waiting != key:
                wake.workflow(waiting)
        for waiting in slots.waiting_for(slots.left_over(agents)):
            wake.workflow(waiting, COALESCE)
        for agent in agents:
            self._tell_demand(agent)

    def _settle_budgets(self, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> None:
        """What the run holds of its Agents' budgets is what its state says."""
        held = {
            attempt: ((key[0], agent), reservation)
            for attempt, (agent, reservation) in reservations(spec, run).items()
            if self._world.agent_budget((key[0], agent)) is not None
        }
        for agent_key in self._world.budgets.hold_only(key, held):
            for waiting in self._world.users.get(agent_key, ()):
                self._world.wake.workflow(waiting, COALESCE)

    async def memoize(self, p: Pass) -> None:
        """Keeps results for others: before the commit, after which no plan names them again."""
        if p.to_memoize:
            try:
                await self._world.library.memoize(p, p.to_memoize)
            except ArtifactStoreError as error:
                log.warning("results are not kept for other runs: %s", error)

    def publish(self, key: WorkflowKey, p: Pass) -> None:
        """Lets those begin who waited for a result."""
        places = {
            frame.place(frame.specs[name], index)
            for frame in p.frames.all()
            for name, step in frame.steps.items()
            if frame.specs[name].memoize is not None
            for index, node in enumerate(step.nodes)
            if node.memo is not None and not node.final
        }
        for waiting in self._world.flights.settle(key, places):
            self._world.wake.workflow(waiting)

    def drop(self, key: WorkflowKey) -> None:
        """The Workflow is gone, and holds nothing any more."""
        world = self._world
        world.budgets.hold_only(key, {})
        for waiting in world.flights.settle(key, set()):
            world.wake.workflow(waiting)
        freed = world.slots.forget(key)
        self._no_longer_uses(key)
        for agent in freed:
            self._tell_demand(agent)
        for waiting in world.slots.waiting_for(freed):
            world.wake.workflow(waiting)

    def _tell_demand(self, agent: ObjectKey) -> None:
        """Wakes an Agent if more or less is asked of it: at once where nothing waited before."""
        slots = self._world.slots
        demand = slots.queued(agent), slots.running(agent)
        before = self._told.get(agent, (0, 0))
        if demand == before:
            return
        if demand == (0, 0):
            self._told.pop(agent, None)
        else:
            self._told[agent] = demand
        begins = demand[0] > 0 and before[0] == 0
        self._world.wake.agent(agent, 0 if begins else SETTLED_DEMAND_DELAY)

    def _no_longer_uses(self, key: WorkflowKey) -> None:
        users = self._world.users
        for agent in [agent for agent, keys in users.items() if key in keys]:
            users[agent].discard(key)
            if not users[agent]:
                del users[agent]
