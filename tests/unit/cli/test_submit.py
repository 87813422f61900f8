"""Runs made of files, templates, crons and earlier runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import DEMO, WORKFLOWS, Api
from tests.unit.cli.test_cluster import MANIFEST, SPEC, finished, written

TEMPLATES = f"{DEMO}/workflowtemplates"
PARAMETERS = {
    "type": "object",
    "required": ["topic"],
    "properties": {"topic": {"type": "string"}, "count": {"type": "integer"}},
}
ABOUT = {"apiVersion": "corral.dev/v1alpha1"}
TEMPLATE = {
    **ABOUT,
    "kind": "WorkflowTemplate",
    "metadata": {"name": "report"},
    "spec": {**SPEC, "parameters": PARAMETERS},
}


@pytest.fixture
def template(api: Api) -> dict[str, Any]:
    return api.put(f"{TEMPLATES}/report", TEMPLATE)


def sent(api: Api) -> dict[str, Any]:
    """The Workflow that was sent last."""
    bodies = [body for method, path, body in api.asked if (method, path) == ("POST", WORKFLOWS)]
    body: dict[str, Any] = bodies[-1]
    return body


def test_a_run_of_a_template_refers_to_it_and_says_who_made_it(
    api: Api, corral: Corral, template: object
) -> None:
    code, out, err = corral("submit", "--from", "template/report", "-p", "topic=x", "-p", "count=2")
    assert (code, err) == (0, "")
    assert out == "workflow.corral.dev/report-abcde created in namespace demo\n"
    assert sent(api) == {
        **ABOUT,
        "kind": "Workflow",
        "metadata": {
            "generateName": "report-",
            "namespace": "demo",
            "annotations": {"corral.dev/created-by": "ann"},
        },
        "spec": {
            "workflowTemplateRef": {"name": "report"},
            "arguments": {"topic": "x", "count": 2},
        },
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "parameter 'topic': must be given"),
        (["-p", "topic=x", "-p", "count=two"], "parameter 'count': 'two' is not of type"),
        (["-p", "tpoic=x"], "did you mean 'topic'"),
    ],
)
def test_wrong_parameters_are_told_and_nothing_is_sent(
    api: Api, corral: Corral, template: object, words: list[str], said: str
) -> None:
    code, out, err = corral("submit", "--from", "template/report", *words)
    assert (code, out) == (4, "")
    assert said in err
    assert not any(method == "POST" for method, _, _ in api.asked)


def test_who_cannot_be_told_is_not_written_down(api: Api, corral: Corral, template: object) -> None:
    api.user = ""
    assert corral("submit", "--from", "template/report", "-p", "topic=x")[0] == 0
    assert "annotations" not in sent(api)["metadata"]


def test_a_run_of_a_cron_has_its_spec_now(api: Api, corral: Corral) -> None:
    spec = {"schedule": "@daily", "workflowSpec": {**SPEC, "arguments": {"topic": "a"}}}
    api.put(f"{DEMO}/cronworkflows/nightly", {"metadata": {"name": "nightly"}, "spec": spec})
    code, out, _ = corral(
        "submit", "--from", "cron/nightly", "--name", "now", "-p", "topic=b", "-o", "name"
    )
    assert (code, out) == (0, "workflow.corral.dev/now\n")
    assert sent(api)["metadata"]["name"] == "now"
    assert sent(api)["spec"] == {**SPEC, "arguments": {"topic": "b"}}


def test_a_run_of_a_run_keeps_labels_but_not_what_tools_put_there(api: Api, corral: Corral) -> None:
    metadata = {
        "name": "w",
        "labels": {"team": "red", "app.kubernetes.io/instance": "x"},
        "annotations": {
            "argocd.argoproj.io/tracking-id": "x",
            "corral.dev/created-by": "bob",
            "corral.dev/correlation-id": "c-1",
        },
    }
    old = {**MANIFEST, "metadata": metadata, "spec": {**SPEC, "suspend": True, "shutdown": "Stop"}}
    api.put(f"{WORKFLOWS}/w", old)
    assert corral("submit", "--from", "workflow/w")[0] == 0
    assert sent(api)["spec"] == SPEC
    assert sent(api)["metadata"] == {
        "generateName": "w-",
        "namespace": "demo",
        "labels": {"team": "red"},
        "annotations": {"corral.dev/correlation-id": "c-1", "corral.dev/created-by": "ann"},
    }


def test_a_files_workflow_is_sent_alone_with_its_arguments_replaced(
    api: Api, corral: Corral, tmp_path: Path
) -> None:
    spec = {"steps": [{"name": "one", "transform": "$(arguments.topic)"}]}
    model = {**ABOUT, "kind": "Model", "metadata": {"name": "m"}, "spec": {"provider": "simulated"}}
    file = written(tmp_path, {**MANIFEST, "spec": spec}, model)
    code, out, err = corral("submit", file, "-p", "topic=12")
    assert (code, out) == (0, "workflow.corral.dev/w created in namespace demo\n")
    assert err == "note: 1 other object of the files is not sent; corral run applies them\n"
    assert sent(api)["spec"]["arguments"] == {"topic": 12}
    assert [path for method, path, _ in api.asked if method != "GET"] == [WORKFLOWS]


def test_a_name_that_is_taken_is_told(api: Api, corral: Corral, tmp_path: Path) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)
    code, _, err = corral("submit", written(tmp_path, MANIFEST))
    assert code == 4
    assert "there is one of that name in namespace 'demo'; choose another by --name" in err


def test_a_client_dry_run_prints_what_would_be_sent(
    api: Api, corral: Corral, template: object
) -> None:
    words = ["submit", "--from", "template/report", "-p", "topic=x", "--dry-run", "client"]
    code, out, _ = corral(*words, "-o", "yaml")
    assert code == 0
    assert yaml.safe_load(out)["spec"]["arguments"] == {"topic": "x"}
    assert not any(method == "POST" for method, _, _ in api.asked)
    assert "created in namespace demo (dry run)" in corral(*words)[1]


def test_a_server_dry_run_asks_the_api_server_and_changes_nothing(
    api: Api, corral: Corral, template: object
) -> None:
    words = ["submit", "--from", "template/report", "-p", "topic=x", "--dry-run", "server"]
    code, out, _ = corral(*words)
    assert (code, out.split(" (")[1]) == (0, "server dry run)\n")
    assert api.queries[-1]["dryRun"] == ["All"]
    assert not any(path.startswith(WORKFLOWS) for path in api.objects)


@pytest.mark.parametrize("option", ["--watch", "--wait"])
@pytest.mark.parametrize("form", ["tree", "json", "name"])
def test_the_end_can_be_waited_for(
    api: Api, corral: Corral, template: object, option: str, form: str
) -> None:
    metadata = {"name": "report-abcde", "namespace": "demo", "resourceVersion": "2"}
    done = {"metadata": metadata, "spec": SPEC, "status": finished()}
    api.watches = [[{"type": "MODIFIED", "object": done}]]
    words = ["submit", "--from", "template/report", "-p", "topic=x", option, "-o", form]
    code, out, _ = corral(*words, "--timeout", "20s")
    assert code == 0
    if form == "tree":
        assert "Phase     Succeeded" in out
        assert ("Workflow report-abcde: Pending" in out) is (option == "--watch")
    if form == "json":
        assert json.loads(out)["status"]["phase"] == "Succeeded"
    if form == "name":
        assert out == "workflow.corral.dev/report-abcde\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either FILEs or --from"),
        (["x.yaml", "--from", "template/report"], "either FILEs or --from"),
        (["--from", "report"], "must be template/NAME, cron/NAME or workflow/NAME"),
        (["--from", "agent/a"], "a Agent is nothing to run"),
        (["--from", "tempalte/report"], "there is no kind 'tempalte'"),
        (["--from", "template/report", "--watch", "--wait"], "exclude each other"),
        (["--from", "template/report", "--watch", "--dry-run", "client"], "nothing to wait for"),
        (["--from", "template/report", "--name", "a", "--generate-name", "b"], "exclude"),
        (["--from", "template/report", "--timeout", "1m"], "--timeout needs --watch or --wait"),
    ],
)
def test_what_excludes_each_other_is_wrong_usage(
    corral: Corral, words: list[str], said: str
) -> None:
    code, out, err = corral("submit", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_a_template_that_is_not_there_is_told_with_the_nearest(
    corral: Corral, template: object
) -> None:
    code, _, err = corral("submit", "--from", "template/repotr")
    assert code == 1
    assert "no WorkflowTemplate 'repotr' in namespace 'demo'; did you mean 'report'?" in err


def over(phase: str) -> dict[str, Any]:
    return {**finished(), "phase": phase}


def test_a_retry_takes_the_old_run_over(api: Api, corral: Corral) -> None:
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "status": over("Failed")})
    code, out, _ = corral("retry", "w")
    assert (code, out) == (0, "workflow.corral.dev/w-abcde created in namespace demo\n")
    assert sent(api)["spec"] == {**SPEC, "retryOf": {"name": "w"}}
    retried = {"name": "w-abcde", "generateName": "w-"}
    again = {**MANIFEST, "metadata": retried, "status": over("Stopped")}
    again["spec"] = {**SPEC, "retryOf": {"name": "w"}}
    api.put(f"{WORKFLOWS}/w-abcde", again)
    assert corral("retry", "w-abcde", "--name", "third")[0] == 0
    assert sent(api)["spec"]["retryOf"] == {"name": "w-abcde"}
    assert sent(api)["metadata"]["name"] == "third"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, "has not ended (Pending); corral stop w ends it"),
        ({"phase": "Running"}, "has not ended (Running)"),
        (over("Succeeded"), "nothing to retry; corral resubmit w runs it again"),
    ],
)
def test_what_has_not_failed_cannot_be_retried(
    api: Api, corral: Corral, status: dict[str, Any], said: str
) -> None:
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "status": status})
    code, _, err = corral("retry", "w")
    assert code == 1
    assert said in err


def test_a_resubmitted_run_begins_again_with_other_arguments(api: Api, corral: Corral) -> None:
    spec = {**SPEC, "arguments": {"a": 1, "b": "x"}, "retryOf": {"name": "older"}}
    api.put(f"{WORKFLOWS}/w", {**MANIFEST, "spec": spec, "status": over("Succeeded")})
    assert corral("resubmit", "w", "-p", "a=2")[0] == 0
    assert sent(api)["spec"] == {**SPEC, "arguments": {"a": 2, "b": "x"}}
    assert corral("resubmit", "w", "-p", "c=2")[0] == 4


def test_run_takes_parameters_that_the_file_lacks(api: Api, corral: Corral, tmp_path: Path) -> None:
    spec = {"steps": [{"name": "one", "transform": "$(arguments.topic)"}]}
    file = written(tmp_path, {**MANIFEST, "spec": spec})
    assert corral("run", "--no-follow", file)[0] == 4
    assert corral("run", "--no-follow", "-p", "topic=x", file)[0] == 0
    assert sent(api)["spec"]["arguments"] == {"topic": "x"}


def test_run_checks_the_parameters_of_a_template_in_the_files(
    api: Api, corral: Corral, tmp_path: Path
) -> None:
    spec = {"workflowTemplateRef": {"name": "report"}}
    file = written(tmp_path, TEMPLATE, {**MANIFEST, "spec": spec})
    code, _, err = corral("run", "--no-follow", "-p", "count=2", file)
    assert code == 4
    assert "parameter 'topic': must be given" in err
    assert api.asked == []
    assert corral("run", "--no-follow", "-p", "topic=2", file)[0] == 0
    assert sent(api)["spec"]["arguments"] == {"topic": "2"}
