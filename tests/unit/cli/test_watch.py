"""``corral watch`` and the new kinds of ``corral get``."""

import json
from typing import Any

import pytest

from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import DEMO, WORKFLOWS, Api
from tests.unit.cli.test_cluster import MANIFEST, SPEC, event, finished


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1), ("Stopped", 3)])
def test_the_exit_code_tells_the_end(api: Api, corral: Corral, phase: str, code: int) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)
    api.watches = [[event("MODIFIED", {**finished(), "phase": phase})]]
    found, out, _ = corral("watch", "w", "--timeout", "20s")
    assert found == code
    assert f"Phase     {phase}" in out


def test_json_is_a_line_per_change(api: Api, corral: Corral) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)
    api.watches = [[event("MODIFIED", {"phase": "Running"}), event("MODIFIED", finished())]]
    code, out, _ = corral("watch", "w", "-o", "json")
    assert code == 0
    phases = [json.loads(line).get("status", {}).get("phase") for line in out.splitlines()]
    assert phases == [None, "Running", "Succeeded"]
    assert json.loads(out.splitlines()[0])["kind"] == "Workflow"


def test_watching_can_be_limited(api: Api, corral: Corral) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)
    assert corral("watch", "w", "--timeout", "200ms")[0] == 5


def test_what_is_not_there_cannot_be_watched(api: Api, corral: Corral) -> None:
    api.put(f"{WORKFLOWS}/report", MANIFEST | {"metadata": {"name": "report"}})
    code, _, err = corral("watch", "repotr")
    assert code == 1
    assert "there is no Workflow 'repotr' in namespace 'demo'; did you mean 'report'?" in err


OBJECTS: dict[str, dict[str, Any]] = {
    "workflowtemplates": {
        **SPEC,
        "parameters": {
            "required": ["topic", "depth"],
            "properties": {"topic": {}, "depth": {"default": 1}, "tone": {}},
        },
    },
    "cronworkflows": {"schedule": "@daily", "workflowSpec": SPEC},
    "approvalrequests": {
        "workflowRef": {"name": "w", "uid": "u"},
        "step": "review",
        "prompt": "Go\non?",
        "decision": {"verdict": "Approve", "by": "ann"},
    },
}


@pytest.mark.parametrize(
    ("word", "plural", "header", "line"),
    [
        ("cwft", "workflowtemplates", "NAME STEPS PARAMETERS AGE", "x 1 topic*, depth, tone -"),
        (
            *("crons", "cronworkflows"),
            "NAME SCHEDULE ZONE SUSPENDED ACTIVE NEXT AGE",
            "x @daily UTC no 0 - -",
        ),
        (
            *("capproval", "approvalrequests"),
            "NAME WORKFLOW STEP VERDICT BY AGE",
            "x w review Approve ann -",
        ),
    ],
)
def test_get_knows_templates_crons_and_approvals(
    api: Api, corral: Corral, word: str, plural: str, header: str, line: str
) -> None:
    api.put(f"{DEMO}/{plural}/x", {"metadata": {"name": "x"}, "spec": OBJECTS[plural]})
    code, out, _ = corral("get", word)
    assert code == 0
    assert [" ".join(text.split()) for text in out.splitlines()] == [header, line]
    name = f"{plural.removesuffix('s')}.corral.dev/x\n"
    assert corral("get", word, "-o", "name")[1] == name
    assert corral("get", f"{word}/x", "-o", "name")[1] == name
    assert json.loads(corral("get", f"{word}/x", "-o", "json")[1])["spec"] == OBJECTS[plural]


def test_objects_can_be_chosen_by_label(api: Api, corral: Corral) -> None:
    assert corral("get", "-l", "team=red")[0] == 0
    assert api.queries[-1] == {"labelSelector": ["team=red"]}
    assert corral("get", "workflow", "w", "-l", "team=red")[0] == 2


@pytest.mark.parametrize("before", [["-n", "demo"], ["--namespace=demo"], []])
def test_where_may_be_said_before_the_command(
    api: Api, corral: Corral, before: list[str], config: str
) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)
    words = [*before, "--kubeconfig", config, "get", "-o", "name"]
    assert corral(*words, cluster=False)[:2] == (0, "workflow.corral.dev/w\n")
