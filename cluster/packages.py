"""What the machine must have, and installing it on Debian and its kin."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.cache import cached, fingerprint
from cluster.paths import ClusterError
from cluster.shell import run, step, works

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))

# What proves that it is there: a program's name. -> Debian's package of it.
CLUSTER: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "cni:ptp": "containernetworking-plugins",
    "cni:portmap": "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "socat": "socat",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}
IMAGES: Mapping[str, str] = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}

# Debian keeps system programs where a user's PATH may not look.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cni_folder() -> Path:
    """Where the CNI plugins are."""
    for folder in CNI_FOLDERS:
        if (folder / "ptp").exists():
            return folder
    return CNI_FOLDERS[0]


def need(*sets: Mapping[str, str]) -> None:
    """Install what is missing; refuse with the list where that is not ours to do."""
    if os.geteuid() != 0:
        names = sorted({package for each in sets for package in each.values()})
        raise ClusterError(
            "an embedded cluster (and building images without Docker) needs root: run it as root.\n"
            f"It uses these packages of Debian: {' '.join(names)}"
        )
    missing = sorted({package for each in sets for package in _missing(each)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"install what these packages of Debian hold: {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing {' '.join(missing)}"):
        run(["apt-get", "-q", "update"], env=environment)
        run(
            ["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing],
            env=environment,
        )
    if still := {package for each in sets for package in _missing(each)}:
        raise ClusterError(f"still missing after installation: {' '.join(sorted(still))}")


def unpacked(kind: str, *packages: str) -> Path:
    """A folder with the files of Debian's packages, which are not installed: nothing is started.

    Raises:
        ClusterError: this machine can't get them.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ClusterError(f"{' '.join(packages)}: only Debian and its kin have what gets them")

    def make(folder: Path) -> None:
        with step(f"getting {' '.join(packages)} (once)"):
            known = all(works(["apt-cache", "show", package]) for package in packages)
            if not known and os.geteuid() == 0:
                run(["apt-get", "-q", "update"])
            run(["apt-get", "-q", "download", *packages], cwd=folder)
            for archive in folder.glob("*.deb"):
                run(["dpkg-deb", "--extract", archive, folder])
                archive.unlink()

    return cached(kind, fingerprint([], *packages), make)


def _missing(wanted: Mapping[str, str]) -> set[str]:
    return {package for proof, package in wanted.items() if not _is_there(proof)}


def _is_there(proof: str) -> bool:
    if proof.startswith("cni:"):
        return any((folder / proof.removeprefix("cni:")).exists() for folder in CNI_FOLDERS)
    return shutil.which(proof, path=PATH) is not None
