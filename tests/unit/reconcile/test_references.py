"""Who is woken when something else changes."""

from typing import Any

import pytest

from corral.reconcile.references import parents_of, runs_template


def owned(kind: str, *, controller: bool = True, group: str = "corral.dev") -> dict[str, Any]:
    owner = {"apiVersion": f"{group}/v1alpha1", "kind": kind, "name": "p", "controller": controller}
    return {"metadata": {"name": "w", "ownerReferences": [owner]}, "spec": {}}


def test_a_child_tells_the_workflow_that_made_it_at_every_change() -> None:
    assert list(parents_of(owned("Workflow"), gone=False)) == [("workflows", "p")]


def test_a_run_tells_its_cron_only_of_its_end() -> None:
    run = owned("CronWorkflow")
    assert list(parents_of(run, gone=False)) == []
    assert list(parents_of(run, gone=True)) == [("cronworkflows", "p")]
    run["status"] = {"finishedAt": "2026-06-01T12:00:00Z"}
    assert list(parents_of(run, gone=False)) == [("cronworkflows", "p")]


def test_other_owners_are_not_told() -> None:
    assert list(parents_of(owned("Workflow", controller=False), gone=True)) == []
    assert list(parents_of(owned("Workflow", group="argoproj.io"), gone=True)) == []
    assert list(parents_of(owned("Deployment"), gone=True)) == []
    assert list(parents_of({"metadata": {"name": "w"}}, gone=True)) == []


CALL = {"name": "a", "workflow": {"templateRef": {"name": "t"}}}
USES: dict[str, tuple[dict[str, Any], bool]] = {
    "itself": ({"workflowTemplateRef": {"name": "t"}}, True),
    "in a step": ({"steps": [{"name": "b", "transform": "x"}, CALL]}, True),
    "in a nested step": ({"steps": [{"name": "b", "steps": [CALL]}]}, True),
    "at its exit": ({"steps": [{"name": "b", "transform": "x"}], "onExit": [CALL]}, True),
    "not at all": ({"steps": [{"name": "b", "transform": "x"}]}, False),
    "another": ({"workflowTemplateRef": {"name": "u"}}, False),
}


@pytest.mark.parametrize("what", USES)
def test_finds_the_template_that_a_workflow_names(what: str) -> None:
    spec, uses = USES[what]
    assert runs_template({"metadata": {"name": "w"}, "spec": spec}, "t") is uses


def test_what_has_ended_waits_for_no_template() -> None:
    ended = {"metadata": {"name": "w"}, "spec": {"workflowTemplateRef": {"name": "t"}}}
    ended["status"] = {"finishedAt": "2026-06-01T12:00:00Z"}
    assert not runs_template(ended, "t")
