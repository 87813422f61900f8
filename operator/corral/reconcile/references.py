"""Which objects refer to which: who is woken when something else changes."""

from collections.abc import Iterator

from corral.kube.client import CRONS, WORKFLOWS, Json
from corral.plan.names import API_VERSION

_PARENTS = {"Workflow": WORKFLOWS.plural, "CronWorkflow": CRONS.plural}


def parents_of(workflow: Json, *, gone: bool) -> Iterator[tuple[str, str]]:
    """(plural, name) of the Workflow or the CronWorkflow that made this Workflow.

    A CronWorkflow only where the Workflow has ended or is gone: the rest does not concern it.
    """
    ended = gone or bool((workflow.get("status") or {}).get("finishedAt"))
    for owner in workflow["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and owner.get("apiVersion") == API_VERSION:
            plural = _PARENTS.get(owner["kind"])
            if plural == WORKFLOWS.plural or (plural and ended):
                yield plural, owner["name"]


def runs_template(workflow: Json, template: str) -> bool:
    """Whether a Workflow that has not ended names the WorkflowTemplate, itself or in a step."""
    if (workflow.get("status") or {}).get("finishedAt"):
        return False
    spec = workflow.get("spec") or {}
    if _names(spec.get("workflowTemplateRef"), template):
        return True
    return any(
        _names((step.get("workflow") or {}).get("templateRef"), template)
        for outer in [*(spec.get("steps") or []), *(spec.get("onExit") or [])]
        for step in [outer, *(outer.get("steps") or [])]
    )


def _names(reference: Json | None, name: str) -> bool:
    return (reference or {}).get("name") == name
