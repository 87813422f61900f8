"""One exploration: a scenario under a plan, from its start until nothing moves any more."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from tests.explore import oracle
from tests.explore.api_server import ApiServer
from tests.explore.books import Books
from tests.explore.clock import DeadlockError, VirtualLoop, virtual_clocks
from tests.explore.gate import Gate
from tests.explore.operators import Operator
from tests.explore.plans import Call, Plan
from tests.explore.scenarios import KINDS, Scenario
from tests.explore.workers import Journal, Kubelet

QUIET = 60.0
"""Seconds without a write, after which nothing will move any more."""
PATIENCE = 900.0
"""Seconds after which a run that has not ended, never will."""
RESTART = 1.0
"""Seconds until a dead operator's container is started again."""


@dataclass
class Outcome:
    """What came of one exploration."""

    scenario: str
    plan: Plan
    end: oracle.End = field(default_factory=oracle.End)
    problems: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    """All that operators called, by number."""
    operators: int = 1
    """Processes that there were."""
    seconds: float = 0.0
    """Virtual ones."""


def explore(scenario: Scenario, plan: Plan) -> Outcome:
    """Runs a scenario under a plan, in virtual time."""
    outcome = Outcome(scenario.name, plan)
    random.seed(1)  # the jitter of retries: the same calls have the same numbers
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    with virtual_clocks(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()

        def failed(_: Any, context: Mapping[str, Any]) -> None:
            outcome.problems.append(f"error: {context.get('exception') or context['message']!r}")

        loop.set_exception_handler(failed)
        try:
            runner.run(_Exploration(scenario, plan, outcome).run())
        except (DeadlockError, AssertionError) as error:
            outcome.problems.append(f"stuck: {error}")
    return outcome


class _Exploration:
    def __init__(self, scenario: Scenario, plan: Plan, outcome: Outcome) -> None:
        self._scenario = scenario
        self._plan = plan
        self._outcome = outcome
        self._server = ApiServer()
        self._journal = Journal(scenario.failures)
        self._kubelet = Kubelet(self._server, self._journal)
        self._gate = Gate(plan, self._kubelet.kill)
        self._books = Books()
        self._operator = self._new("operator-1")

    def _new(self, identity: str) -> Operator:
        return Operator(
            identity,
            self._server,
            self._kubelet,
            self._gate,
            "memory://artifacts",
            self._plan.watching,
            self._books,
        )

    async def run(self) -> None:
        for obj in self._scenario.objects:
            self._server.apply(KINDS[obj["kind"]], obj)
        loop = asyncio.get_running_loop()
        began = loop.time()
        alive = asyncio.create_task(self._keep_alive())
        person = asyncio.create_task(self._act())
        try:
            await self._until_quiet(person)
            self._outcome.end = oracle.end_of(
                self._server,
                self._kubelet,
                self._journal,
                self._operator.controller,
                self._books,
            )
        finally:
            alive.cancel()
            person.cancel()
            self._operator.kill()
            await self._operator.buried()
            for pod in self._kubelet.pods.values():
                pod.kill()
            await asyncio.sleep(1)
        self._outcome.calls = self._gate.calls
        self._outcome.seconds = loop.time() - began

    async def _act(self) -> None:
        await self._scenario.person(self._server)

    async def _keep_alive(self) -> None:
        """Starts another operator for one that is no more, as the kubelet or a Deployment does."""
        number = 1
        while True:
            self._operator.start()
            await self._operator.ended.wait()
            await self._operator.buried()
            await asyncio.sleep(RESTART)
            # Half of them in another pod, which has to wait for the Lease.
            moved = sum(at for at, _ in self._plan.faults) % 2
            number += 1
            self._outcome.operators = number
            self._operator = self._new(f"operator-{number if moved else 1}")
            # It is quiet once this one has had its time.
            self._gate.written_at = asyncio.get_running_loop().time()

    async def _until_quiet(self, person: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        limit = loop.time() + PATIENCE
        while loop.time() < limit:
            await asyncio.sleep(1)
            since = loop.time() - self._gate.written_at
            if person.done() and oracle.finished(self._server) and since > QUIET:
                person.result()
                return
        if not person.done():
            self._outcome.problems.append("what a person waits for never came")
        elif not oracle.finished(self._server):
            self._outcome.problems.append("the runs never ended")
        else:
            last = self._gate.last_write
            self._outcome.problems.append(f"the operator goes on writing: {last}")
