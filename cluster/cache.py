"""Things that take long to make, kept by a hash of what they are made from."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.paths import CACHE, REPO
from cluster.shell import locked


def fingerprint(files: Iterable[Path], *facts: str) -> str:
    """A hash of files (their names in the checkout and contents) and of anything else."""
    total = hashlib.sha256()
    for fact in facts:
        total.update(f"{len(fact)}:{fact}".encode())
    for file in sorted(files):
        name = file.relative_to(REPO).as_posix()
        total.update(f"{len(name)}:{name}".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def cached(kind: str, key: str, make: Callable[[Path], None], keep: int = 3) -> Path:
    """The folder `KIND-KEY` of the cache, made by `make` if it is not there yet.

    It appears whole or not at all, and two processes that want it make it once. All but the
    last `keep` used ones of a kind are deleted.
    """
    folder = CACHE / f"{kind}-{key}"
    if not folder.exists():
        with locked(CACHE / f"{kind}.lock", f"another process that makes {kind}"):
            if not folder.exists():
                fresh = CACHE / f".{kind}-{key}"
                if fresh.exists():
                    shutil.rmtree(fresh)
                fresh.mkdir(parents=True)
                make(fresh)
                fresh.rename(folder)
    os.utime(folder)
    others = sorted(CACHE.glob(f"{kind}-*/"), key=lambda path: path.stat().st_mtime)
    for old in others[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
