"""What became of steps, items, nested steps and attempts, as ``corral logs`` tells it."""

import json
from typing import Any

import pytest

from corral.api.workflow import StepPhase
from corral.cli.history import Filter, place_of, record_text, records
from corral.cli.view import RunView
from corral.plan.state import Failure, Node, Run, Step, Stored, to_journal
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import WORKFLOWS, Api

T = 1_767_225_600.0
SPEC: dict[str, Any] = {
    "steps": [
        {"name": "plan", "agentRef": {"name": "planner"}},
        {
            "name": "outer",
            "forEach": {"items": ["a", "b"]},
            "steps": [
                {"name": "read", "agentRef": {"name": "reader"}},
                {"name": "ask", "agentRef": {"name": "asker"}, "forEach": {"items": [1, 2]}},
            ],
        },
        {
            "name": "polish",
            "agentRef": {"name": "writer"},
            "loop": {"until": "output > 1", "maxIterations": 3},
        },
    ]
}


def node(phase: StepPhase = StepPhase.SUCCEEDED, **fields: Any) -> Node:
    return Node(phase=phase, attempt=1, started=T, finished=T + 1, **fields)


def run() -> Run:
    inner = {
        "read": Step(phase=StepPhase.SUCCEEDED, nodes=[node(output="text")]),
        "ask": Step(
            phase=StepPhase.SUCCEEDED, items=[1, 2], nodes=[node(output="1"), node(output="2")]
        ),
    }
    failed = Failure(attempt=1, iteration=2, reason="Timeout", message="Too slow.", at=T)
    polished = node(errors=[failed], iteration=2, stored=Stored(sha256="x", size=9999))
    polished.attempt, polished.attempts_before = 2, 1
    return Run(
        run_id="run-1",
        steps={
            "plan": Step(phase=StepPhase.SUCCEEDED, taken_over=True, nodes=[node(output="p")]),
            "outer": Step(
                phase=StepPhase.RUNNING,
                items=["a", "b"],
                nodes=[node(), node(StepPhase.RUNNING, steps=inner)],
            ),
            "polish": Step(phase=StepPhase.SUCCEEDED, nodes=[polished]),
        },
    )


def view() -> RunView:
    return RunView.of({"metadata": {"name": "w", "namespace": "demo"}, "spec": SPEC})


def names(chosen: Filter) -> list[str]:
    return [
        record["step"] + (f"[{record['item']}]" if "item" in record else "")
        for record in records(view(), run(), chosen)
    ]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (
            Filter(),
            [
                *("plan", "outer[0]", "outer[1]"),
                *("outer[1].read", "outer[1].ask[0]", "outer[1].ask[1]", "polish"),
            ],
        ),
        (Filter("plan"), ["plan"]),
        (Filter("plan", 0), ["plan"]),
        (Filter("plan", 1), []),
        (
            Filter("outer", 1),
            ["outer[1]", "outer[1].read", "outer[1].ask[0]", "outer[1].ask[1]"],
        ),
        (Filter("outer[1].ask"), ["outer[1].ask[0]", "outer[1].ask[1]"]),
        (Filter("outer.ask", 1), ["outer[1].ask[1]"]),
        (Filter("outer[0].ask"), []),
        (Filter("polish", attempt=2), ["polish"]),
        (Filter("polish", attempt=4), []),
    ],
)
def test_steps_are_found_by_their_place(chosen: Filter, expected: list[str]) -> None:
    assert names(chosen) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run-1.plan.0.1.2", ("plan[0]", 2)),
        ("run-1.outer~1~2~ask.0.1.3", ("outer[1].ask[0]", 3)),
        ("run-1", None),
        ("run-10.plan.0.1.1", None),
        ("run-1.x", None),
    ],
)
def test_attempt_ids_tell_the_place_and_the_number(text: str, expected: object) -> None:
    assert place_of(text, "run-1") == expected


@pytest.mark.parametrize(
    ("chosen", "about"),
    [
        (Filter(), True),
        (Filter("outer"), True),
        (Filter("outer.ask"), True),
        (Filter("outer[1].ask", 0), True),
        (Filter("outer[1].ask", 0, 3), True),
        (Filter("outer[1].ask", 0, 2), False),
        (Filter("outer[1].ask", 1), False),
        (Filter("out"), False),
        (Filter("plan"), False),
    ],
)
def test_a_workers_lines_are_chosen_alike(chosen: Filter, about: bool) -> None:
    line = {"message": "x", "attempt": "run-1.outer~1~1~ask.0.1.3"}
    assert chosen.is_about(line, "run-1") is about
    assert not chosen.is_about({"attempt": "run-10.outer~1~1~ask.0.1.3"}, "run-1")


def test_a_record_tells_of_every_attempt() -> None:
    (found,) = records(view(), run(), Filter("polish"))
    assert record_text(found).splitlines() == [
        "2026-01-01T00:00:00.000Z  polish: Succeeded  iteration 2  attempt 3  1.0s",
        "    2026-01-01T00:00:00.000Z  attempt 1 of iteration 2 failed: Timeout: Too slow.",
        "    9,999 bytes, stored: corral output shows them",
    ]
    (found,) = records(view(), run(), Filter("plan"))
    assert "taken over" in record_text(found)


def put(api: Api, phase: str = "Failed") -> None:
    status = {
        "runID": "run-1",
        "phase": phase,
        "finishedAt": "2026-01-01T00:00:09Z",
        "journal": to_journal(run()),
    }
    data = {"metadata": {"name": "w", "uid": "u"}, "spec": SPEC, "status": status}
    api.put(f"{WORKFLOWS}/w", data)
    event = {
        "metadata": {"name": "e"},
        "type": "Warning",
        "reason": "Failed",
        "message": "Step polish failed.",
        "lastTimestamp": "2026-01-01T00:00:08Z",
    }
    api.put("/api/v1/namespaces/demo/events/e", event)
    pods = "/api/v1/namespaces/demo/pods"
    api.put(f"{pods}/p", {"metadata": {"name": "p"}})
    line = {"time": "2026-01-01T00:00:01Z", "message": "hm", "attempt": "run-1.polish.0.2.1"}
    api.logs[f"{pods}/p/log"] = json.dumps(line)


def test_logs_are_records_events_and_workers_lines(api: Api, corral: Corral) -> None:
    put(api)
    code, out, _ = corral("logs", "w")
    assert code == 0
    assert "2026-01-01T00:00:08Z      Warning Failed: Step polish failed." in out
    assert "2026-01-01T00:00:01Z  p  hm  (run-1.polish.0.2.1)" in out
    told = json.loads(corral("logs", "w", "--step", "polish", "-o", "json")[1])
    assert [record["step"] for record in told["records"]] == ["polish"]
    assert told["events"] == []
    assert told["workerLogs"][0]["message"] == "hm"
    told = json.loads(corral("logs", "w", "--step", "polish", "--attempt", "2", "-o", "json")[1])
    assert told["workerLogs"] == []
    assert "failures" not in told["records"][0]


def test_followed_logs_end_with_the_run_and_tell_everything_once(api: Api, corral: Corral) -> None:
    put(api)
    code, out, _ = corral("logs", "-f", "w", "-o", "json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["kind"] for line in lines] == ["record"] * 7 + ["event", "workerLog"]


def test_a_step_that_is_not_there_is_told_with_the_nearest(api: Api, corral: Corral) -> None:
    put(api)
    code, _, err = corral("logs", "w", "--step", "outer[1].raed")
    assert code == 1
    assert "has no step 'outer[1].raed'; did you mean 'outer.read'?" in err
