"""Where things are: the state of clusters in the checkout, and the cache of the user."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
STATE = REPO / ".cluster"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral"

DEFAULT_NAME = "corral"
KUBECTL = STATE / "bin" / "kubectl"


class ClusterError(Exception):
    """Something that the user can act on; printed without a traceback."""


@dataclass(frozen=True)
class Home:
    """One cluster's folder, `.cluster/NAME`: everything that it keeps on disk."""

    name: str

    def __post_init__(self) -> None:
        """Refuse names that would not be one folder, or would be one of ours."""
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", self.name) or self.name in (
            "bin",
            "kubeconfig",
        ):
            raise ClusterError(f"{self.name!r} can't be a cluster's name: use a-z, 0-9 and '-'")

    @property
    def path(self) -> Path:
        return STATE / self.name

    @property
    def kubeconfig(self) -> Path:
        """What people and tests use; the default cluster's has the shorter path."""
        if self.name == DEFAULT_NAME:
            return STATE / "kubeconfig"
        return self.path / "kubeconfig"

    @property
    def record(self) -> Path:
        return self.path / "cluster.json"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    def read(self) -> dict[str, Any]:
        """What is known of the cluster; nothing, where there is none (or only the ruins of one)."""
        try:
            found = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, **facts: Any) -> None:
        """Add to what is known, whole or not at all."""
        replace(self.record, json.dumps(self.read() | facts, indent=2) + "\n")

    def offer(self, kubeconfig: str, kubectl: Path, ours: bool = False) -> None:
        """Put the kubeconfig and a kubectl where people look for them.

        One kubectl serves all clusters of the checkout: our own, once there is one.
        """
        replace(self.path / "kubeconfig", kubeconfig, mode=0o600)
        if self.name == DEFAULT_NAME:
            link(self.kubeconfig, Path(self.name) / "kubeconfig")
        KUBECTL.parent.mkdir(parents=True, exist_ok=True)
        if ours or not KUBECTL.exists():
            link(KUBECTL, kubectl)

    def remove(self) -> None:
        """Delete the folder, and what `offer` made; with the last cluster, `.cluster` itself."""
        if self.name == DEFAULT_NAME:
            self.kubeconfig.unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)
        if STATE.exists() and not any(p.is_dir() for p in STATE.iterdir() if p.name != "bin"):
            KUBECTL.unlink(missing_ok=True)
            for folder in (KUBECTL.parent, STATE):
                try:
                    folder.rmdir()
                except OSError:  # another cluster is starting, or it is gone already
                    return


def known() -> list[Home]:
    """Every cluster of this checkout, whole or half-dead."""
    if not STATE.is_dir():
        return []
    return [Home(p.name) for p in sorted(STATE.iterdir()) if p.is_dir() and p.name != "bin"]


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.touch(mode=mode)
    fresh.write_text(text)
    fresh.replace(path)


def link(path: Path, target: Path) -> None:
    """Make a symbolic link in place of whatever was there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
