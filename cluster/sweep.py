"""Takes down whatever a cluster left on the machine, from nothing to all of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cluster import claim
from cluster.config import SECOND
from cluster.paths import ClusterError, Home
from cluster.shell import works

# In the environment of every process that we start for a cluster; its value is the state folder.
# Found by that, a process can't be missed because we died before writing its number down.
MARK = "CORRAL_CLUSTER_STATE"

_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE = 20.0


def sweep(home: Home) -> None:
    """End the cluster's processes, then free what they used, then forget it."""
    _kill(home.path)
    for numbers in claim.of(home.path):
        if Path(f"/sys/class/net/{numbers.device}").exists():
            # The kernel deletes it with the namespace, but takes its time.
            works(["ip", "link", "delete", numbers.device])
        _remove_cgroups(numbers.device)
        _remove_cgroups(f"{numbers.device}{SECOND.suffix}")
    home.remove()
    for numbers in claim.of(home.path):
        claim.free(numbers)


def processes(state: Path) -> list[int]:
    """The cluster's processes but its containers, which end with the first one."""
    mark = f"{MARK}={state}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:  # it has ended, or is not ours to look at
                continue
            if mark in environment.split(b"\0"):
                found.append(int(folder.name))
    return sorted(found)


def make_cgroups(name: str) -> None:
    """Make the cgroup that all pods are put under: the kubelet wants it to be there."""
    if (_CGROUPS / "cgroup.controllers").exists():  # v2
        folder = _CGROUPS / name
        folder.mkdir(exist_ok=True)
        for controller in (folder / "cgroup.controllers").read_text().split():
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        return
    for hierarchy in _controllers():
        folder = hierarchy / name
        folder.mkdir(exist_ok=True)
        # On v1 a new group may use no CPU and no memory node until told which.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (folder / file).exists():
                (folder / file).write_text((hierarchy / file).read_text())


def _controllers() -> Iterator[Path]:
    """v1: a folder for each controller (and symbolic links to some)."""
    return (path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())


def _kill(state: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while found := processes(state):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise ClusterError(f"these processes do not end: {found}")
        time.sleep(0.02)


def _remove_cgroups(name: str) -> None:
    tops = [_CGROUPS / name, *(folder / name for folder in _controllers())]
    deadline = time.monotonic() + _PATIENCE
    while tops := [top for top in tops if top.exists()]:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    continue
                except OSError:  # the kernel lets go of an ended process's group a little later
                    break
        if not any(top.exists() for top in tops):
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"these cgroups stay in use: {', '.join(map(str, tops))}")
        time.sleep(0.02)
