"""A local run that asks whoever sits at the terminal; a real process at a real one."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[3]
ASKS = r"""
apiVersion: corral.dev/v1alpha1
kind: Workflow
metadata: {name: asks}
spec:
  steps:
  - name: review
    approval:
      prompt: "Publish\x1b[2J it?"
      approvers: [{kind: User, name: somebody}]
      allowEdit: [title]
      MORE
  output: $(steps.review.output)
"""


class Terminal:
    """``corral run --local`` whose stdin and stderr are a terminal, and its stdout a file."""

    def __init__(self, folder: Path, *options: str, more: str = "", form: str = "json") -> None:
        file = folder / "asks.yaml"
        file.write_text(ASKS.replace("MORE", more))
        self._terminal, inside = pty.openpty()
        self._output = (folder / "output").open("w+")
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "corral.cli.main", "run", "--local", "-o", form, *options, file],
            stdin=inside,
            stdout=self._output,
            stderr=inside,
            env={**os.environ, "PYTHONPATH": str(ROOT / "operator"), "LOGNAME": "carla"},
        )
        os.close(inside)

    def read(self, until: str) -> None:
        """Waits until that was written."""
        deadline = time.monotonic() + 30
        while until not in self.seen and time.monotonic() < deadline:
            try:
                self.seen += os.read(self._terminal, 4096).decode()
            except OSError:  # the process has ended
                break
        assert until in self.seen, self.seen

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and what was written to stdout."""
        code = self.process.wait(timeout=30)
        self._output.seek(0)
        return code, self._output.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._terminal)
        self._output.close()


def test_a_person_decides_sets_values_and_says_why(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.read("Approve? [y/n] ")
        assert "Step       review" in terminal.seen
        assert "Publish\\x1b[2J it?" in terminal.seen, "no text of others' moves the cursor"
        assert "You are    carla" in terminal.seen
        terminal.type("maybe\n")
        terminal.type("y\n")
        terminal.read("title (may be empty): ")
        terminal.type("Q3\n")
        terminal.read("Comment (may be empty): ")
        terminal.type("Numbers checked.\n")
        code, output = terminal.end()
    assert code == 0
    decided = {
        "decision": "Approve",
        "by": "carla",
        "comment": "Numbers checked.",
        "values": {"title": "Q3"},
    }
    assert json.loads(output)["status"]["output"] == decided


def test_a_person_may_say_no(tmp_path: Path) -> None:
    with Terminal(tmp_path, form="tree") as terminal:
        terminal.read("Approve? [y/n] ")
        terminal.type("n\n")
        terminal.read("Comment (may be empty): ")
        terminal.type("Wrong.\n")
        code, output = terminal.end()
    assert code == 1
    assert "rejected by carla: Wrong." in output


def test_ctrl_c_ends_a_run_that_waits_for_an_answer(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.read("Approve? [y/n] ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read("it is not asked any more")
        code, output = terminal.end()
    assert code == 3
    assert json.loads(output)["status"]["phase"] == "Stopped"


def test_a_question_ends_when_its_time_is_over(tmp_path: Path) -> None:
    with Terminal(tmp_path, more="timeout: 500ms\n      onTimeout: Approve") as terminal:
        terminal.read("it is not asked any more")
        assert "Expires" in terminal.seen
        assert terminal.end()[0] == 0


def test_the_end_of_the_input_is_no_answer(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.read("Approve? [y/n] ")
        terminal.type("\x04")
        terminal.read("error: step review of asks waits for a person's approval")
        assert terminal.end()[0] == 4


def test_the_end_of_the_runs_own_time_waits_for_no_answer(tmp_path: Path) -> None:
    with Terminal(tmp_path, "--timeout", "500ms") as terminal:
        terminal.read("it is not asked any more")
        assert terminal.end()[0] == 5
