"""The slots of all workers: who holds one, and who waits for one.

Slots live in memory. They are reserved before the status write that starts an attempt, freed by
the one that ends it, and rebuilt from the statuses after a restart. A worker is offered only
while it is ready and not draining. One of an old revision gets what the new ones have no place for.

Slots are shared among the workflows that want the same agent, so that a wide fan-out cannot starve
its neighbours. With ``fair = capacity / contenders``, at least one:

    may take = max(fair - own held, free - what the others lack up to fair)

Among workflows of the same priority, that is: those of a higher one take what they want first, and
those of a lower one get what is left. Nothing that runs is taken away.

A workflow goes on with the slot that it has just freed, which saves a write for every step of a
chain; but not for longer than a turn while another has none at all.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from corral.plan.keys import AgentKey, WorkflowKey
from corral.plan.observed import Slot, Want
from corral.plan.state import Worker
from corral.reconcile.gates import Gates

ASK_BEYOND = 64
"""Attempts beyond an agent's free slots that stand in line at their Models' gates."""
TURN = 5.0
"""Seconds for which a workflow may keep a slot busy while another waits without any."""


@dataclass
class _WorkerSlots:
    worker: Worker
    agent: AgentKey
    revision: str
    capacity: int
    offered: bool
    updated: bool
    held: set[str] = field(default_factory=set)

    @property
    def free(self) -> int:
        return max(0, self.capacity - len(self.held)) if self.offered else 0


class Slots:
    """The table."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.gates = Gates()
        """What starts has to pass its Model's, too."""
        self._workers: dict[str, _WorkerSlots] = {}
        self._of_agent: dict[AgentKey, set[str]] = defaultdict(set)
        self._held: dict[str, tuple[WorkflowKey, Worker]] = {}
        self._of_workflow: dict[WorkflowKey, set[str]] = defaultdict(set)
        self._waiting: dict[AgentKey, dict[WorkflowKey, int]] = defaultdict(dict)
        self._priorities: dict[WorkflowKey, int] = {}
        """Those that are not 0."""
        self._turns: dict[tuple[AgentKey, WorkflowKey], float] = {}
        """Since when a workflow has held slots of an agent."""
        self._revisions: dict[AgentKey, tuple[str, float]] = {}
        """An agent's newest revision, and since when it is."""
        self._queues: dict[AgentKey, tuple[int, float | None]] = {}
        """How many attempts waited for an agent last, and since when more do than were told of."""

    def offer(
        self,
        worker: Worker,
        agent: AgentKey,
        revision: str,
        capacity: int,
        offered: bool,
        updated: bool = True,
        now: float = 0.0,
    ) -> None:
        """Tells of a worker, or of a change of it.

        Args:
            revision: of the Agent, as the worker knows it.
            offered: False while it takes no work.
            updated: False if its pool is replacing it.
            now: the time, in seconds since the epoch.
        """
        if updated:
            self._note_revision(agent, revision, now)
        known = self._workers.get(worker.uid)
        held = (
            known.held
            if known
            else {attempt for attempt, (_, on) in self._held.items() if on.uid == worker.uid}
        )
        if known is not None and known.agent != agent:
            self._of_agent[known.agent].discard(worker.uid)
        self._workers[worker.uid] = _WorkerSlots(
            worker, agent, revision, capacity, offered, updated, held
        )
        self._of_agent[agent].add(worker.uid)

    def close(self, uid: str) -> None:
        """Lets a worker take nothing more; what it runs goes on."""
        if (known := self._workers.get(uid)) is not None:
            known.offered = False

    def withdraw(self, uid: str) -> None:
        """Forgets a worker that is gone; what it ran is told separately."""
        if (known := self._workers.pop(uid, None)) is not None:
            self._of_agent[known.agent].discard(uid)

    def prioritise(self, key: WorkflowKey, priority: int) -> None:
        """Says how important a workflow is; 0 unless somebody does."""
        if priority:
            self._priorities[key] = priority
        else:
            self._priorities.pop(key, None)

    def priority(self, key: WorkflowKey) -> int:
        """How important a workflow is."""
        return self._priorities.get(key, 0)

    def claim(
        self, key: WorkflowKey, namespace: str, wants: Sequence[Want], now: float = 0.0
    ) -> dict[str, Slot]:
        """Reserves slots for the first of the wanted attempts, least busy workers first.

        Workers of an old revision of the Agent serve only runs that began before it changed:
        whoever edits an Agent and then starts a run means the Agent as it is now.

        What its Model does not let start now does not wait for a slot: more workers would be of no
        use to it.
        """
        for want in wants:
            self._note_revision((namespace, want.agent), want.revision, now)
        taken: dict[str, Slot] = {}
        full: set[str] = set()
        waiting: set[AgentKey] = set()
        while True:
            rest = [want for want in wants if want.agent not in full]
            asking = self._asking(namespace, rest)
            let_in = self.gates.admit(key, namespace, asking, self.priority(key))
            refused = {want.agent for want in asking if want.attempt_id not in let_in}
            asked = {want.attempt_id for want in asking}
            passed = [
                want
                for want in rest
                if want.attempt_id in let_in
                or (want.attempt_id not in asked and want.agent not in refused)
            ]
            waiting |= {(namespace, want.agent) for want in passed}
            granted = self._claim(key, namespace, passed)
            taken |= {one: replace(slot, model=let_in[one]) for one, slot in granted.items()}
            back = let_in.keys() - granted.keys()
            self.gates.give_back(back, asking=key)
            # They wait for a slot, not for their Model: it is asked again for the others alone.
            full |= {want.agent for want in asking if want.attempt_id in back}
            if not back or not refused - full:
                break
        if back:
            self.gates.leave(key)
        for agent, line in self._waiting.items():
            if agent not in waiting:
                line.pop(key, None)
        return taken

    def _asking(self, namespace: str, wants: Sequence[Want]) -> list[Want]:
        """The wants that may get a slot, and some: a thousand need not all be let in, and out."""
        room: dict[str, int] = {}
        asking = []
        for want in wants:
            if want.agent not in room:
                of_agent = self._of_agent.get((namespace, want.agent), ())
                room[want.agent] = ASK_BEYOND + sum(self._workers[uid].free for uid in of_agent)
            if want.attempt_id in self._held:
                asking.append(want)
            elif room[want.agent] > 0:
                room[want.agent] -= 1
                asking.append(want)
        return asking

    def _claim(self, key: WorkflowKey, namespace: str, wants: Sequence[Want]) -> dict[str, Slot]:
        granted: dict[str, Slot] = {}
        by_agent: dict[AgentKey, list[Want]] = defaultdict(list)
        for want in wants:
            by_agent[(namespace, want.agent)].append(want)
        for agent, wanted in by_agent.items():
            waiting = self._waiting[agent]
            line = [
                (not slots.updated, len(slots.held) / slots.capacity, slots.worker.pod, uid)
                for uid in self._of_agent[agent]
                if (slots := self._workers[uid]).free > 0 and self._serves(slots, wanted[0])
            ]
            usable = sum(self._workers[place[-1]].free for place in line)
            allowed = min(usable, self._allowance(agent, key))
            heapq.heapify(line)
            for want in wanted:
                if want.attempt_id in self._held:  # granted before, in this very pass
                    slots = self._workers[self._held[want.attempt_id][1].uid]
                    granted[want.attempt_id] = Slot(slots.worker, slots.revision)
            for want in [want for want in wanted if want.attempt_id not in granted][:allowed]:
                slots = self._workers[line[0][-1]]
                slots.held.add(want.attempt_id)
                self._held[want.attempt_id] = (key, slots.worker)
                self._of_workflow[key].add(want.attempt_id)
                granted[want.attempt_id] = Slot(slots.worker, slots.revision)
                if slots.free > 0:
                    load = len(slots.held) / slots.capacity
                    place = (not slots.updated, load, slots.worker.pod, slots.worker.uid)
                    heapq.heapreplace(line, place)
                else:
                    heapq.heappop(line)
            # Waiting again at the end of the line is what makes the sharing go round.
            waiting.pop(key, None)
            if unmet := sum(want.attempt_id not in granted for want in wanted):
                waiting[key] = unmet
            self._note_rise(agent)
            if any(want.attempt_id in granted for want in wanted):
                self._turns.setdefault((agent, key), self._clock())
            elif not self._shares(agent)[key]:
                self._turns.pop((agent, key), None)
        return granted

    def _note_revision(self, agent: AgentKey, revision: str, now: float) -> None:
        known = self._revisions.get(agent)
        if revision and (known is None or known[0] != revision):
            # Of a change in a former leader's time nobody knows when it was.
            self._revisions[agent] = revision, now if known else float("-inf")

    def _serves(self, slots: _WorkerSlots, want: Want) -> bool:
        """Whether the worker knows the Agent as the attempt may have it."""
        if not want.revision or slots.revision == want.revision:
            return True
        return want.began < self._revisions[slots.agent][1]

    def _shares(self, agent: AgentKey) -> Counter[WorkflowKey]:
        """How many slots of an agent each workflow holds."""
        return Counter(
            self._held[attempt][0]
            for uid in self._of_agent.get(agent, ())
            for attempt in self._workers[uid].held
        )

    def _allowance(self, agent: AgentKey, key: WorkflowKey) -> int:
        """How many slots a workflow may take now."""
        workers = [self._workers[uid] for uid in self._of_agent[agent]]
        free = sum(worker.free for worker in workers)
        if not free:
            return 0
        line, own_priority = self._waiting[agent], self._priorities.get(key, 0)
        others: Mapping[WorkflowKey, int] = line
        if self._priorities:
            free -= sum(c for one, c in line.items() if self._priorities.get(one, 0) > own_priority)
            others = {one: c for one, c in line.items() if self._is_of(one, own_priority)}
        rivals = len(others) - (key in others)
        if free <= 0 or not rivals:
            return max(0, free)
        held = self._shares(agent)
        content = sum(
            one not in others and one != key and self._is_of(one, own_priority) for one in held
        )
        capacity = sum(worker.capacity for worker in workers if worker.offered)
        fair = max(1, capacity // (rivals + content + 1))
        if fair == 1:  # thousands may wait, and each wants one at least
            lacking = rivals - sum(one in others and one != key for one in held)
        else:
            lacking = sum(
                min(count, max(0, fair - held[one])) for one, count in others.items() if one != key
            )
        own = fair - held[key]
        since = self._turns.get((agent, key))
        if since is not None and self._clock() - since > TURN:
            del self._turns[(agent, key)]
            if any(not held[one] for one in others if one != key):
                own = 0
        return min(free, max(own, free - lacking, 0))

    def _is_of(self, key: WorkflowKey, priority: int) -> bool:
        return self._priorities.get(key, 0) == priority

    def keep_only(self, key: WorkflowKey, running: Mapping[str, Worker]) -> set[AgentKey]:
        """Frees what the workflow holds and does not run; takes what it runs and does not hold.

        Returns the agents that have a slot more now.
        """
        self.gates.keep_only(key, running)
        return self._keep_only(key, running)

    def _keep_only(self, key: WorkflowKey, running: Mapping[str, Worker]) -> set[AgentKey]:
        freed: set[AgentKey] = set()
        for attempt_id in list(self._of_workflow.get(key, ())):
            if attempt_id in running:
                continue
            _, worker = self._held.pop(attempt_id)
            self._of_workflow[key].discard(attempt_id)
            if (slots := self._workers.get(worker.uid)) is not None:
                slots.held.discard(attempt_id)
                freed.add(slots.agent)
        for attempt_id, worker in running.items():
            if attempt_id not in self._held:
                self._held[attempt_id] = (key, worker)
                self._of_workflow[key].add(attempt_id)
                if (slots := self._workers.get(worker.uid)) is not None:
                    slots.held.add(attempt_id)
        if not self._of_workflow.get(key):
            self._of_workflow.pop(key, None)
        return freed

    def forget(self, key: WorkflowKey) -> set[AgentKey]:
        """Frees everything of a workflow, its place in the lines too.

        What still runs of it counts for its Model until it has ended.
        """
        self.gates.forget(key)
        waited = {agent for agent, waiting in self._waiting.items() if waiting.pop(key, None)}
        self._priorities.pop(key, None)
        for turn in [turn for turn in self._turns if turn[1] == key]:
            del self._turns[turn]
        return self._keep_only(key, {}) | waited

    def waiting_for(self, agents: Iterable[AgentKey]) -> list[WorkflowKey]:
        """The workflows to be woken for the agents' free slots: those that wait longest.

        Those of a higher priority come first.

        No more than there are slots: of a thousand that wait, most would be woken in vain. What
        these leave is told of by ``left_over``.
        """
        found: dict[WorkflowKey, None] = {}
        for agent in agents:
            free = sum(self._workers[uid].free for uid in self._of_agent.get(agent, ()))
            line: Iterable[WorkflowKey] = self._waiting.get(agent, ())
            if self._priorities:
                line = sorted(line, key=lambda one: -self._priorities.get(one, 0))
            found |= dict.fromkeys(itertools.islice(line, free))
        return list(found)

    def queued(self, agent: AgentKey) -> int:
        """Attempts that would start if the agent had more slots."""
        return sum(self._waiting.get(agent, {}).values())

    def _note_rise(self, agent: AgentKey) -> None:
        queued = self.queued(agent)
        before, since = self._queues.get(agent, (0, None))
        if not queued:
            self._queues.pop(agent, None)
        else:
            risen = since is None and queued > before
            self._queues[agent] = (queued, self._clock() if risen else since)

    def risen_at(self, agent: AgentKey) -> float | None:
        """When more attempts began to wait for an agent; None once that was asked."""
        queued, since = self._queues.get(agent, (0, None))
        if since is not None:
            self._queues[agent] = (queued, None)
        return since

    def capacity(self, agent: AgentKey) -> int:
        """Attempts that the agent's workers may run at once."""
        workers = [self._workers[uid] for uid in self._of_agent.get(agent, ())]
        return sum(worker.capacity for worker in workers if worker.offered)

    def held_on(self, uid: str) -> int:
        """Attempts on a worker, which in a new term may not have been told of yet."""
        if (known := self._workers.get(uid)) is not None:
            return len(known.held)
        return sum(worker.uid == uid for _, worker in self._held.values())

    def running(self, agent: AgentKey) -> int:
        """Attempts on all workers of an agent."""
        return sum(len(self._workers[uid].held) for uid in self._of_agent.get(agent, ()))

    def holds(self, attempt_id: str) -> bool:
        return attempt_id in self._held

    def held_by(self, key: WorkflowKey) -> frozenset[str]:
        """The attempts of a workflow that hold a slot."""
        return frozenset(self._of_workflow.get(key, ()))

    def workers_of(self, key: WorkflowKey) -> dict[str, Worker]:
        """Where the attempts of a workflow are."""
        return {attempt: self._held[attempt][1] for attempt in self._of_workflow.get(key, ())}

    def agent_on(self, uid: str) -> AgentKey | None:
        """The agent that a worker runs; None if the worker is gone."""
        known = self._workers.get(uid)
        return known.agent if known else None

    def left_over(self, agents: Iterable[AgentKey]) -> set[AgentKey]:
        """Agents with a free slot although somebody waits: who took less than its share left it."""
        return {
            agent
            for agent in agents
            if self._waiting.get(agent)
            and any(
                slots.free and slots.revision == self._revisions.get(agent, (slots.revision,))[0]
                for slots in map(self._workers.__getitem__, self._of_agent.get(agent, ()))
            )
        }
