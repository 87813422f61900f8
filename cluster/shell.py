"""Starting programs, and telling what takes long."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from cluster.paths import ClusterError

console = Console(stderr=True, highlight=False, soft_wrap=True)
_started = time.monotonic()


def say(text: str) -> None:
    """A line with the seconds since the start, so that a CI log shows where time goes."""
    console.print(f"[{time.monotonic() - _started:6.1f}s] {text}", markup=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that something is under way, and when done how long it took."""
    start = time.monotonic()
    if console.is_terminal:
        with console.status(f"{title} …"):
            yield
    else:
        say(f"{title} …")
        yield
    took = time.monotonic() - start
    if console.is_terminal or took > 1:
        say(f"{title}: {took:.1f} s")


def run(
    command: Iterable[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed; with `log`, keep that in a file.

    A failure raises an error that carries the end of the output.
    """
    words = [str(word) for word in command]
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as out:
                code = subprocess.run(
                    words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                ).returncode
            printed, errors = "", log.read_text(errors="replace")
        else:
            done = subprocess.run(
                words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            code, printed, errors = done.returncode, done.stdout, done.stderr
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed") from error
    if code != 0:
        tail = "\n".join((errors or printed).strip().splitlines()[-25:])
        where = f" (all of it: {log})" if log else ""
        raise ClusterError(f"`{' '.join(words[:6])}` ended with {code}{where}:\n{tail}")
    return printed


def works(command: Iterable[object], timeout: float = 10) -> bool:
    """Whether a program is there and ends with 0."""
    try:
        return (
            subprocess.run(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[None]:
    """Hold a lock that the kernel frees however we end. The file goes when we are done."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("w")
        except FileNotFoundError:  # the folder has just been removed, as empty
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {waiting_for}")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if path.stat().st_ino == Path(f"/proc/self/fd/{file.fileno()}").stat().st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # whoever held it before us has removed the file: lock the new one
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def fail(error: Exception) -> None:
    """Print an error for people."""
    console.print(f"error: {error}", style="red", markup=False)
