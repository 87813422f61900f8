"""``corral validate``."""

import json
from collections.abc import Sequence

from corral.cli.check import Checked, check
from corral.cli.cluster import Cluster
from corral.cli.errors import Exit
from corral.cli.findings import count
from corral.cli.server import add_server_findings


def validate(
    paths: Sequence[str],
    output: str,
    *,
    recursive: bool = False,
    server: tuple[Cluster, str] | None = None,
) -> Exit:
    """Prints what is wrong with the files; warnings alone are no failure.

    Args:
        server: a cluster and a namespace, if its API server is to be asked as well.
    """
    checked = check(paths, recursive=recursive)
    if server is not None:
        add_server_findings(checked, *server)
    if output == "json":
        print(json.dumps(report(checked), indent=2, ensure_ascii=False))
    else:
        for found in checked.findings:
            print(found)
        print(summary(checked))
    return Exit.FAILED if checked.problems else Exit.OK


def report(checked: Checked) -> dict[str, object]:
    """The result for programs."""
    return {
        "valid": not checked.problems,
        "files": checked.files,
        "objects": checked.documents - len(checked.foreign),
        "notChecked": len(checked.foreign),
        "findings": [found.to_json() for found in checked.findings],
    }


def summary(checked: Checked) -> str:
    """One line: what was looked at, and what came of it."""
    problems = len(checked.problems)
    warnings = len(checked.findings) - problems
    looked_at = count(checked.documents - len(checked.foreign), "object")
    text = f"{looked_at} in {count(checked.files, 'file')}: "
    text += count(problems, "problem") if problems else "valid"
    if warnings:
        text += f", {count(warnings, 'warning')}"
    if checked.foreign:
        text += f" ({len(checked.foreign)} of other kinds not checked)"
    return text
