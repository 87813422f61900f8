"""The commands that talk to a cluster, against a server that speaks just enough of its protocol."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.cli.change import change
from corral.cli.cluster import Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.get import get
from corral.cli.history import Filter
from corral.cli.logs import logs
from corral.cli.run import Options, run_in_cluster
from corral.plan.observed import Pass, Slot
from corral.plan.state import Run, Worker
from corral.plan.status import status_of
from corral.plan.workflow import plan
from tests.unit.cli.fake_cluster import ROOT, WORKFLOWS, Api, kubeconfig

SPEC = {"steps": [{"name": "one", "transform": "hello"}], "output": "$(steps.one.output)"}
MANIFEST = {
    "apiVersion": "corral.dev/v1alpha1",
    "kind": "Workflow",
    "metadata": {"name": "w"},
    "spec": SPEC,
}


def finished() -> dict[str, Any]:
    """What the planner makes of SPEC."""
    run = Run(run_id="run-1")
    spec = WorkflowSpec.model_validate(SPEC)
    p = Pass("w", "demo", spec, run, {}, 1_767_225_600.0)
    plan(
        p,
        lambda wants: {want.attempt_id: Slot(Worker(pod="", uid="", url=""), "") for want in wants},
    )
    return status_of(p, WorkflowStatus(), 1).to_json()


def written(tmp_path: Path, *objects: dict[str, Any]) -> str:
    file = tmp_path / "w.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return str(file)


def event(kind: str, status: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "w", "namespace": "demo", "uid": "u", "resourceVersion": "2"}
    return {"type": kind, "object": {**MANIFEST, "metadata": metadata, "status": status}}


def test_run_applies_what_the_workflow_needs_creates_it_and_follows_it(
    api: Api, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": "m"},
        "spec": {"provider": "simulated"},
    }
    api.watches = [
        [{"type": "ERROR", "object": {"code": 410}}],
        [event("BOOKMARK", {}), event("MODIFIED", finished())],
    ]
    file = written(tmp_path, MANIFEST, model)
    assert run_in_cluster(lambda: cluster, [file], Options(timeout=20)) is Exit.OK
    asked = [(method, path) for method, path, _ in api.asked]
    assert asked[0] == ("PATCH", f"{ROOT}/namespaces/demo/models/m")
    assert asked[1] == ("POST", WORKFLOWS)
    shown = capsys.readouterr().out
    assert "└─ ✓ one   Succeeded" in shown
    assert "  hello" in shown


def test_run_without_following_says_what_was_made(
    api: Api, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(follow=False, generate_name=True)
    assert run_in_cluster(lambda: cluster, [written(tmp_path, MANIFEST)], options) is Exit.OK
    assert capsys.readouterr().out == "workflow.corral.dev/w-abcde created in namespace demo\n"


def test_the_time_to_follow_can_be_limited_and_the_run_goes_on(
    api: Api, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(timeout=0.2)
    assert run_in_cluster(lambda: cluster, [written(tmp_path, MANIFEST)], options) is Exit.TIMEOUT
    assert "corral stop w -n demo" in capsys.readouterr().out
    assert f"{WORKFLOWS}/w" in api.objects


def test_a_run_that_exists_is_not_touched_unless_it_is_to_be_replaced(
    api: Api, cluster: Cluster, tmp_path: Path
) -> None:
    file = written(tmp_path, MANIFEST)
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "status": finished()})
    with pytest.raises(
        CliError, match=r"exists in namespace 'demo' and has ended \(Succeeded\)"
    ) as no:
        run_in_cluster(lambda: cluster, [file], Options())
    assert no.value.code is Exit.REFUSED
    replaced = Options(replace=True, follow=False)
    assert run_in_cluster(lambda: cluster, [file], replaced) is Exit.OK
    assert "status" not in api.objects[f"{WORKFLOWS}/w"]


def test_what_the_api_server_refuses_is_code_4(api: Api, cluster: Cluster, tmp_path: Path) -> None:
    api.refusals["POST", WORKFLOWS] = (
        422,
        {"message": "spec.steps: too many", "reason": "Invalid"},
    )
    with pytest.raises(CliError, match="steps: too many") as raised:
        run_in_cluster(lambda: cluster, [written(tmp_path, MANIFEST)], Options())
    assert raised.value.code is Exit.REFUSED


def test_a_run_that_is_deleted_meanwhile_ends_the_following(
    api: Api, cluster: Cluster, tmp_path: Path
) -> None:
    api.watches = [[event("DELETED", {})]]
    with pytest.raises(CliError, match="Workflow 'w' was deleted"):
        run_in_cluster(lambda: cluster, [written(tmp_path, MANIFEST)], Options(timeout=20))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"shutdown": "Stop"}, {**SPEC, "suspend": True, "shutdown": "Stop"}),
        ({"suspend": None}, SPEC),
    ],
)
def test_changes_are_merge_patches_of_single_fields(
    api: Api, cluster: Cluster, fields: dict[str, object], expected: dict[str, Any]
) -> None:
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "spec": {**SPEC, "suspend": True}})
    assert change(cluster, "demo", "w", fields, "is changed", "text") is Exit.OK
    assert api.asked[-1] == ("PATCH", f"{WORKFLOWS}/w", {"spec": fields})
    assert api.objects[f"{WORKFLOWS}/w"]["spec"] == expected


def test_what_has_ended_cannot_be_stopped(api: Api, cluster: Cluster) -> None:
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "status": finished()})
    with pytest.raises(CliError, match="Workflow 'w' has ended: Succeeded"):
        change(cluster, "demo", "w", {"shutdown": "Stop"}, "", "text")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"reason": "NotFound", "details": {"name": "w"}}, "no Workflow 'w' in namespace"),
        (404, {"reason": "NotFound", "details": {}}, "its CRDs are not installed"),
        (403, {"message": "workflows is forbidden"}, "no rights: workflows is forbidden"),
        (401, {"message": "Unauthorized"}, "does not accept these credentials"),
        (503, {}, "HTTP 503"),
    ],
)
def test_a_refusal_is_one_sentence(
    api: Api, cluster: Cluster, status: int, body: dict[str, Any], words: str
) -> None:
    api.refusals["GET", f"{WORKFLOWS}/w"] = (status, body)
    with pytest.raises(CliError, match=words) as raised:
        change(cluster, "demo", "w", {"suspend": True}, "", "text")
    assert raised.value.code is Exit.FAILED


def test_a_cluster_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"127.0.0.1:1 can't be reached: Connection refused"):
        get(Cluster.connect(kubeconfig(tmp_path, 1)), "workflows", None, "demo", "table")


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (
            "table",
            ["NAME   PHASE       PROGRESS   COST   AGE", "w      Succeeded   1/1        -      -"],
        ),
        (
            "wide",
            [
                "NAME   PHASE       PROGRESS   COST   TOKENS   AGE   MESSAGE",
                "w      Succeeded   1/1        -      -        -     -",
            ],
        ),
    ],
)
def test_get_shows_a_table(
    api: Api,
    cluster: Cluster,
    form: str,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "status": finished()})
    assert get(cluster, "cwf", None, "demo", form) is Exit.OK
    assert capsys.readouterr().out.splitlines() == lines


def test_logs_show_the_record_and_the_lines_of_this_run_only(
    api: Api, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [{"name": "one", "agentRef": {"name": "a"}}]
    status = {**finished(), "runID": "run-1"}
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "spec": {"steps": steps}, "status": status})
    pods = "/api/v1/namespaces/demo/pods"
    api.put(f"{pods}/p", {"metadata": {"name": "p"}})
    lines = [
        {"time": "t1", "level": "info", "message": "mine", "attempt": "run-1.one.0.1.1"},
        {"time": "t2", "level": "info", "message": "another's", "attempt": "run-10.one.0.1.1"},
    ]
    api.logs[f"{pods}/p/log"] = "\n".join([*map(json.dumps, lines), "no JSON"])
    assert logs(cluster, "demo", "w", Filter(), False, "text") is Exit.OK
    shown = capsys.readouterr().out
    assert "one: Succeeded" in shown
    assert "\n    hello\n" in shown
    assert "t1  p  INFO  mine  (run-1.one.0.1.1)" in shown
    assert "another's" not in shown
    with pytest.raises(CliError, match="has no step 'two'"):
        logs(cluster, "demo", "w", Filter("two"), False, "text")
