"""Whose number N is: who may use the names and addresses that a cluster needs on the host.

A cluster's host resources are all named by its number (link and cgroups `corral-N`, network
10.99.N.0/24). `/run/corral/N` says which state folder owns it. It is written, whole and
exclusively, before any of them is made and deleted after all of them are gone, so that `down`
finds them after a crash at any point, and clusters of other checkouts are left alone.
"""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

from cluster.paths import ClusterError
from cluster.shell import run

_CLAIMS = Path("/run/corral")
_NUMBERS = range(1, 250)


class Numbers:
    """All names that follow from a cluster's number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.device = f"corral-{number}"  # the host's end of the link, and the cgroups
        self.network = ipaddress.IPv4Network(f"10.99.{number}.0/24")
        self.host = str(self.network[1])
        self.node = str(self.network[2])


def take(owner: Path) -> Numbers:
    """Claim a free number for the cluster whose state is in `owner`."""
    _CLAIMS.mkdir(exist_ok=True)
    routed = _routed()
    draft = _CLAIMS / f".{os.getpid()}"
    draft.write_text(str(owner))
    try:
        for numbers in map(Numbers, _NUMBERS):
            if any(numbers.network.overlaps(network) for network in routed):
                continue
            try:
                os.link(draft, _CLAIMS / str(numbers.number))
            except FileExistsError:
                continue
            return numbers
    finally:
        draft.unlink()
    raise ClusterError(f"no free network 10.99.N.0/24 is left (see {_CLAIMS})")


def of(owner: Path) -> list[Numbers]:
    """Every number that this state folder has claimed."""
    if not _CLAIMS.is_dir():
        return []
    files = [file for file in _CLAIMS.iterdir() if file.name.isdigit()]
    return [Numbers(int(file.name)) for file in files if _owner(file) == str(owner)]


def free(numbers: Numbers) -> None:
    """Give a number back. Nothing named by it may exist any more."""
    (_CLAIMS / str(numbers.number)).unlink(missing_ok=True)
    try:
        _CLAIMS.rmdir()
    except OSError:  # others are in use
        return


def _owner(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _routed() -> list[ipaddress.IPv4Network]:
    """Networks that this machine reaches already, by other ways than the default route."""
    routes = json.loads(run(["ip", "-4", "-json", "route", "show", "table", "all"]) or "[]")
    return [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in routes
        if route["dst"] not in ("default", "0.0.0.0/0")
    ]
