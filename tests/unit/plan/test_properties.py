"""Random graphs, random luck: what must hold in every pass of every run."""

import os
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.api.errors import ErrorClass
from corral.api.workflow import (
    FINAL_STEP_PHASES,
    FINAL_WORKFLOW_PHASES,
    StepPhase,
    TriggerRule,
    WorkflowSpec,
    WorkflowStatus,
)
from corral.api.workflow import Step as StepSpec
from corral.plan.observed import AgentView, Pass, Payload, Result, Slot, Want
from corral.plan.state import Run, Worker, from_journal
from corral.plan.status import status_of
from corral.plan.steps import RUNS_AFTER_FAILURE
from corral.plan.triggers import Trigger, evaluate
from corral.plan.validate import workflow_problems
from corral.plan.attempts import running_attempts
from corral.plan.workflow import plan
from tests.unit.plan.driver import NAME, NAMESPACE, RUN_ID, T0, split_id, used

CHECK = settings(
    max_examples=int(os.environ.get("CORRAL_EXAMPLES", "400")),
    deadline=None,
    derandomize="CORRAL_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
AGENTS = ["x", "y"]


@st.composite
def steps_of(draw: st.DrawFn, prefix: str, most: int) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, most))):
        names = [step["name"] for step in steps]
        step: dict[str, Any] = {"name": f"{prefix}{number}"}
        if names:
            step["dependsOn"] = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        if step.get("dependsOn"):
            step["triggerRule"] = draw(st.sampled_from(list(TriggerRule))).value
        kind = draw(st.sampled_from(["agent", "agent", "agent", "wait", "good", "bad"]))
        if kind == "agent":
            step["agentRef"] = {"name": draw(st.sampled_from(AGENTS))}
            step["input"] = draw(st.sampled_from(["hi", "$(attempt)", "$([1, 2][index])"]))
            step["timeout"] = "20s"
            if draw(st.booleans()):
                step["retryStrategy"] = {"limit": draw(st.integers(0, 2))}
        elif kind == "wait":
            step["wait"] = {"duration": f"{draw(st.integers(1, 30))}s"}
        else:
            step["transform"] = "$(1)" if kind == "good" else "$([1][index + 1])"
        if draw(st.booleans()):
            step["forEach"] = {"items": list(range(draw(st.integers(0, 4))))}
            if draw(st.booleans()):
                step["forEach"]["maxConcurrent"] = draw(st.integers(1, 3))
            if draw(st.booleans()):
                tolerate = draw(st.sampled_from([0, 1, "25%", "50%", "100%"]))
                step["forEach"]["tolerateFailures"] = tolerate
        if draw(st.booleans()):
            step["allowFailure"] = True
        if draw(st.integers(0, 4)) == 0:
            step["deadline"] = f"{draw(st.integers(1, 60))}s"
        if draw(st.integers(0, 4)) == 0:
            step["when"] = draw(st.sampled_from(["true", "false", "1", "size(steps) > 0"]))
        if draw(st.integers(0, 4)) == 0:
            step["extract"] = {"n": draw(st.sampled_from(["size(steps)", "output[0]"]))}
        steps.append(step)
    return steps


@st.composite
def specs(draw: st.DrawFn) -> WorkflowSpec:
    data: dict[str, Any] = {"steps": draw(steps_of("s", 8)), "failFast": draw(st.booleans())}
    if draw(st.booleans()):
        data["onExit"] = draw(steps_of("e", 2))
    if draw(st.booleans()):
        data["parallelism"] = draw(st.integers(1, 4))
    for field in ("deadline", "activeDeadline"):
        if draw(st.integers(0, 4)) == 0:
            data[field] = f"{draw(st.integers(1, 200))}s"
    spec = WorkflowSpec.model_validate(data, extra="forbid")
    assert workflow_problems(spec) == []
    return spec


class World:
    """A run, its fleet and everything that was ever sent to it."""

    def __init__(self, spec: WorkflowSpec, luck: Random) -> None:
        self.spec = spec
        self.luck = luck
        self.now = T0
        self.status = WorkflowStatus()
        self.wake: list[float] = []
        self.sent: dict[str, Worker] = {}
        self.told: set[str] = set()
        self.specs = {s.name: s for s in [*(spec.steps or []), *(spec.on_exit or [])]}

    def run_state(self, status: WorkflowStatus) -> Run:
        return from_journal(status.journal) if status.journal else Run(run_id=RUN_ID)

    def fresh(self, status: WorkflowStatus, results: Sequence[Result]) -> Pass:
        agents = {name: AgentView(name, "r1", 60.0) for name in AGENTS}
        run = self.run_state(status)
        return Pass(NAME, NAMESPACE, self.spec, run, agents, self.now, tuple(results))

    def look(self, results: Sequence[Result] = (), stingy: bool = True) -> None:
        """One pass, made twice, and then once more without news."""
        before = self.status
        grants: list[dict[str, Slot]] = []

        def grant(wants: Sequence[Want]) -> dict[str, Slot]:
            granted = {
                want.attempt_id: Slot(Worker(pod="p", uid=f"u-{self.luck.random()}", url="h"), "r1")
                for want in wants
                if not stingy or self.luck.random() < 0.6
            }
            grants.append(granted)
            return granted

        p = self.fresh(before, results)
        payloads = plan(p, grant)
        after = status_of(p, before, 1)

        replay = iter(grants)
        again = self.fresh(before, results)
        assert plan(again, lambda wants: next(replay)) == payloads
        assert status_of(again, before, 1) == after

        quiet = self.fresh(after, ())
        assert plan(quiet, lambda wants: {}) == {}
        assert status_of(quiet, after, 1) == after

        self.check(before, after, p, payloads)
        self.status = after
        self.wake = [moment for moment in p.wake if moment > self.now]
        self.sent |= {identity: sent.worker for identity, sent in payloads.items()}

    def check(
        self,
        before: WorkflowStatus,
        after: WorkflowStatus,
        p: Pass,
        payloads: dict[str, Payload],
    ) -> None:
        run = p.run
        rows = {row.name: row for row in after.steps or []}
        assert list(rows) == list(self.specs)
        steps = run.steps | run.exit_steps

        # What has ended stays as it is, and nothing goes back to Pending.
        for old in before.steps or []:
            if old.phase in FINAL_STEP_PHASES:
                assert rows[old.name] == old
            elif old.phase is not StepPhase.PENDING:
                assert rows[old.name].phase is not StepPhase.PENDING
        if before.phase in FINAL_WORKFLOW_PHASES:
            assert (after.phase, after.finished_at) == (before.phase, before.finished_at)
            assert not payloads
        if after.phase in FINAL_WORKFLOW_PHASES:
            assert all(row.phase in FINAL_STEP_PHASES for row in rows.values())
            failed = [
                name
                for name in run.steps
                if rows[name].phase is StepPhase.FAILED and not self.specs[name].allow_failure
            ]
            if after.phase == "Succeeded":
                assert not failed
            assert after.message or after.phase == "Succeeded"

        # An attempt starts once, with its rule holding, and within every bound.
        assert not payloads.keys() & self.sent.keys()
        assert not (
            payloads
            and (
                (self.spec.suspend and not self.spec.shutdown) or self.spec.shutdown == "Terminate"
            )
        )
        for name, step in steps.items():
            if step.queued is not None:
                assert self.trigger(self.specs[name], rows) is Trigger.HOLDS
        running = running_attempts(p)
        assert payloads.keys() <= running.keys()
        assert running.keys() <= self.sent.keys() | payloads.keys()
        if self.spec.parallelism is not None:
            assert len(running) <= self.spec.parallelism
        busy = Counter(split_id(identity)[0] for identity in running)
        for name, spec in self.specs.items():
            if spec.for_each and spec.for_each.max_concurrent is not None:
                waits = sum(
                    node.phase is StepPhase.WAITING and spec.wait is not None
                    for node in steps[name].nodes
                )
                assert busy[name] + waits <= spec.for_each.max_concurrent
        if self.spec.fail_fast and any(
            row.phase is StepPhase.FAILED and not self.specs[row.name].allow_failure
            for row in (before.steps or [])
            if row.name in run.steps
        ):
            for identity in payloads:
                name = split_id(identity)[0]
                rule = self.specs[name].trigger_rule
                assert name in run.exit_steps or rule in RUNS_AFTER_FAILURE
        if any(split_id(identity)[0] in run.exit_steps for identity in running):
            assert all(step.final for step in run.steps.values())

        # Every attempt is running, given up, or told; every usage is booked once.
        told = self.told | {result.attempt_id for result in p.results if self.is_genuine(result)}
        assert self.sent.keys() | payloads.keys() == (running.keys() | run.unsettled.keys() | told)
        requests = after.usage.requests if after.usage else 0
        assert requests == len(told)
        costs = [Decimal(row.cost_usd) for row in rows.values() if row.cost_usd]
        total = sum(costs, run.late.cost or Decimal(0))
        assert total == Decimal(after.usage.cost_usd or 0 if after.usage else 0)

        done = sum(row.phase in FINAL_STEP_PHASES for row in rows.values())
        assert after.progress == f"{done}/{len(rows)}"
        for name, step in steps.items():
            counts = rows[name].items
            if counts is not None and step.final:
                ended = counts.succeeded + counts.failed + counts.omitted + counts.cancelled
                assert ended == counts.total
                assert counts.running == counts.queued == counts.waiting == 0

    def trigger(self, spec: StepSpec, rows: dict[str, Any]) -> Trigger:
        names = spec.depends_on or []
        return evaluate(
            spec.trigger_rule,
            [(rows[name].phase, self.specs[name].allow_failure) for name in names],
        )

    def is_genuine(self, result: Result) -> bool:
        worker = self.sent.get(result.attempt_id)
        return worker is not None and worker.uid == result.worker_uid

    def result(self, identity: str, uid: str | None = None, error: Any = None) -> Result:
        worker = uid or self.sent[identity].uid
        return Result(identity, worker, used("0.01"), [1], error, "luck" if error else "")

    def tell(self, results: Sequence[Result], stingy: bool = True) -> None:
        self.look(results, stingy)
        self.told |= {result.attempt_id for result in results if self.is_genuine(result)}

    def open_attempts(self) -> list[str]:
        return [identity for identity in self.sent if identity not in self.told]


ACTIONS = ["look", "tell", "tell", "tell", "tell", "strange", "wake", "wake", "suspend", "resume"]


@CHECK
@given(spec=specs(), luck=st.randoms(use_true_random=False), rough=st.booleans())
def test_every_run_keeps_its_promises_and_ends(
    spec: WorkflowSpec, luck: Random, rough: bool
) -> None:
    world = World(spec, luck)
    world.look()
    for _ in range(luck.randint(0, 25)):
        match luck.choice(ACTIONS):
            case "look":
                world.look()
            case "tell" if world.open_attempts():
                some = luck.sample(
                    world.open_attempts(), k=luck.randint(1, len(world.open_attempts()))
                )
                errors = [None, None, *ErrorClass] if rough else [None]
                told = [world.result(identity, error=luck.choice(errors)) for identity in some]
                world.tell(told + luck.sample(told, k=luck.randint(0, len(told))))
            case "strange" if world.sent:
                identity = luck.choice(list(world.sent))
                world.tell([world.result(identity, uid="u-other")])
                if identity in world.told:
                    world.tell([world.result(identity)])
            case "wake" if world.wake:
                world.now = luck.choice(sorted(world.wake))
                world.look()
            case "suspend" if rough:
                world.spec = world.spec.model_copy(update={"suspend": True})
            case "resume":
                world.spec = world.spec.model_copy(update={"suspend": None})
            case _:
                world.now += luck.random() * 5
                if rough and luck.random() < 0.1:
                    how = luck.choice(["Stop", "Terminate"])
                    world.spec = world.spec.model_copy(update={"shutdown": how})
    world.spec = world.spec.model_copy(update={"suspend": None})
    for _ in range(400):
        if world.status.phase in FINAL_WORKFLOW_PHASES and not world.open_attempts():
            break
        if world.open_attempts():
            world.tell([world.result(identity) for identity in world.open_attempts()], False)
        elif world.wake:
            world.now = min(world.wake)
            world.look(stingy=False)
        else:  # only the passes above, which granted no slots, may leave a run at rest
            at_rest = world.status
            world.look(stingy=False)
            assert world.status != at_rest, "the run waits for nothing"
    assert world.status.phase in FINAL_WORKFLOW_PHASES
    assert world.run_state(world.status).unsettled == {}
