"""What Argo CD and Flux make of an object, by the checks in ``manifests/gitops``."""

from pathlib import Path
from typing import Any

import lupa.lua51
import yaml

from corral.plan.expressions import Expression, ExpressionError

GITOPS = Path(__file__).parents[3] / "manifests/gitops"
Json = dict[str, Any]

_NOT_IN_ARGO_CD = ("string", "math", "io", "os", "debug", "coroutine", "python")


def documents(path: str) -> list[Json]:
    """All documents of a file below ``manifests/gitops``."""
    return [doc for doc in yaml.safe_load_all((GITOPS / path).read_text()) if doc]


def lua_scripts() -> dict[str, str]:
    """Argo CD's health checks by kind."""
    data: dict[str, str] = documents("argo-cd/health-checks/argocd-cm.yaml")[0]["data"]
    head = "resource.customizations.health.corral.dev_"
    assert all(key.startswith(head) for key in data)
    return {key.removeprefix(head): script for key, script in data.items()}


def cel_checks() -> dict[str, Json]:
    """Flux' health checks by kind."""
    entries = documents("flux/team.yaml")[0]["spec"]["healthCheckExprs"]
    assert all(entry["apiVersion"] == "corral.dev/v1alpha1" for entry in entries)
    return {entry["kind"]: entry for entry in entries}


def argo_cd(obj: Json) -> tuple[str, str]:
    """Status and message; before the script Argo CD looks for a deletion, as here."""
    if obj["metadata"].get("deletionTimestamp"):
        return "Progressing", "Pending deletion"
    lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False)
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    for library in _NOT_IN_ARGO_CD:
        lua.globals()[library] = None
    answer = lua.execute(lua_scripts()[obj["kind"]])
    return answer["status"], answer["message"] or ""


def flux(obj: Json) -> str:
    """Current, InProgress or Failed: in the order of Flux' StatusEvaluator."""
    observed = obj.get("status", {}).get("observedGeneration")
    if observed is not None and observed != obj["metadata"]["generation"]:
        return "InProgress"
    checks = cel_checks()[obj["kind"]]
    for field, answer in (
        ("inProgress", "InProgress"),
        ("failed", "Failed"),
        ("current", "Current"),
    ):
        try:
            if field in checks and Expression(checks[field], frozenset(obj)).evaluate(obj):
                return answer
        except ExpressionError:
            return "InProgress"  # unknown to Flux, which waits
    return "InProgress"
