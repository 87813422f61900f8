"""Which cluster: embedded, kind's where Docker is, or the one that the user has."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

from cluster import embedded
from cluster.paths import ClusterError, Home
from cluster.shell import run, step, works
from cluster.sweep import sweep


class Provider(StrEnum):
    """What `--provider` takes."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    KIND = "kind"
    CURRENT = "current"


def docker_answers() -> bool:
    """Whether there is a Docker engine, not only its client."""
    return shutil.which("docker") is not None and works(["docker", "info"])


def up(home: Home, wanted: Provider) -> None:
    """Start a cluster, or do nothing where it is up."""
    have = home.read().get("provider")
    if wanted is Provider.AUTO:
        wanted = Provider(have) if have else _choose()
    elif have and have != wanted:
        raise ClusterError(f"{home.name} is there as {have}: take it down first")
    match wanted:
        case Provider.KIND:
            _up_kind(home)
        case Provider.CURRENT:
            _up_current(home)
        case _:
            embedded.up(home)


def down(home: Home) -> None:
    """Leave nothing of a cluster that we made; of one that we didn't, only forget it."""
    if home.read().get("provider") == Provider.KIND:
        run(["kind", "delete", "cluster", "--name", home.name])
    sweep(home)


def is_ready(home: Home) -> bool:
    """Whether its API server answers."""
    if home.read().get("provider") == Provider.EMBEDDED:
        return embedded.is_ready(home)
    kubeconfig = f"--kubeconfig={home.kubeconfig}"
    return home.kubeconfig.exists() and works(["kubectl", kubeconfig, "get", "--raw", "/readyz"])


def load(home: Home, archive: Path) -> None:
    """Give the cluster's node an image."""
    match home.read().get("provider"):
        case Provider.EMBEDDED:
            embedded.load(home, archive)
        case Provider.KIND:
            run(["kind", "load", "image-archive", archive, "--name", home.name])
        case Provider.CURRENT:
            raise ClusterError("this cluster is yours: push the image to where it pulls from")
        case _:
            raise ClusterError(f"there is no cluster {home.name!r}: python -m cluster up")


def _choose() -> Provider:
    if shutil.which("kind") and docker_answers():
        return Provider.KIND
    return Provider.EMBEDDED


def _up_kind(home: Home) -> None:
    if is_ready(home):
        return
    kubectl = _their_kubectl()
    home.write(provider=str(Provider.KIND))
    if home.name in run(["kind", "get", "clusters"]).split():
        run(["kind", "delete", "cluster", "--name", home.name])
    made = home.path / "kind.kubeconfig"
    with step(f"kind makes {home.name}"):
        create = ["kind", "create", "cluster", "--name", home.name, "--wait", "120s"]
        run([*create, "--kubeconfig", made])
    home.offer(made.read_text(), kubectl)
    made.unlink()


def _up_current(home: Home) -> None:
    kubectl = _their_kubectl()
    context = run([kubectl, "config", "view", "--minify", "--flatten", "--raw", "--output=yaml"])
    home.write(provider=str(Provider.CURRENT))
    home.offer(context, kubectl)
    if not is_ready(home):
        raise ClusterError("the cluster of your current kubectl context does not answer")


def _their_kubectl() -> Path:
    found = shutil.which("kubectl")
    if not found:
        raise ClusterError("kubectl is not installed")
    return Path(found)
