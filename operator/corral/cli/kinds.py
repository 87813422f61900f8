"""Kinds by the names that people type."""

from corral.api.crd.kinds import KINDS, Kind
from corral.cli.errors import CliError, Exit


def kind_named(text: str) -> Kind:
    """``workflow``, ``workflows``, ``cwf``, ``Workflow``, ``workflows.corral.dev`` alike.

    Raises:
        CliError: there is no such kind.
    """
    word = text.lower().removesuffix(".corral.dev")
    for kind in KINDS:
        if word in (kind.singular, kind.plural, kind.short):
            return kind
    kinds = ", ".join(kind.plural for kind in KINDS)
    raise CliError(f"there is no kind {text!r}; there are {kinds}", Exit.USAGE)


WORKFLOW = kind_named("workflow")
CRD_ORDER = ("Model", "Agent", "AgentPool")
"""What is referred to comes first."""
