"""The processes of an embedded cluster as the host sees them: to be killed, or frozen."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.paths import Home
from cluster.sweep import processes
from tests.cluster.harness import Json


def _state() -> Home:
    home = Home(Path(os.environ["KUBECONFIG"]).resolve().parent.name)
    if home.read().get("provider") != "embedded" or os.geteuid() != 0:
        pytest.skip("only an embedded cluster's processes can be reached from here")
    return home


def folder() -> Path:
    """Where the cluster keeps everything that is its own."""
    return _state().path


def of_pod(pod: Json) -> list[int]:
    """The processes of a pod's containers, told by its UID in the name of their cgroup."""
    _state()
    uid = pod["metadata"]["uid"]
    marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    return [
        number
        for number, folder in _all()
        if _name(folder) != "pause" and any(mark in _read(folder / "cgroup") for mark in marks)
    ]


def of_component(name: str) -> list[int]:
    """The processes of a component of the control plane."""
    state = _state().path
    return [pid for pid in processes(state) if name in _read(Path(f"/proc/{pid}/cmdline"))]


def kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to processes that were just found."""
    assert pids, "no process was found"
    for pid in pids:
        os.kill(pid, number)


def _all() -> Iterator[tuple[int, Path]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            yield int(folder.name), folder


def _name(folder: Path) -> str:
    return _read(folder / "comm").strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended
        return ""
