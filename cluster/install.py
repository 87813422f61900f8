"""corral in a cluster: installed from manifests/, or run from the source tree beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster import embedded, gobuild
from cluster.config import VOLUME
from cluster.paths import HERE, KUBECTL, REPO, ClusterError, Home
from cluster.providers import Provider
from cluster.shell import run, say, step

NAMESPACE = "corral-system"
OPERATOR = "corral-operator"
_DEV_IMAGE = "localhost/corral:dev"


def kubectl(home: Home, *arguments: object, stdin: str | None = None) -> str:
    """Run kubectl against the cluster; its output."""
    words = [str(KUBECTL), f"--kubeconfig={home.kubeconfig}", *(str(a) for a in arguments)]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"kubectl {' '.join(words[2:6])}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def install(home: Home, image: str) -> None:
    """Apply the manifests and wait for the operator."""
    if home.read().get("provider") == Provider.EMBEDDED:
        # Made at the start of a cluster, but not by older checkouts.
        (home.path / VOLUME).mkdir(parents=True, exist_ok=True)
    with step("installing corral"):
        kubectl(
            home, "apply", "--server-side", "--force-conflicts", "--filename=-",
            stdin=yaml.safe_dump_all(_manifests(home, image)),
        )  # fmt: skip
        kubectl(
            home, "rollout", "status", f"deployment/{OPERATOR}", f"--namespace={NAMESPACE}",
            "--timeout=120s",
        )  # fmt: skip
    say(f"corral runs; use it with: export KUBECONFIG={home.kubeconfig}")


def _manifests(home: Home, image: str) -> list[dict[str, Any]]:
    overlay = "kind" if home.read().get("provider") == Provider.KIND else "embedded"
    text = run([KUBECTL, "kustomize", REPO / "manifests" / "overlays" / overlay])
    if image != _DEV_IMAGE:
        text = text.replace(_DEV_IMAGE, image)
    objects = list(yaml.safe_load_all(text))
    # The same name may stand for another image than last time: both kinds of pods have to know.
    loaded = home.read().get("images", {}).get(image)
    for found in objects:
        if loaded and found["kind"] == "Deployment":
            for container in found["spec"]["template"]["spec"]["containers"]:
                container["env"].append({"name": "CORRAL_WORKER_IMAGE_REVISION", "value": loaded})
    return objects


def install_metrics(home: Home) -> None:
    """Give an embedded cluster the metrics API, which an HPA goes by."""
    embedded.load(home, gobuild.metrics_archive())
    with step("installing the metrics-server"):
        kubectl(
            home, "apply", "--server-side", "--force-conflicts", "--filename",
            HERE / "metrics" / "manifest.yaml",
        )  # fmt: skip
        kubectl(
            home, "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io",
            "--timeout=120s",
        )  # fmt: skip


def run_from_source(home: Home) -> None:
    """Become the operator, with its own account's rights, where pods can be reached."""
    kubectl(home, "scale", f"deployment/{OPERATOR}", f"--namespace={NAMESPACE}", "--replicas=0")
    if home.read().get("provider") != Provider.EMBEDDED:
        say("the operator calls worker pods by their addresses: those must be routed to here")
    say("the Deployment was scaled to 0; `make cluster` puts it back")
    corral = str(Path(sys.executable).with_name("corral"))
    command, environment = beside(home, [corral, "operator"])
    os.execvpe(command[0], command, environment)  # noqa: S606


def beside(
    home: Home, program: list[str], server: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """An operator that is a process of this machine, with its own account's rights.

    Args:
        program: the words that start it.
        server: the URL by which it reaches the API server, if not the kubeconfig's.

    Returns:
        The words that start it where pods can be reached, and its environment.
    """
    token = kubectl(
        home, "create", "token", OPERATOR, f"--namespace={NAMESPACE}", "--duration=12h"
    ).strip()
    config = yaml.safe_load(home.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    if server is not None:
        config["clusters"] = [
            {"name": one["name"], "cluster": {"server": server}} for one in config["clusters"]
        ]
    account = home.path / "operator.kubeconfig"
    account.touch(mode=0o600)
    account.write_text(yaml.safe_dump(config))
    environment = os.environ | {
        "KUBECONFIG": str(account),
        # Not the cluster's volume: what root writes there, the operator's user could not change.
        "CORRAL_ARTIFACTS_URL": f"file://{home.path}/artifacts",
        "CORRAL_LEDGER_URL": f"sqlite:///{home.path}/ledger.db",
        "CORRAL_WORKER_IMAGE": _DEV_IMAGE,
        "CORRAL_WORKER_IMAGE_REVISION": home.read().get("images", {}).get(_DEV_IMAGE, ""),
    }
    if home.read().get("provider") == Provider.EMBEDDED:
        program = [*embedded.inside(home), *program]
    return program, environment
