"""The command line, as a person calls it in a terminal."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.harness import Cluster


def corral(
    cluster: Cluster, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The command; none of its ways to fail shows a traceback, or a mistake of the program's."""
    words = [str(Path(sys.executable).parent / "corral"), *arguments, "-n", cluster.namespace]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stdout + done.stderr
    assert "should not happen" not in done.stderr
    return done
