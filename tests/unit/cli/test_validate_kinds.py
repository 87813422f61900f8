"""Templates, crons and approvals in files; folders with all below; and the API server's word."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.cli.check import check
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import WORKFLOWS, Api
from tests.unit.cli.test_cluster import MANIFEST, written

STEP = {"name": "a", "transform": "$(arguments.topic)"}
PARAMETERS = {
    "type": "object",
    "required": ["topic"],
    "properties": {"topic": {"type": "string"}},
}


def manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    about = {"apiVersion": "corral.dev/v1alpha1", "kind": kind}
    return {**about, "metadata": {"name": name}, "spec": spec}


def template(**spec: Any) -> dict[str, Any]:
    return manifest("WorkflowTemplate", "t", {"parameters": PARAMETERS, "steps": [STEP], **spec})


def of_template(**arguments: Any) -> dict[str, Any]:
    spec = {"workflowTemplateRef": {"name": "t"}, "arguments": arguments}
    return manifest("Workflow", "w", spec)


CRON = {"schedule": "30 7 * * 1-5", "workflowSpec": {"steps": [{"name": "a", "transform": "x"}]}}
APPROVAL = {
    "workflowRef": {"name": "w", "uid": "u"},
    "step": "a",
    "prompt": "?",
    "approvers": [{"kind": "User", "name": "ann"}],
}
BROKEN = {"name": "b", "transform": "$(steps.c.output)"}

CASES: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "a template": ([template()], None),
    "a template without parameters takes any": ([template(parameters=None)], None),
    "a template that takes others": (
        [template(parameters={"additionalProperties": True})],
        None,
    ),
    "a template's parameter that is not there": (
        [template(parameters={"properties": {"tpoic": {}}})],
        "WorkflowTemplate/t: spec.steps[0].transform: step 'a': arguments.topic: "
        "there is no argument 'topic'",
    ),
    "a template's parameters that are no schema": (
        [template(parameters={"type": "objekt"})],
        "spec.parameters: is no JSON Schema",
    ),
    "a run with its template": ([template(), of_template(topic="x")], None),
    "a run without what its template needs": (
        [template(), of_template()],
        "Workflow/w: spec.arguments: parameter 'topic': must be given",
    ),
    "a run of a template that is not here": ([of_template()], None),
    "a cron": ([manifest("CronWorkflow", "c", CRON)], None),
    "a cron with a broken graph": (
        [manifest("CronWorkflow", "c", {**CRON, "workflowSpec": {"steps": [BROKEN]}})],
        "CronWorkflow/c: spec.workflowSpec.steps[0].transform: step 'b': steps.c.output: "
        "there is no step 'c'",
    ),
    "a cron without a schedule": (
        [manifest("CronWorkflow", "c", {"workflowSpec": CRON["workflowSpec"]})],
        "CronWorkflow/c: spec.schedule: must be set",
    ),
    "an approval": ([manifest("ApprovalRequest", "a", APPROVAL)], None),
    "an approval without approvers": (
        [manifest("ApprovalRequest", "a", {**APPROVAL, "approvers": []})],
        "spec.approvers: must not be empty",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_new_kinds_are_checked(case: str, tmp_path: Path) -> None:
    objects, expected = CASES[case]
    plain = [{**o, "spec": {k: v for k, v in o["spec"].items() if v is not None}} for o in objects]
    found = [str(problem) for problem in check([written(tmp_path, *plain)]).problems]
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert expected in found[0]


def test_references_to_templates_are_looked_for(tmp_path: Path) -> None:
    nested = {"name": "o", "steps": [{"name": "i", "workflow": {"templateRef": {"name": "tt"}}}]}
    cron = {"schedule": "@daily", "workflowSpec": {"workflowTemplateRef": {"name": "tx"}}}
    objects = [template(), manifest("Workflow", "w", {"steps": [nested]})]
    objects.append(manifest("CronWorkflow", "c", cron))
    found = [str(f) for f in check([written(tmp_path, *objects)]).findings if f.warning]
    assert any("steps[0].steps[0].workflow.templateRef.name" in line for line in found)
    assert any("spec.workflowSpec.workflowTemplateRef.name" in line for line in found)


def test_folders_are_read_with_all_below_where_that_is_asked_for(tmp_path: Path) -> None:
    for place in ("a", "a/b", "a/.hidden"):
        (tmp_path / place).mkdir(exist_ok=True)
        named = {**MANIFEST, "metadata": {"name": place.replace("/", "-").replace(".", "")}}
        (tmp_path / place / "w.yaml").write_text(yaml.safe_dump(named))
    assert check([str(tmp_path / "a")]).files == 1
    assert check([str(tmp_path / "a")], recursive=True).files == 2


def test_the_api_server_is_asked_without_a_change(api: Api, corral: Corral, tmp_path: Path) -> None:
    file = written(tmp_path, MANIFEST)
    code, out, _ = corral("validate", "--server", file)
    assert (code, out) == (0, "1 object in 1 file: valid\n")
    assert api.asked[-1][:2] == ("PATCH", f"{WORKFLOWS}/w")
    assert api.queries[-1]["dryRun"] == ["All"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"details": {"causes": [{"field": "spec.steps[0].name", "message": "too new"}]}},
            ":7: Workflow/w: spec.steps[0].name: the API server says: too new",
        ),
        (
            {
                "message": "x is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' "
                "denied request: only on weekdays"
            },
            ":1: Workflow/w: the API server says: only on weekdays",
        ),
    ],
)
def test_what_the_api_server_refuses_is_told_where_it_stands(
    api: Api, corral: Corral, tmp_path: Path, body: dict[str, Any], said: str
) -> None:
    api.refusals["PATCH", f"{WORKFLOWS}/w"] = (422, body)
    file = tmp_path / "w.yaml"
    file.write_text(yaml.safe_dump(MANIFEST, sort_keys=False))
    code, out, _ = corral("validate", "--server", str(file))
    assert code == 1
    assert said in out
