"""What the real engines of GitOps tools make of objects of a real cluster."""

import json
import subprocess
import zipfile
from dataclasses import dataclass
from typing import Any

import yaml

from cluster import gobuild
from tests.unit.gitops.engines import cel_checks, lua_scripts

Json = dict[str, Any]

ARGO_CD = ("github.com/argoproj/argo-cd/v3", "v3.6.1", "manifests/crds/")
FLUX = (
    ("github.com/fluxcd/source-controller", "v1.10.1", "config/crd/bases/"),
    ("github.com/fluxcd/kustomize-controller", "v1.10.1", "config/crd/bases/"),
)

TRACKING_LABELS = {
    "app.kubernetes.io/instance": "research",
    "argocd.argoproj.io/instance": "research",
    "kustomize.toolkit.fluxcd.io/name": "research",
    "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    "helm.toolkit.fluxcd.io/name": "research",
    "team": "research",
}
TRACKING_ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": "research:corral.dev/Workflow:team/x",
    "argocd.argoproj.io/sync-wave": "1",
    "meta.helm.sh/release-name": "research",
    "kustomize.toolkit.fluxcd.io/ssa": "Merge",
}


@dataclass(frozen=True)
class Verdict:
    """What the tools say of one object."""

    kstatus: str
    flux: str = ""
    argo: str = ""
    message: str = ""
    drift: str = ""
    """What Argo CD would change, as a merge patch; empty: it is in sync."""


def judge(*objects: Json, git: Json | None = None) -> list[Verdict]:
    """Verdicts on live objects, in their order; ``git`` is what is to be compared with them."""
    scripts, checks = lua_scripts(), cel_checks()
    asked = [
        {
            "live": obj,
            "git": git,
            "lua": scripts[obj["kind"]],
            "cel": {
                key: text
                for key, text in checks[obj["kind"]].items()
                if key in ("inProgress", "failed", "current")
            },
        }
        for obj in objects
    ]
    done = subprocess.run(
        [gobuild.judge()], input=json.dumps({"objects": asked}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [Verdict(**answer) for answer in json.loads(done.stdout)]


def crds(module: str, version: str, folder: str) -> list[Json]:
    """The CRDs that a tool comes with, from the source of its release."""
    found = []
    with zipfile.ZipFile(gobuild.module_zip(module, version)) as source:
        for name in sorted(source.namelist()):
            inside = name.partition(f"{version}/")[2]
            if inside.startswith(folder) and name.endswith(".yaml"):
                documents = list(yaml.safe_load_all(source.read(name)))
                found += [
                    doc for doc in documents if doc and doc["kind"] == "CustomResourceDefinition"
                ]
    assert found, f"no CRDs in {folder} of {module}@{version}"
    return found
