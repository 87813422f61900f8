"""What ``corral run`` takes from its files: one Workflow, and what it needs."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from corral.cli.check import Checked, check
from corral.cli.errors import CliError, Exit
from corral.cli.objects import Loaded

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # the API server's, without vowels


@dataclass(frozen=True)
class Selection:
    """The Workflow to run, and everything that was read."""

    workflow: Loaded
    checked: Checked

    @property
    def template(self) -> dict[str, Any] | None:
        """The WorkflowTemplate that it names, if it is in the files."""
        reference = self.workflow.document.data["spec"].get("workflowTemplateRef")
        for loaded in self.checked.of("WorkflowTemplate"):
            same_place = loaded.namespace == self.workflow.namespace
            if reference and same_place and loaded.name == reference["name"]:
                found: dict[str, Any] = loaded.document.data
                return found
        return None

    def body(self, *, name: str | None, generate_name: bool, namespace: str) -> dict[str, Any]:
        """The Workflow as it is sent to the API server."""
        data = dict(self.workflow.document.data)
        metadata = {**data["metadata"], "namespace": namespace}
        if name:
            metadata["name"] = name
            metadata.pop("generateName", None)
        if generate_name:
            base = metadata.pop("name", None)
            metadata.setdefault("generateName", f"{base}-")
        data["metadata"] = metadata
        data.pop("status", None)
        return data


def select(paths: Sequence[str], workflow: str | None, given: Collection[str] = ()) -> Selection:
    """Reads the files; all of their problems are told before anything is done.

    Args:
        given: names of arguments that the Workflow gets besides its own.

    Raises:
        CliError: a file can't be read, something is wrong in one, or it is not clear what to run.
    """
    checked = check(paths, given=given)
    if checked.problems:
        lines = "\n".join(str(problem) for problem in checked.problems)
        raise CliError(f"nothing was started:\n{lines}", Exit.REFUSED)
    found = checked.of("Workflow")
    if workflow is not None:
        found = [loaded for loaded in found if loaded.name == workflow]
    names = ", ".join(loaded.name for loaded in checked.of("Workflow"))
    if not found:
        wanted = f"no Workflow {workflow!r}" if workflow else "no Workflow"
        hint = f"; there are {names}" if names else ""
        raise CliError(f"there is {wanted} in the files{hint}", Exit.USAGE)
    if len(found) > 1:
        raise CliError(f"there are several Workflows: {names}; choose by --workflow", Exit.USAGE)
    return Selection(found[0], checked)


def generated(prefix: str) -> str:
    """A name as the API server makes one of a generateName."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(5))
