"""A retry: what a new run takes over from one that has ended, so that it is not paid for again.

A step is taken over if it Succeeded or was Skipped, is written as it was, and depends on nothing
but steps that are taken over. Of a fan-out that did not succeed, the items that did are. What it
cost stays with the run that paid it.
"""

from collections.abc import Iterator

from corral.api.workflow import Step as StepSpec
from corral.api.workflow import StepPhase, WorkflowSpec
from corral.plan.state import Consumption, Node, Run, Step, Stored
from corral.plan.validate import Problem


def takeover_problems(spec: WorkflowSpec, old: WorkflowSpec, name: str) -> list[Problem]:
    """Why nothing can be taken over from the run of ``old``, the Workflow ``name``."""
    if (spec.arguments or {}) == (old.arguments or {}):
        return []
    why = f"differ from those of Workflow {name!r}, which this is a retry of"
    return [Problem("spec.arguments", why)]


def take_over(run: Run, spec: WorkflowSpec, old: Run, old_spec: WorkflowSpec, now: float) -> None:
    """Puts into a run that has not begun what it need not do again."""
    before = {step.name: step for step in old_spec.steps or []}
    run.retried = True
    whole: set[str] = set()
    for step in spec.steps or []:
        done = old.steps.get(step.name)
        same = step.name in before and _same(step, before[step.name])
        if done is None or not same or not whole.issuperset(step.depends_on or []):
            continue
        if done.phase in (StepPhase.SUCCEEDED, StepPhase.SKIPPED):
            whole.add(step.name)
            run.steps[step.name] = _free(done)
        elif done.is_fan_out and any(node.phase is StepPhase.SUCCEEDED for node in done.nodes):
            taken = _free(done)
            taken.phase = StepPhase.QUEUED
            taken.queued, taken.finished = now, None
            taken.reason = taken.message = None
            taken.degraded = False
            taken.nodes = [
                node if node.phase is StepPhase.SUCCEEDED else Node(phase=StepPhase.QUEUED)
                for node in taken.nodes
            ]
            run.steps[step.name] = taken


def _same(new: StepSpec, old: StepSpec) -> bool:
    return new.to_json() == old.to_json()


def _free(step: Step) -> Step:
    taken = step.model_copy(deep=True)
    taken.taken_over = True
    for node in taken.nodes:
        if node.stored is not None:  # copied to this run, a child's output too
            node.stored.run_id = None
        node.used = Consumption()
        node.steps = None
        node.errors = []
        node.memo = None
    return taken


def stored_in(run: Run) -> Iterator[Stored]:
    """What a run's steps have in the artifact store."""
    for step in run.steps.values():
        kept = [step.items_stored, *(node.stored for node in step.nodes)]
        yield from (one for one in kept if one is not None)
