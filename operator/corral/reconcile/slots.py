"""The slots of all workers: who holds one, and who waits for one.

Slots live in memory. They are reserved before the status write that starts an attempt, freed by
the one that ends it, and rebuilt from the statuses after a restart. A worker is offered only
while it is ready, not draining, and of its pool's current revision.

Slots are shared evenly among the workflows that wait for the same agent, so that a wide fan-out
cannot starve its neighbours.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from corral.plan.observed import Slot, Want
from corral.plan.state import Worker

AgentKey = tuple[str, str]
"""(namespace, Agent's name)."""
WorkflowKey = tuple[str, str]
"""(namespace, Workflow's name)."""


@dataclass
class _WorkerSlots:
    worker: Worker
    agent: AgentKey
    revision: str
    capacity: int
    offered: bool
    held: set[str] = field(default_factory=set)

    @property
    def free(self) -> int:
        return max(0, self.capacity - len(self.held)) if self.offered else 0


class Slots:
    """The table."""

    def __init__(self) -> None:
        self._workers: dict[str, _WorkerSlots] = {}
        self._of_agent: dict[AgentKey, set[str]] = defaultdict(set)
        self._held: dict[str, tuple[WorkflowKey, str]] = {}
        self._of_workflow: dict[WorkflowKey, set[str]] = defaultdict(set)
        self._waiting: dict[AgentKey, dict[WorkflowKey, int]] = defaultdict(dict)

    def offer(
        self,
        worker: Worker,
        agent: AgentKey,
        revision: str,
        capacity: int,
        offered: bool,
    ) -> None:
        """Tells of a worker, or of a change of it; ``offered`` is False while it takes no work."""
        known = self._workers.get(worker.uid)
        held = (
            known.held
            if known
            else {attempt for attempt, (_, uid) in self._held.items() if uid == worker.uid}
        )
        self._workers[worker.uid] = _WorkerSlots(worker, agent, revision, capacity, offered, held)
        self._of_agent[agent].add(worker.uid)

    def withdraw(self, uid: str) -> None:
        """Forgets a worker that is gone; what it ran is told separately."""
        if (known := self._workers.pop(uid, None)) is not None:
            self._of_agent[known.agent].discard(uid)

    def claim(self, key: WorkflowKey, namespace: str, wants: Sequence[Want]) -> dict[str, Slot]:
        """Reserves slots for the first of the wanted attempts, least busy workers first."""
        granted: dict[str, Slot] = {}
        by_agent: dict[AgentKey, list[Want]] = defaultdict(list)
        for want in wants:
            by_agent[(namespace, want.agent)].append(want)
        for agent, waiting in self._waiting.items():
            if agent not in by_agent:
                waiting.pop(key, None)
        for agent, wanted in by_agent.items():
            waiting = self._waiting[agent]
            free = sum(self._workers[uid].free for uid in self._of_agent[agent])
            others = len(waiting.keys() - {key})
            share = free if not others else max(1, free // (others + 1))
            for want in wanted[: min(free, share)]:
                slots = min(
                    (self._workers[uid] for uid in self._of_agent[agent]),
                    key=lambda s: (s.free <= 0, len(s.held) / s.capacity, s.worker.pod),
                )
                slots.held.add(want.attempt_id)
                self._held[want.attempt_id] = (key, slots.worker.uid)
                self._of_workflow[key].add(want.attempt_id)
                granted[want.attempt_id] = Slot(slots.worker, slots.revision)
            # Waiting again at the end of the line is what makes the sharing go round.
            waiting.pop(key, None)
            if unmet := sum(want.attempt_id not in granted for want in wanted):
                waiting[key] = unmet
        return granted

    def keep_only(self, key: WorkflowKey, running: Mapping[str, Worker]) -> set[AgentKey]:
        """Frees what the workflow holds and does not run; takes what it runs and does not hold.

        Returns the agents that have a slot more now.
        """
        freed: set[AgentKey] = set()
        for attempt_id in list(self._of_workflow.get(key, ())):
            if attempt_id in running:
                continue
            _, uid = self._held.pop(attempt_id)
            self._of_workflow[key].discard(attempt_id)
            if (slots := self._workers.get(uid)) is not None:
                slots.held.discard(attempt_id)
                freed.add(slots.agent)
        for attempt_id, worker in running.items():
            if attempt_id not in self._held:
                self._held[attempt_id] = (key, worker.uid)
                self._of_workflow[key].add(attempt_id)
                if (slots := self._workers.get(worker.uid)) is not None:
                    slots.held.add(attempt_id)
        if not self._of_workflow.get(key):
            self._of_workflow.pop(key, None)
        return freed

    def forget(self, key: WorkflowKey) -> set[AgentKey]:
        """Frees everything of a workflow, its place in the lines too."""
        waited = {agent for agent, waiting in self._waiting.items() if waiting.pop(key, None)}
        return self.keep_only(key, {}) | waited

    def waiting_for(self, agents: Iterable[AgentKey]) -> list[WorkflowKey]:
        """The workflows that wait for one of the agents, the longest first."""
        found: dict[WorkflowKey, None] = {}
        for agent in agents:
            found |= dict.fromkeys(self._waiting.get(agent, ()))
        return list(found)

    def queued(self, agent: AgentKey) -> int:
        """Attempts that would start if the agent had more slots."""
        return sum(self._waiting.get(agent, {}).values())

    def held_on(self, uid: str) -> int:
        """Attempts on a worker."""
        known = self._workers.get(uid)
        return len(known.held) if known else 0

    def running(self, agent: AgentKey) -> int:
        """Attempts on all workers of an agent."""
        return sum(len(self._workers[uid].held) for uid in self._of_agent.get(agent, ()))

    def holds(self, attempt_id: str) -> bool:
        return attempt_id in self._held

    def held_by(self, key: WorkflowKey) -> frozenset[str]:
        """The attempts of a workflow that hold a slot."""
        return frozenset(self._of_workflow.get(key, ()))

    def workers_of(self, key: WorkflowKey) -> dict[str, Worker]:
        """Where the attempts of a workflow are, as far as the worker is known."""
        found = {}
        for attempt_id in self._of_workflow.get(key, ()):
            slots = self._workers.get(self._held[attempt_id][1])
            if slots is not None:
                found[attempt_id] = slots.worker
        return found
