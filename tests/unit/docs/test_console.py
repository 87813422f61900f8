"""What the pages show of a terminal is what one sees, times aside."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.cli.main import main
from tests.unit.docs.pages import ROOT, Block, blocks

RUN = ("corral version", "corral validate ", "corral run --local ")
ELIDED = "…"
HALF_WAY = re.compile(r" *\S+ +\w+: Running +\d+ of \d+ done")
"""How far a fan-out is: which of these lines there are depends on how fast the machine is."""


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """A block's commands with their outputs."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    yield from found


def timeless(line: str) -> str:
    """A line without how long things took, which moves the columns after it, too."""
    return re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?s\b", "0s", line)).rstrip()


def pattern(lines: list[str]) -> str:
    return "".join(
        "(?:.*\n)*?" if line == ELIDED else re.escape(timeless(line)) + "\n"
        for line in lines
        if not HALF_WAY.match(line)
    )


def corral(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command prints; in this process, as starting one costs a second."""
    monkeypatch.setattr(sys, "argv", ["corral", *words])
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        main()
    return output.getvalue()


def local_blocks() -> list[object]:
    return [
        pytest.param(block, id=block.id)
        for block in blocks("console")
        if any(command.startswith(RUN) for command, _ in commands(block.text))
    ]


@pytest.mark.parametrize("block", local_blocks())
def test_the_output_is_as_shown(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    for other in blocks("yaml"):
        if other.page == block.page and (name := re.match(r"# (\w+\.yaml)\n", other.text)):
            (tmp_path / name[1]).write_text(other.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for variable in [name for name in os.environ if "KEY" in name]:
        monkeypatch.delenv(variable)
    for command, shown in commands(block.text):
        words = shlex.split(command)
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
        elif words[0] == "sed":
            subprocess.run(["bash", "-c", command], check=True, timeout=10)
        elif command.startswith(RUN):
            output = corral(words[1:], monkeypatch)
            lines = [line for line in output.splitlines() if not HALF_WAY.match(line)]
            seen = "".join(timeless(line) + "\n" for line in lines)
            assert re.fullmatch(pattern(shown), seen), f"{command}\n{seen}"
