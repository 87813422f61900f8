"""``retryOf``: hands a new run what the run before it has done."""

from corral.api.errors import Reason
from corral.api.workflow import FINAL_WORKFLOW_PHASES, WorkflowSpec
from corral.artifacts.errors import ArtifactStoreError
from corral.kube.client import Json
from corral.plan.state import JournalError, Run, from_journal
from corral.plan.takeover import stored_in, take_over, takeover_problems
from corral.plan.validate import Problem
from corral.reconcile.effective import Specs
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.store import workflow_status
from corral.reconcile.world import World


async def take_over_from(
    world: World, specs: Specs, obj: Json, spec: WorkflowSpec, run: Run
) -> tuple[Reason, str] | Problem | None:
    """Puts into a run that has not begun what it need not do again, with copies of the outputs.

    Returns:
        Why that can't be told yet, or why it can't be done at all; None if it is done.

    Raises:
        RetryLaterError: the artifact store is not there.
    """
    if spec.retry_of is None or run.retried:
        return None
    name, namespace = spec.retry_of.name, obj["metadata"]["namespace"]
    found = world.workflows.get((namespace, name))
    if found is None:
        return Reason.WORKFLOW_NOT_FOUND, f"spec.retryOf: there is no Workflow {name!r}"
    status = workflow_status(found)
    if status.phase not in FINAL_WORKFLOW_PHASES:
        return Reason.WORKFLOW_NOT_FOUND, f"spec.retryOf: Workflow {name!r} has not ended"
    try:
        old = from_journal(status.journal or "")
    except JournalError as error:
        return Problem("spec.retryOf", f"Workflow {name!r}: {error}")
    before = specs.effective(found, old).spec
    if before is None:
        return Problem("spec.retryOf", f"Workflow {name!r} can't be read")
    if problems := takeover_problems(spec, before, name):
        return problems[0]
    take_over(run, spec, old, before, world.kube.now())
    names = [name for name, step in run.steps.items() if step.taken_over]
    taken = Run(run_id=old.run_id, steps={name: old.steps[name] for name in names})
    try:
        for stored in stored_in(taken):
            source = stored.run_id or old.run_id
            await world.library.hand_over(namespace, source, run.run_id, stored.sha256)
    except ArtifactStoreError as error:
        run.steps.clear()
        run.retried = False
        raise RetryLaterError(f"outputs can't be taken over: {error}") from error
    return None
