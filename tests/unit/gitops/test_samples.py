"""The sample repository for GitOps is whole, and fits together."""

from typing import Any

from corral.cli.check import check
from tests.unit.gitops.engines import GITOPS, documents

Json = dict[str, Any]


def team() -> list[Json]:
    files = sorted((GITOPS / "team/base").glob("*.yaml"))
    return [doc for file in files for doc in documents(str(file)) if doc["kind"] != "Kustomization"]


def one(path: str, kind: str) -> Json:
    return next(doc for doc in documents(path) if doc["kind"] == kind)


def test_the_team_s_manifests_are_valid() -> None:
    files = [str(file) for file in sorted((GITOPS / "team/base").glob("[!k]*.yaml"))]
    checked = check([*files, str(GITOPS / "argo-cd/hooks/smoke-test.yaml")])
    assert checked.documents == len(files) + 1
    assert [str(problem) for problem in checked.problems] == []


def test_every_kustomization_lists_what_is_beside_it() -> None:
    for file in GITOPS.rglob("kustomization.yaml"):
        body = documents(str(file))[0]
        listed = {*body.get("resources", []), *(p["path"] for p in body.get("patches", []))}
        beside = {path.name for path in file.parent.glob("*.yaml")} - {file.name}
        assert {name for name in listed if not name.startswith("..")} == beside, file


def test_runs_are_not_in_git_but_for_the_hook() -> None:
    assert "Workflow" not in {obj["kind"] for obj in team()}


def test_the_project_allows_the_team_s_kinds_and_no_more() -> None:
    allowed = one("argo-cd/project.yaml", "AppProject")["spec"]["namespaceResourceWhitelist"]
    assert {entry["group"] for entry in allowed} == {"corral.dev"}
    used = {obj["kind"] for obj in team()} | {"Workflow"}
    assert {entry["kind"] for entry in allowed} == used


def test_waves_put_what_is_referred_to_first() -> None:
    waves = {
        obj["kind"]: int(obj["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for obj in team()
    }
    assert waves["Model"] < waves["Agent"] < waves["WorkflowTemplate"] < waves["CronWorkflow"]


def test_the_applications_and_flux_look_where_something_is() -> None:
    application = one("argo-cd/application-set.yaml", "ApplicationSet")
    for source in application["spec"]["template"]["spec"]["sources"]:
        path = source["path"].replace("{{ .environment }}", "production")
        assert (GITOPS / path).is_dir(), path
    assert (GITOPS / one("flux/team.yaml", "Kustomization")["spec"]["path"]).is_dir()
    assert (GITOPS.parents[1] / one("flux/corral.yaml", "Kustomization")["spec"]["path"]).is_dir()


def test_flux_waits_for_what_there_is() -> None:
    sources = {doc["metadata"]["name"] for doc in documents("flux/source.yaml")}
    kustomizations = [one(f"flux/{name}.yaml", "Kustomization") for name in ("corral", "team")]
    names = {found["metadata"]["name"] for found in kustomizations}
    for found in kustomizations:
        assert found["spec"]["sourceRef"]["name"] in sources
        assert {ref["name"] for ref in found["spec"].get("dependsOn", [])} <= names
        assert found["spec"]["wait"]


def test_the_hook_runs_a_template_that_the_team_has() -> None:
    hook = one("argo-cd/hooks/smoke-test.yaml", "Workflow")
    annotations = hook["metadata"]["annotations"]
    assert annotations["argocd.argoproj.io/hook"] == "PostSync"
    assert annotations["argocd.argoproj.io/hook-delete-policy"] == "HookSucceeded"
    templates = {o["metadata"]["name"] for o in team() if o["kind"] == "WorkflowTemplate"}
    assert hook["spec"]["workflowTemplateRef"]["name"] in templates
    assert "name" not in hook["metadata"]
