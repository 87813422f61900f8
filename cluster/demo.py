"""The demo: a team of agents, from an empty namespace to a report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.install import kubectl
from cluster.paths import KUBECTL, REPO, Home
from cluster.shell import console, say, step

NAMESPACE = "demo"
_SAMPLE = REPO / "manifests" / "samples" / "research-team"
_ASKS = REPO / "manifests" / "samples" / "data-cleanup"


def show(home: Home) -> int:
    """Run the sample workflow anew and show what is left; the exit code of ``corral run``."""
    with step("making way for the demo"):
        if NAMESPACE in kubectl(home, "get", "namespaces", "--output=name"):
            kubectl(home, "delete", "workflows", "--all", f"--namespace={NAMESPACE}", "--wait=true")
        else:
            kubectl(home, "create", "namespace", NAMESPACE)
        kubectl(
            home, "label", "--overwrite", "namespace", NAMESPACE,
            "pod-security.kubernetes.io/enforce=restricted",
        )  # fmt: skip
    with step("starting the model server, which stands in for a provider"):
        for file in ("model.yaml", "model-server.yaml"):
            kubectl(
                home, "apply", "--server-side", "--force-conflicts",
                f"--namespace={NAMESPACE}", f"--filename={_SAMPLE / file}",
            )  # fmt: skip
        kubectl(
            home, "rollout", "status", "deployment/model-server", f"--namespace={NAMESPACE}",
            "--timeout=120s",
        )  # fmt: skip
    say("a team of four agents writes a report: every model call in it is simulated")
    environment = os.environ | {"KUBECONFIG": str(home.kubeconfig)}
    corral = str(Path(sys.executable).with_name("corral"))
    files = [str(_SAMPLE / file) for file in ("agents.yaml", "workflow.yaml")]
    code = subprocess.run(
        [corral, "run", f"--namespace={NAMESPACE}", *files], env=environment
    ).returncode
    say("an agent with tools of an MCP server asks before it deletes something")
    _until_it_asks(home, corral, environment)
    console.print(f"\n$ kubectl get corral --namespace {NAMESPACE}")
    sys.stderr.flush()
    subprocess.run(
        [str(KUBECTL), "get", "corral", f"--namespace={NAMESPACE}"], env=environment, check=True
    )
    shown = home.kubeconfig.relative_to(REPO) if home.kubeconfig.is_relative_to(REPO) else ""
    console.print(
        f"\nLook around:      export KUBECONFIG=$PWD/{shown or home.kubeconfig} "
        f"PATH=$PWD/.cluster/bin:$PWD/.venv/bin:$PATH\n"
        f"                  corral logs --namespace {NAMESPACE} research-team\n"
        f"                  corral trace --namespace {NAMESPACE} research-team\n"
        f"A run waits:      corral approve --namespace {NAMESPACE} data-cleanup\n"
        f"A real model:     put a key into the Secret and take out one field: "
        f"{(_SAMPLE / 'model.yaml').relative_to(REPO)}\n"
        "                  (in kind or a cluster of yours: this one's pods reach nothing outside;\n"
        "                  on this machine, without a cluster: docs/guides/real-models.md)\n"
        "Take it all down: make cluster-down",
        soft_wrap=True,
        markup=False,
    )
    return code


def _until_it_asks(home: Home, corral: str, environment: dict[str, str]) -> None:
    """Starts the run that waits for a person, and leaves it waiting."""
    workloads = ["team.yaml", "tools.yaml"]
    with step("starting the tool server, and the run"):
        for file in workloads:
            kubectl(
                home, "apply", "--server-side", "--force-conflicts",
                f"--namespace={NAMESPACE}", f"--filename={_ASKS / file}",
            )  # fmt: skip
        kubectl(
            home, "rollout", "status", "deployment/archive", f"--namespace={NAMESPACE}",
            "--timeout=120s",
        )  # fmt: skip
        kubectl(home, "apply", f"--namespace={NAMESPACE}", f"--filename={_ASKS / 'workflow.yaml'}")
        kubectl(
            home, "wait", "workflow/data-cleanup", f"--namespace={NAMESPACE}", "--timeout=60s",
            "--for=jsonpath={.status.steps[0].phase}=Waiting",
        )  # fmt: skip
    subprocess.run(
        [corral, "get", f"--namespace={NAMESPACE}", "workflow", "data-cleanup", "-o", "tree"],
        env=environment,
        check=True,
    )
