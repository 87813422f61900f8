"""Following a run to its end, whoever started it, and telling the shell how it ended."""

import json
import time
from dataclasses import dataclass
from typing import Any

from corral.cli.cluster import Cluster
from corral.cli.errors import Exit
from corral.cli.follow import Follower, console, follower, show_end, silent
from corral.cli.kinds import WORKFLOW
from corral.cli.output import tidy, write
from corral.cli.view import RunView

_ABOUT = {"apiVersion": "corral.dev/v1alpha1", "kind": "Workflow"}


@dataclass
class Following:
    """One run that is followed.

    Args:
        started: the Workflow, as the API server has it.
        form: ``tree`` for people, ``json`` or ``yaml`` for the object at the end, ``name`` for its
            name at the end, ``lines`` for a line of JSON at every change.
        timeout: seconds; None is for ever.
        quiet: whether people see the end only.
    """

    cluster: Cluster
    started: dict[str, Any]
    form: str = "tree"
    timeout: float | None = None
    quiet: bool = False

    def run(self) -> Exit:
        """Returns when the run has ended or can't go on, when the time is over, or at Ctrl-C."""
        metadata = self.started["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        until = None if self.timeout is None else time.monotonic() + self.timeout
        last, code = self.started, None
        printed = ""
        try:
            with self._shown() as shown:
                for data in self.cluster.follow(WORKFLOW, namespace, name, until):
                    last = data
                    view = RunView.of(data)
                    shown.update(view)
                    if self.form == "lines":
                        line = json.dumps(tidy({**_ABOUT, **data}), ensure_ascii=False)
                        if line != printed:
                            print(line, flush=True)
                        printed = line
                    code = view.exit_code
                    if code is not None:
                        break
        except TimeoutError:
            code = Exit.TIMEOUT
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        self._end(last, code)
        return Exit.FAILED if code is None else code

    def _shown(self) -> Follower:
        people = self.form == "tree" and not self.quiet
        return follower(console()) if people else silent()

    def _end(self, last: dict[str, Any], code: Exit | None) -> None:
        metadata = last["metadata"]
        if self.form == "tree":
            show_end(console(), RunView.of(last))
            for line in _afterword(code, metadata["namespace"], metadata["name"]):
                print(line)
        elif self.form == "name":
            print(f"workflow.corral.dev/{metadata['name']}")
        elif self.form != "lines":
            write(tidy({**_ABOUT, **last}), self.form)


def _afterword(code: Exit | None, namespace: str, name: str) -> list[str]:
    if code not in (Exit.TIMEOUT, Exit.INTERRUPTED):
        return []
    why = "--timeout is over" if code is Exit.TIMEOUT else "interrupted"
    return [
        "",
        f"{why}; the run goes on in the cluster:",
        f"  see it:   corral get workflow {name} -n {namespace} -o tree",
        f"  stop it:  corral stop {name} -n {namespace}",
    ]
