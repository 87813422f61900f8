"""``corral output``: which value it is, where it is from, what is said where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from corral.api.workflow import StepPhase, WorkflowPhase
from corral.cli.artifact import Wanted, output
from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.plan.artifacts import Reference, reference_of
from corral.plan.state import Node, Run, Step, Stored, to_journal

RUN = "3f0c3c1e-6c4f-4f2e-9a53-0d2a6f1f8d10"
EARLIER = "11111111-6c4f-4f2e-9a53-0d2a6f1f8d10"
LARGE = {"text": "größer " * 400}
DONE = StepPhase.SUCCEEDED


class Fake(Cluster):
    """A cluster with one Workflow, and what the operator serves."""

    def __init__(self, run: Run, shown: Any = None, **spec: Any) -> None:
        status = {"runID": RUN, "journal": to_journal(run), "output": shown, "phase": "Running"}
        self._workflow = {
            "metadata": {"name": "report", "namespace": "team"},
            "spec": {
                "steps": [{"name": n, "agentRef": {"name": "a"}} for n in run.steps or ["a"]],
                **spec,
            },
            "status": {key: value for key, value in status.items() if value is not None},
        }
        self.artifacts: dict[str, bytes] = {}
        self.error: ApiError | None = None

    def stored(self, value: Any, run_id: str = RUN) -> Stored:
        reference, content = reference_of(value, "team", run_id)
        self.artifacts[path(reference)] = content
        other = None if run_id == RUN else run_id
        return Stored(sha256=reference.sha256, size=reference.size, run_id=other)

    def put(self, run: Run) -> None:
        self._workflow["status"]["journal"] = to_journal(run)

    def get(self, *_: Any) -> dict[str, Any]:
        return self._workflow

    def read(self, path: str) -> bytes:
        if self.error:
            raise self.error
        if path not in self.artifacts:
            raise ApiError(404, "", "there is no such artifact", {})
        return self.artifacts[path]


def path(reference: Reference, namespace: str = "corral-system") -> str:
    service = f"/api/v1/namespaces/{namespace}/services/corral-operator:artifacts"
    return f"{service}/proxy/artifacts/{reference.path}"


def a_run(**steps: Step) -> Run:
    return Run(run_id=RUN, phase=WorkflowPhase.RUNNING, steps=steps)


def printed(capsys: pytest.CaptureFixture[str], cluster: Cluster, **wanted: Any) -> str:
    assert output(cluster, "team", "report", Wanted(**wanted)) == Exit.OK
    return capsys.readouterr().out


def refused(cluster: Cluster, **wanted: Any) -> CliError:
    with pytest.raises(CliError) as caught:
        output(cluster, "team", "report", Wanted(**wanted))
    return caught.value


def test_a_small_output_comes_from_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Fake(a_run(), shown={"a": 1}, output="$(x)")
    assert json.loads(printed(capsys, cluster)) == {"a": 1}
    assert printed(capsys, cluster, form="raw") == '{"a":1}'
    assert printed(capsys, Fake(a_run(), shown="a\ntext"), form=None) == "a\ntext\n"
    assert printed(capsys, Fake(a_run(), shown="a\ntext"), form="raw") == "a\ntext"
    assert printed(capsys, Fake(a_run(), shown="a\ntext"), form="json") == '"a\\ntext"\n'


def test_a_large_output_is_fetched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cluster = Fake(a_run(), output="$(x)")
    run = a_run()
    run.output_stored = cluster.stored(LARGE)
    cluster.put(run)
    assert json.loads(printed(capsys, cluster)) == LARGE
    file = tmp_path / "out.json"
    assert printed(capsys, cluster, form=str(file)) == ""
    assert json.loads(file.read_text()) == LARGE
    error = refused(cluster, form=str(tmp_path / "none" / "out.json"))
    assert (error.code, "No such file" in error.message) == (Exit.USAGE, True)


def test_what_only_looks_like_a_reference_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    reference, _ = reference_of(LARGE, "team", RUN)
    cluster = Fake(a_run(), shown=reference.to_json(), output="$(x)")
    assert json.loads(printed(capsys, cluster)) == reference.to_json()


def test_outputs_of_steps_items_and_nested_steps(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Fake(a_run())
    inner = Step(phase=DONE, nodes=[Node(phase=DONE, output="deep")])
    items = [
        Node(phase=DONE, output="zero"),
        Node(phase=StepPhase.FAILED),
        Node(phase=DONE, stored=cluster.stored(LARGE, EARLIER)),
    ]
    run = a_run(
        plan=Step(phase=DONE, nodes=[Node(phase=DONE, output={"a": 1})]),
        research=Step(phase=DONE, nodes=items, items=[1, 2, 3]),
        outer=Step(
            phase=StepPhase.RUNNING,
            items=[1],
            nodes=[Node(phase=StepPhase.RUNNING, steps={"inner": inner})],
        ),
    )
    cluster.put(run)
    assert json.loads(printed(capsys, cluster, step="plan")) == {"a": 1}
    assert printed(capsys, cluster, step="research", item=0) == "zero\n"
    assert printed(capsys, cluster, step="research[0]") == "zero\n"
    assert json.loads(printed(capsys, cluster, step="research", item=2)) == LARGE
    assert json.loads(printed(capsys, cluster, step="research")) == ["zero", LARGE]
    assert printed(capsys, cluster, step="outer[0].inner") == "deep\n"


RUNNING = a_run(
    plan=Step(phase=StepPhase.RUNNING, nodes=[Node(phase=StepPhase.RUNNING)]),
    research=Step(
        phase=StepPhase.RUNNING,
        nodes=[Node(phase=StepPhase.FAILED), Node(phase=StepPhase.QUEUED)],
        items=[1, 2],
    ),
    ended=Step(phase=DONE, nodes=[Node(phase=DONE, output=1)], items=[1]),
)


@pytest.mark.parametrize(
    ("wanted", "message", "code"),
    [
        ({}, "declares no output", 1),
        ({"step": "plan"}, "step 'plan' is Running and has no output", 1),
        ({"step": "plam"}, "no step 'plam'", 1),
        ({"step": "plan", "item": 0}, "is no fan-out", 2),
        ({"step": "research"}, "is Running; --item shows", 1),
        ({"step": "research", "item": 0}, "item 0, is Failed", 1),
        ({"step": "ended", "item": 7}, "no item 7: it has 1 items", 1),
        ({"step": "research[0]", "item": 1}, "two different items", 2),
        ({"step": "research.inner"}, "say which item", 2),
        ({"step": "a..b"}, "is not STEP", 2),
    ],
)
def test_where_there_is_none_it_says_why(wanted: dict[str, Any], message: str, code: int) -> None:
    error = refused(Fake(RUNNING), **wanted)
    assert message in error.message
    assert error.code == code


def test_a_run_that_has_not_come_to_its_output_is_told_from_one_without() -> None:
    assert "is Running and has no output" in refused(Fake(a_run(), output="$(x)")).message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ApiError(403, "Forbidden", "no rights: x", {}), "Role corral-artifact-reader"),
        (ApiError(404, "NotFound", "no", {"name": "corral-operator"}), "--operator-namespace"),
        (ApiError(404, "", "no such artifact", {}), "is not in the artifact store"),
        (ApiError(503, "", "no answer within 5 s", {}), "can't be read: no answer within 5 s"),
    ],
)
def test_a_store_that_gives_nothing_is_said_in_a_sentence(error: ApiError, message: str) -> None:
    cluster = Fake(a_run(), output="$(x)")
    run = a_run()
    run.output_stored = cluster.stored(LARGE)
    cluster.put(run)
    cluster.error = error
    assert message in refused(cluster).message


def test_damage_on_the_way_is_noticed() -> None:
    cluster = Fake(a_run(), output="$(x)")
    run = a_run()
    run.output_stored = cluster.stored(LARGE)
    cluster.put(run)
    cluster.artifacts = dict.fromkeys(cluster.artifacts, b"{}")
    assert "damaged" in refused(cluster).message
