"""Kinds by the names that people type."""

from corral.api.crd.kinds import KINDS, Kind
from corral.cli.errors import CliError, Exit
from corral.cli.words import similar

_ALIASES = {
    "template": "workflowtemplate",
    "templates": "workflowtemplate",
    "cron": "cronworkflow",
    "crons": "cronworkflow",
    "approval": "approvalrequest",
    "approvals": "approvalrequest",
    "pool": "agentpool",
    "pools": "agentpool",
    "wf": "workflow",
}


def kind_named(text: str) -> Kind:
    """``workflow``, ``workflows``, ``cwf``, ``Workflow``, ``workflows.corral.dev`` alike.

    Raises:
        CliError: there is no such kind.
    """
    word = text.lower().removesuffix(".corral.dev")
    word = _ALIASES.get(word, word)
    for kind in KINDS:
        if word in (kind.singular, kind.plural, kind.short):
            return kind
    plurals = [kind.plural for kind in KINDS]
    hint = similar(word, plurals) or f"; there are {', '.join(plurals)}"
    raise CliError(f"there is no kind {text!r}{hint}", Exit.USAGE)


WORKFLOW = kind_named("workflow")
CRD_ORDER = tuple(kind.name for kind in KINDS if kind.name not in ("Workflow", "ApprovalRequest"))
"""What is applied, in this order: what is referred to comes first."""
