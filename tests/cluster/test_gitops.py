"""GitOps tools apply corral's objects, see them as they are, and find no drift."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import fresh_namespace
from tests.cluster.gitops import (
    ARGO_CD,
    FLUX,
    TRACKING_ANNOTATIONS,
    TRACKING_LABELS,
    crds,
    judge,
)
from tests.cluster.harness import (
    OURS,
    REPO,
    Cluster,
    Json,
    agent,
    condition,
    manifest,
    simulated,
    workflow,
)
from tests.unit.gitops.engines import GITOPS, argo_cd, flux
from tests.unit.gitops.states import EVERY

EXAMPLE_FILES = [
    path
    for path in sorted((REPO / "tests/unit/api/examples").glob("*.yaml"))
    if path.stem != "approvalrequest"  # only a run may make one
]
CURRENT = ("Current", "Current", "Healthy")
IN_PROGRESS = ("InProgress", "InProgress", "Progressing")
FAILED = ("Failed", "Failed", "Degraded")


def one(name: str, agent_name: str, more: str = "", step: str = "") -> str:
    return workflow(
        name, f"{more}\nsteps:\n- {{name: a, agentRef: {{name: {agent_name}}}, input: go{step}}}"
    )


CRON = "schedule: '@yearly'\nworkflowSpec: {workflowTemplateRef: {name: inert}}"
ASKING = """
    steps:
    - name: a
      approval: {prompt: "Now?", approvers: [{kind: User, name: nobody}]}
"""
TEAM = (
    simulated("fast")
    + simulated("slow", "latency: 600s")
    + simulated("failing", "failurePercent: 100")
    + simulated("unreadable", 'script: [{match: "(", reply: x}]')
    + agent("quick", "fast")
    + agent("sleepy", "slow")
    + agent("faulty", "failing")
    + agent("orphan", "nowhere")
    + agent("wrong", "fast", "outputSchema: {type: nonsense}")
)
RUNS = (
    one("succeeded", "quick")
    + one("failed", "faulty")
    + one("degraded", "faulty", step=", allowFailure: true")
    + one("running", "sleepy")
    + one("suspended", "quick", "suspend: true")
    + one("stopped", "sleepy", "shutdown: Stop")
    + one("lonely", "nobody")
    + workflow("invalid", "steps: [{name: a, agentRef: {name: quick}, input: $(steps.b.output)}]")
)
OTHERS = (
    manifest("WorkflowTemplate", "inert", "steps: [{name: a, transform: x}]")
    + manifest("CronWorkflow", "nightly", CRON)
    + manifest("CronWorkflow", "paused", f"suspend: true\n{CRON}")
    + manifest("CronWorkflow", "nowhere", f"timeZone: Europe/Atlantis\n{CRON}")
    + workflow("asking", ASKING)
)
STATES = {
    ("workflowtemplate", "inert"): CURRENT,
    ("cronworkflow", "nightly"): CURRENT,
    ("cronworkflow", "paused"): CURRENT,
    ("cronworkflow", "nowhere"): FAILED,
    ("workflow", "asking"): IN_PROGRESS,
    ("model", "fast"): CURRENT,
    ("model", "unreadable"): FAILED,
    ("agent", "quick"): CURRENT,
    ("agent", "orphan"): IN_PROGRESS,
    ("agent", "wrong"): FAILED,
    ("agentpool", "quick-default"): CURRENT,
    ("workflow", "succeeded"): CURRENT,
    ("workflow", "failed"): FAILED,
    ("workflow", "degraded"): CURRENT,
    ("workflow", "running"): IN_PROGRESS,
    ("workflow", "suspended"): ("InProgress", "InProgress", "Suspended"),
    ("workflow", "stopped"): ("Current", "Failed", "Degraded"),
    ("workflow", "lonely"): IN_PROGRESS,
    ("workflow", "invalid"): FAILED,
}


@pytest.fixture(scope="module")
def world() -> Iterator[Cluster]:
    """Objects in every state that can be brought about in half a minute."""
    with fresh_namespace() as made:
        made.apply(TEAM)
        made.apply(RUNS + OTHERS)
        yield made


def said(obj: Json) -> tuple[str, str, str]:
    verdict = judge(obj)[0]
    return verdict.kstatus, verdict.flux, verdict.argo


@pytest.mark.parametrize(("kind", "name"), STATES)
def test_kstatus_flux_and_argo_cd_see_it_as_it_is(world: Cluster, kind: str, name: str) -> None:
    expected = STATES[kind, name]
    obj = world.wait(kind, name, lambda found: said(found) == expected, str(expected), 60)
    assert argo_cd(obj)[0] == expected[2]
    assert flux(obj) == expected[1]


def test_what_stays_in_progress_still_is_when_all_else_has_ended(world: Cluster) -> None:
    world.all_finished("succeeded", "failed", "degraded", "stopped")
    for (kind, name), expected in STATES.items():
        if expected[0] == "InProgress":
            assert said(world.get(kind, name)) == expected, name


def test_a_question_to_people_is_suspended_and_the_run_goes_on(world: Cluster) -> None:
    def asks(run: Json) -> bool:
        return judge(run)[0].message == "a: waits for a person's approval"

    world.wait("workflow", "asking", asks, "asking", 30)
    [request] = world.list("approvalrequest")
    assert said(request) == ("Current", "InProgress", "Suspended")
    assert judge(request)[0].message == "Now?"


def test_an_object_that_no_operator_has_seen_is_in_progress(world: Cluster) -> None:
    made = world.kubectl(
        *("create", "--dry-run=server", "--output=json", "--filename=-"),
        input=simulated("new") + agent("new", "new") + one("new", "new"),
    )
    for obj in json.loads(f"[{made.stdout.replace('}' + chr(10) + '{', '},{')}]"):
        for found in obj.get("items", [obj]):
            assert said(found) == IN_PROGRESS, found["kind"]


def test_an_object_that_is_being_deleted_is_terminating(world: Cluster) -> None:
    held = yaml.safe_load(simulated("held"))
    held["metadata"]["finalizers"] = ["example.com/held"]
    world.apply(yaml.safe_dump(held))
    world.kubectl("delete", "model", "held", "--wait=false")
    assert said(world.get("model", "held")) == ("Terminating", "InProgress", "Progressing")
    world.patch("model", "held", {"metadata": {"finalizers": None}})


def test_the_real_engines_agree_with_those_of_the_unit_tests() -> None:
    states = list(EVERY.items())
    verdicts = judge(*(state.obj for _, state in states))
    for (name, state), verdict in zip(states, verdicts, strict=True):
        assert verdict.kstatus == state.kstatus, name
        waits = {"InProgress", "Unknown"} if state.flux == "InProgress" else {state.flux}
        assert verdict.flux in waits, name
        assert (verdict.argo, verdict.message) == argo_cd(state.obj), name


def documents(path: Path) -> list[Json]:
    """A file's objects, without what only the operator may say."""
    found = [doc for doc in yaml.safe_load_all(path.read_text()) if doc]
    return [{key: value for key, value in doc.items() if key != "status"} for doc in found]


def kustomized(cluster: Cluster, folder: str) -> list[Json]:
    built = cluster.kubectl("kustomize", str(GITOPS / folder)).stdout
    return [doc for doc in yaml.safe_load_all(built) if doc]


def sources(cluster: Cluster) -> dict[str, list[Json]]:
    """What people apply: samples, a team's repository, and objects with every field."""
    samples = REPO / "manifests/samples"
    made = {
        folder.name: [doc for file in sorted(folder.glob("*.yaml")) for doc in documents(file)]
        for folder in sorted(samples.iterdir())
        if folder.is_dir()
    }
    made["team"] = kustomized(cluster, "team/staging")
    for file in EXAMPLE_FILES:
        made[file.stem] = documents(file)
    return made


SOURCES = sorted(
    [path.name for path in (REPO / "manifests/samples").iterdir() if path.is_dir()]
    + ["team"]
    + [path.stem for path in EXAMPLE_FILES]
)


WITHOUT_SERVERS = [
    source
    for source in SOURCES
    if not any(
        "kind: Deployment" in file.read_text()
        for file in (REPO / "manifests/samples" / source).glob("*.yaml")
    )
]


def ours(objects: list[Json]) -> list[Json]:
    return [obj for obj in objects if obj["apiVersion"].startswith("corral.dev/")]


def without_nulls(value: Any) -> Any:
    """kubectl and Argo CD send merge patches, to which null means: remove this."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def key(obj: Json) -> tuple[str, str]:
    return obj["kind"].lower(), obj["metadata"]["name"]


def settled(cluster: Cluster, obj: Json) -> Json:
    """The live object, once the operator has done with it what it can."""

    def done(found: Json) -> bool:
        status = found.get("status")
        if status is None:
            return True
        if status.get("observedGeneration") != found["metadata"]["generation"]:
            return False
        if obj["kind"] != "Workflow":
            return True
        return "True" in (condition(found, "Finished"), condition(found, "Stalled")) or (
            status.get("message") is not None
        )

    return cluster.wait(*key(obj), done, "settled", 90)


def applied(objects: list[Json]) -> str:
    return yaml.safe_dump_all(objects)


def owners(obj: Json) -> dict[str, set[str]]:
    """The top-level fields that each field manager owns."""
    owned: dict[str, set[str]] = {}
    for entry in obj["metadata"].get("managedFields", []):
        owned.setdefault(entry["manager"], set()).update(entry["fieldsV1"])
    return owned


def with_managed_fields(cluster: Cluster, obj: Json) -> Json:
    words = ("get", *key(obj), "--output=json", "--show-managed-fields")
    found: Json = json.loads(cluster.kubectl(*words).stdout)
    return found


def drift(git: Json, live: Json) -> str:
    """What Argo CD would change; both it and kubectl apply an object with its namespace, kubectl
    with annotations as well."""
    given = {"namespace": live["metadata"]["namespace"], **git["metadata"]}
    if "annotations" in live["metadata"]:
        given.setdefault("annotations", {})
    return judge(live, git=git | {"metadata": given})[0].drift


@pytest.mark.parametrize("source", SOURCES)
def test_applied_again_nothing_changes(cluster: Cluster, source: str) -> None:
    objects = without_nulls(sources(cluster)[source])
    for obj in objects:
        obj["metadata"].pop("namespace", None)
    text = applied(objects)
    cluster.apply(text)
    live = {key(obj): settled(cluster, obj) for obj in ours(objects)}
    said = cluster.kubectl("apply", "--filename=-", input=text).stdout.splitlines()
    assert [line for line in said if "corral.dev" in line and "unchanged" not in line] == []
    text = applied(ours(objects))
    diff = cluster.kubectl("diff", "--filename=-", input=text, check=False)
    assert (diff.returncode, diff.stdout) == (0, "")
    cluster.kubectl("apply", "--server-side", "--filename=-", input=text)
    for obj in ours(objects):
        assert drift(obj, live[key(obj)]) == "", key(obj)
        for manager, owned in owners(with_managed_fields(cluster, obj)).items():
            assert manager.startswith("kubectl") or owned == {"f:status"}, (manager, owned)


@pytest.mark.parametrize("source", WITHOUT_SERVERS)
def test_applied_server_side_again_nothing_changes(cluster: Cluster, source: str) -> None:
    objects = ours(sources(cluster)[source])
    for obj in objects:
        obj["metadata"].pop("namespace", None)
    text = applied(objects)  # with nulls: server-side apply keeps them
    apply = ("apply", "--server-side", "--field-manager=kustomize-controller", "--filename=-")
    cluster.kubectl(*apply, input=text)
    for obj in objects:
        settled(cluster, obj)
    generations = {key(obj): cluster.get(*key(obj))["metadata"]["generation"] for obj in objects}
    cluster.kubectl(*apply, input=text)
    diff = cluster.kubectl("diff", *apply[1:], input=text, check=False)
    assert (diff.returncode, diff.stdout) == (0, "")
    for obj in objects:
        live = cluster.get(*key(obj))
        assert live["metadata"]["generation"] == generations[key(obj)]
        assert drift(obj, live) == "", key(obj)


def test_what_a_tool_marked_keeps_its_marks_and_nothing_made_from_it_has_them(
    cluster: Cluster,
) -> None:
    text = simulated("fast") + agent("plain", "fast") + agent("pooled", "fast")
    text += manifest("AgentPool", "pooled", "{agentRef: {name: pooled}, replicas: 1}")
    text += one("on-default", "plain") + one("on-pool", "pooled")
    marked = [doc for doc in yaml.safe_load_all(text) if doc]
    for obj in marked:
        obj["metadata"] |= {"labels": TRACKING_LABELS, "annotations": TRACKING_ANNOTATIONS}
    cluster.apply(applied(marked))
    cluster.all_finished("on-default", "on-pool")
    for obj in marked:
        metadata = cluster.get(*key(obj))["metadata"]
        assert metadata["labels"].items() >= TRACKING_LABELS.items()
        assert metadata["annotations"].items() >= TRACKING_ANNOTATIONS.items()
    names = {key(obj) for obj in marked}
    made = [
        obj
        for kind in (*OURS, "events", "secrets", "configmaps")
        for obj in cluster.list(kind)
        if (obj["kind"].lower(), obj["metadata"]["name"]) not in names
    ]
    assert {"AgentPool", "Pod", "Event"} <= {obj["kind"] for obj in made}
    for obj in made:
        metadata: dict[str, Any] = obj["metadata"]
        copied = metadata.get("labels", {}).keys() & TRACKING_LABELS.keys()
        copied |= metadata.get("annotations", {}).keys() & TRACKING_ANNOTATIONS.keys()
        assert copied == set(), (obj["kind"], metadata["name"])


def established(crd: Json) -> bool:
    """At first a CRD's conditions are null."""
    found = crd.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in found)


@pytest.fixture(scope="module")
def tools() -> Iterator[Cluster]:
    """A namespace, and the CRDs of Argo CD and Flux."""
    definitions = [crd for module in (ARGO_CD, *FLUX) for crd in crds(*module)]
    names = [crd["metadata"]["name"] for crd in definitions]
    with fresh_namespace() as made:
        # Argo CD's are too large for the annotation of a client-side apply.
        made.kubectl("apply", "--server-side", "--filename=-", input=applied(definitions))
        for name in names:
            made.wait("crd", name, established, "served")
        yield made
        made.kubectl("delete", "--wait=false", "crd", *names)


def refused(cluster: Cluster, objects: list[Json]) -> str:
    for obj in objects:
        obj["metadata"]["namespace"] = cluster.namespace
    strict = ("apply", "--dry-run=server", "--validate=strict", "--filename=-")
    return cluster.kubectl(*strict, input=applied(objects), check=False).stderr


@pytest.mark.parametrize("folder", ["argo-cd", "flux"])
def test_the_samples_for_the_tools_are_valid_there(tools: Cluster, folder: str) -> None:
    assert refused(tools, kustomized(tools, folder)) == ""


def applications(cluster: Cluster) -> list[Json]:
    """What the ApplicationSet's controller makes of it."""
    found = next(o for o in kustomized(cluster, "argo-cd") if o["kind"] == "ApplicationSet")
    made = []
    for element in found["spec"]["generators"][0]["list"]["elements"]:
        text = yaml.safe_dump(found["spec"]["template"])
        for name, value in element.items():
            text = text.replace(f"{{{{ .{name} }}}}", value)
        head = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application"}
        made.append(head | yaml.safe_load(text))
    return made


def test_the_applications_are_valid_and_lead_somewhere(tools: Cluster) -> None:
    made = applications(tools)
    assert [app["metadata"]["name"] for app in made] == ["research-staging", "research-production"]
    for app in made:
        for source in app["spec"]["sources"]:
            assert (GITOPS / source["path"]).is_dir(), source
    assert "{{" not in yaml.safe_dump(made)
    assert refused(tools, made) == ""


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_team_s_objects_are_valid(cluster: Cluster, environment: str) -> None:
    assert refused(cluster, kustomized(cluster, f"team/{environment}")) == ""


def test_the_hook_is_valid_and_its_name_fits(cluster: Cluster) -> None:
    hook = documents(GITOPS / "argo-cd/hooks/smoke-test.yaml")[0]
    # <generateName><revision>-<phase>-<seconds>, as Argo CD's sync has it.
    name = hook["metadata"].pop("generateName") + "abcdef0-postsync-1767225600"
    hook["metadata"]["name"] = name
    assert refused(cluster, [hook]) == ""


def test_the_health_checks_are_merged_into_argo_cd_s_configuration(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "labels": {"app.kubernetes.io/part-of": "argocd"}},
        "data": {"url": "https://argo.example.com"},
    }
    (tmp_path / "argocd-cm.yaml").write_text(yaml.safe_dump(config))
    component = GITOPS / "argo-cd/health-checks"
    for file in component.iterdir():
        (tmp_path / "checks").mkdir(exist_ok=True)
        (tmp_path / "checks" / file.name).write_text(file.read_text())
    kustomization = {"resources": ["argocd-cm.yaml"], "components": ["checks"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = yaml.safe_load(cluster.kubectl("kustomize", str(tmp_path)).stdout)
    assert built["data"].pop("url") == "https://argo.example.com"
    assert len(built["data"]) == 7
    cluster.apply(yaml.safe_dump(config))
    patch = f"--patch-file={component / 'argocd-cm.yaml'}"
    cluster.kubectl("patch", "configmap", "argocd-cm", patch)
    assert cluster.get("configmap", "argocd-cm")["data"].items() >= built["data"].items()
