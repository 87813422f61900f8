"""What may be deleted after its time, and what is somebody's."""

from typing import Any

import pytest

from corral.plan.retention import due, expiry, keeper, tracked_by
from corral.plan.times import parse

FINISHED = "2026-11-01T12:00:00Z"
ID = "argocd.argoproj.io/tracking-id"


def workflow(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"namespace": "team", "name": "report", **metadata},
    }


def annotated(key: str, value: str = "x") -> dict[str, Any]:
    return workflow(annotations={key: value})


def labelled(*keys: str, **labels: str) -> dict[str, Any]:
    return workflow(labels={**dict.fromkeys(keys, "x"), **labels})


OWNER = {"kind": "CronWorkflow", "name": "nightly", "uid": "u", "controller": True}
MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"

TRACKED = {
    "nothing on it": (workflow(), ""),
    "labels and annotations that say nothing": (
        workflow(labels={"team": "a"}, annotations={"kubectl.kubernetes.io/last-applied": "{}"}),
        "",
    ),
    "no labels and no annotations, as null": (workflow(labels=None, annotations=None), ""),
    "our own labels": (labelled(**{MANAGED_BY: "corral", "app.kubernetes.io/part-of": "c"}), ""),
    "Argo CD's annotation about it": (
        annotated(ID, "apps:corral.dev/Workflow:team/report"),
        "Argo CD",
    ),
    "the annotation of an application in a namespace of its own": (
        annotated(ID, "team-a_apps:corral.dev/Workflow:team/report"),
        "Argo CD",
    ),
    "the annotation of what has a generated name": (
        annotated(ID, "apps:corral.dev/Workflow:team/"),
        "Argo CD",
    ),
    "an annotation that can't be read": (annotated(ID, "apps"), "Argo CD"),
    "the annotation of what it was copied from": (
        annotated(ID, "apps:corral.dev/Workflow:team/other"),
        "",
    ),
    "the annotation of its namesake elsewhere": (
        annotated(ID, "apps:corral.dev/Workflow:prod/report"),
        "",
    ),
    "the annotation of the template that it was made like": (
        annotated(ID, "apps:corral.dev/WorkflowTemplate:team/report"),
        "",
    ),
    "an empty annotation": (annotated(ID, ""), ""),
    "a sync hook": (
        workflow(
            annotations={
                ID: "apps:corral.dev/Workflow:team/",
                "argocd.argoproj.io/hook": "PostSync",
            },
            labels={INSTANCE: "apps"},
        ),
        "",
    ),
    "Argo CD's own label": (labelled("argocd.argoproj.io/instance"), "Argo CD"),
    "the label that Argo CD 2 tracks by": (labelled(INSTANCE), "Argo CD"),
    "Flux' Kustomization": (
        labelled("kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace"),
        "Flux",
    ),
    "Flux' HelmRelease": (
        workflow(
            labels={"helm.toolkit.fluxcd.io/name": "x", MANAGED_BY: "Helm", INSTANCE: "x"},
            annotations={"meta.helm.sh/release-name": "x"},
        ),
        "Flux",
    ),
    "a Helm release": (annotated("meta.helm.sh/release-name"), "Helm"),
    "a Helm hook": (annotated("helm.sh/hook", "post-install"), ""),
    "a chart's labels": (labelled(**{MANAGED_BY: "Helm", INSTANCE: "release"}), "Helm"),
    "a chart that Argo CD applied": (
        workflow(
            labels={MANAGED_BY: "Helm", INSTANCE: "release"},
            annotations={ID: "apps:corral.dev/Workflow:team/report"},
        ),
        "Argo CD",
    ),
}


@pytest.mark.parametrize(("obj", "tool"), TRACKED.values(), ids=TRACKED)
def test_who_tracks(obj: dict[str, Any], tool: str) -> None:
    assert tracked_by(obj) == tool
    assert keeper(obj) == (f"{tool}, which would make it again" if tool else "")
    assert expiry("1h", FINISHED, obj) == (None if tool else parse("2026-11-01T13:00:00Z"))


DUE = {
    "no time was given": (None, FINISHED, None),
    "it has not ended": ("1h", None, None),
    "neither": (None, None, None),
    "an hour": ("1h", FINISHED, "2026-11-01T13:00:00Z"),
    "a week": ("168h", FINISHED, "2026-11-08T12:00:00Z"),
    "less than a second": ("250ms", FINISHED, "2026-11-01T12:00:00.250Z"),
    "a sum": ("1h30m", FINISHED, "2026-11-01T13:30:00Z"),
}


@pytest.mark.parametrize(("ttl", "finished", "moment"), DUE.values(), ids=DUE)
def test_the_time_is_over(ttl: str | None, finished: str | None, moment: str | None) -> None:
    expected = parse(moment) if moment else None
    assert due(ttl, finished) == expected
    assert expiry(ttl, finished, workflow()) == expected


def test_what_somebody_owns_is_the_owners_to_delete() -> None:
    owned = workflow(ownerReferences=[OWNER])
    assert keeper(owned) == "its owner, CronWorkflow nightly"
    assert expiry("1h", FINISHED, owned) is None
    assert due("1h", FINISHED) is not None


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    assert expiry("1h", FINISHED, workflow(deletionTimestamp=FINISHED)) is None


@pytest.mark.parametrize(("ttl", "finished"), [("soon", FINISHED), ("1h", "yesterday")])
def test_a_text_that_is_no_time_is_an_error(ttl: str, finished: str) -> None:
    with pytest.raises(ValueError):
        expiry(ttl, finished, workflow())
