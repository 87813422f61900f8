"""``corral fmt``: puts the steps of manifests, and their keys, in order."""

import difflib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from corral.cli.errors import CliError, Exit
from corral.cli.findings import count
from corral.cli.manifests import STDIN, ManifestSyntaxError, read
from corral.cli.order import ordered


def fmt(paths: Sequence[str], *, check: bool, diff: bool, recursive: bool, output: str) -> Exit:
    """Writes the files anew that are not in order, or only tells which (``check``, ``diff``)."""
    from_stdin = list(paths) == [STDIN]
    if STDIN in paths and not from_stdin:
        raise CliError("- (stdin) stands alone or not at all", Exit.USAGE)
    changed: list[str] = []
    wrong: list[dict[str, object]] = []
    files = 0
    for file, text in read(paths, recursive=recursive):
        files += 1
        try:
            better = ordered(file, text)
        except ManifestSyntaxError as error:
            wrong.append({"file": file, "line": error.line, "message": str(error)})
            continue
        if better != text:
            changed.append(file)
        if diff and output == "text":
            _print_diff(file, text, better)
        elif from_stdin and not check and not diff:
            sys.stdout.write(better)
        elif better != text and not check and not diff:
            _write(Path(file), better)
    _report(changed, wrong, files, check or diff, output, quiet=diff or from_stdin)
    return Exit.FAILED if wrong or (changed and (check or diff)) else Exit.OK


def _print_diff(file: str, old: str, new: str) -> None:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), file, f"{file} (in order)"
    )
    for line in lines:
        sys.stdout.write(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all, with the file's own permissions; through a link, what it leads to."""
    target = path.resolve()
    with tempfile.NamedTemporaryFile(
        "w",
        encoding="utf-8",
        newline="",
        dir=target.parent,
        prefix=f".{target.name}.",
        delete=False,
    ) as file:
        file.write(text)
    temporary = Path(file.name)
    try:
        temporary.chmod(target.stat().st_mode & 0o7777)
        os.replace(temporary, target)  # noqa: PTH105 - one call that overwrites everywhere
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _report(
    changed: list[str],
    wrong: list[dict[str, object]],
    files: int,
    only_looked: bool,
    output: str,
    *,
    quiet: bool,
) -> None:
    if output == "json":
        if not quiet or only_looked:
            print(json.dumps({"files": files, "changed": changed, "errors": wrong}, indent=2))
        return
    for problem in wrong:
        print(f"{problem['file']}:{problem['line']}: {problem['message']}", file=sys.stderr)
    if quiet:
        return
    for file in changed:
        print(f"{'would change' if only_looked else 'changed'} {file}")
    if not changed and not wrong:
        print(f"{count(files, 'file')} in order")
