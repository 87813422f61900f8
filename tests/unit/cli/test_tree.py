"""The tree, rendered to text."""

import io
from typing import Any

import pytest
from rich.console import Console

from corral.api.types import Usage
from corral.api.workflow import StepPhase, WorkflowSpec, WorkflowStatus
from corral.cli.errors import Exit
from corral.cli.follow import changes, follower
from corral.cli.tree import summary, tree
from corral.cli.view import RunView, cost, duration
from corral.plan.state import Node, Run, to_journal
from corral.plan.state import Step as StepState
from corral.plan.times import parse

NOW = parse("2026-01-01T12:00:10Z")
SPEC = {
    "steps": [
        {"name": "plan", "agentRef": {"name": "p"}},
        {"name": "research", "agentRef": {"name": "r"}, "dependsOn": ["plan"]},
        {"name": "write", "agentRef": {"name": "w"}, "dependsOn": ["research"]},
    ],
    "onExit": [{"name": "notify", "agentRef": {"name": "n"}}],
}
RUNNING = {
    "phase": "Running",
    "progress": "1/4",
    "startedAt": "2026-01-01T12:00:00Z",
    "usage": {"requests": 3, "costUSD": "0.0011", "simulatedRequests": 3},
    "steps": [
        {
            "name": "plan",
            "phase": "Succeeded",
            "attempts": 2,
            "startedAt": "2026-01-01T12:00:00.100Z",
            "finishedAt": "2026-01-01T12:00:00.900Z",
            "costUSD": "0.0004",
        },
        {
            "name": "research",
            "phase": "Running",
            "startedAt": "2026-01-01T12:00:01Z",
            "costUSD": "0.0007",
            "items": {"total": 6, "succeeded": 2, "failed": 1, "running": 3},
        },
        {"name": "write", "phase": "Pending"},
        {"name": "notify", "phase": "Pending"},
    ],
    "attention": [
        {
            "name": "research[1]",
            "phase": "Failed",
            "attempt": 3,
            "message": "Model fast failed with HTTP 500: the server has lost its way, and says so "
            "at length.",
        },
        {"name": "research[4]", "phase": "Running"},
    ],
}


def view(status: dict[str, Any], spec: dict[str, Any] = SPEC) -> RunView:
    return RunView(
        "report", "demo", WorkflowSpec.model_validate(spec), WorkflowStatus.model_validate(status)
    )


def text(status: dict[str, Any], width: int = 80, *, unicode: bool = True) -> str:
    return "\n".join(line.plain for line in tree(view(status), width, NOW, unicode=unicode))


def test_a_running_workflow() -> None:
    assert text(RUNNING) == (
        "Workflow demo/report  Running  1/4  9.9s  $0.0011 (simulated)\n"
        "├─ ✓ plan      Succeeded    0.8s  $0.0004  attempt 2\n"
        "├─ ● research  Running      9.0s  $0.0007  3 of 6 done, 3 running, 1 failed\n"
        "│  └─ ✗ [1]    Failed             attempt 3\n"
        "│       Model fast failed with HTTP 500: the server has lost its way, and says\n"
        "│       so at length.\n"
        "├─ ○ write     Pending                     after research\n"
        "└─ on exit\n"
        "   └─ ○ notify    Pending"
    )


def test_items_keep_their_names_beside_a_short_step() -> None:
    spec = {"steps": [{"name": "e", "agentRef": {"name": "r"}}]}
    item = {"name": "e[12]", "phase": "Failed", "message": "no"}
    status = {"phase": "Running", "steps": [{"name": "e", "phase": "Running"}], "attention": [item]}
    lines = [line.plain for line in tree(view(status, spec), 80, NOW)]
    assert lines[1:] == ["└─ ● e        Running", "   └─ ✗ [12]  Failed", "        no"]


def test_without_unicode_the_tree_is_ascii() -> None:
    plain = text(RUNNING, unicode=False)
    assert plain.isascii()
    assert "|- x" in plain.replace("`- x", "|- x")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(line) for line in text(RUNNING, width).splitlines()) <= width


FAILED = {
    "phase": "Failed",
    "startedAt": "2026-01-01T12:00:00Z",
    "finishedAt": "2026-01-01T12:00:03Z",
    "message": "step plan failed: Auth: Model fast refused the API key.",
    "steps": [
        {
            "name": "plan",
            "phase": "Failed",
            "reason": "Auth",
            "message": "Model fast refused the API key.",
            "startedAt": "2026-01-01T12:00:00Z",
            "finishedAt": "2026-01-01T12:00:02Z",
        }
    ],
    "conditions": [],
}


def test_a_failure_is_told_once_and_under_its_step() -> None:
    shown = text(FAILED)
    assert shown.count("refused the API key") == 1
    assert "│    Auth: Model fast refused the API key." in shown


def condition(kind: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": "InvalidSpec",
        "message": message,
        "lastTransitionTime": "2026-01-01T12:00:00Z",
    }


STALLED = {"phase": "Pending", "conditions": [condition("Stalled", "spec.x: is wrong")]}


def test_a_stalled_workflow_says_why() -> None:
    assert text(STALLED).startswith("Workflow demo/report  Stalled")
    assert text(STALLED).endswith("spec.x: is wrong")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"phase": "Succeeded", "finishedAt": "2026-01-01T12:00:00Z"}, Exit.OK),
        ({"phase": "Failed", "finishedAt": "2026-01-01T12:00:00Z"}, Exit.FAILED),
        ({"phase": "Stopped", "finishedAt": "2026-01-01T12:00:00Z"}, Exit.STOPPED),
        (
            {
                "phase": "Failed",
                "finishedAt": "2026-01-01T12:00:00Z",
                "conditions": [condition("Stalled", "")],
            },
            Exit.FAILED,
        ),
        (STALLED, Exit.REFUSED),
        (RUNNING, None),
        ({}, None),
    ],
)
def test_the_exit_code_is_the_outcome(status: dict[str, Any], code: Exit | None) -> None:
    assert view(status).exit_code == code


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({}, ""),
        ({"requests": 2, "costUSD": "0.5"}, "$0.5"),
        ({"requests": 2, "costUSD": "0.5", "simulatedRequests": 2}, "$0.5 (simulated)"),
        (
            {"requests": 3, "costUSD": "0.5", "simulatedRequests": 2},
            "$0.5 (simulated: 2 of 3 requests)",
        ),
        ({"requests": 1, "unpricedRequests": 1}, "unknown (unpriced: 1 request)"),
        (
            {"requests": 3, "costUSD": "0.5", "unpricedRequests": 2},
            "$0.5 (unpriced: 2 requests)",
        ),
    ],
)
def test_a_cost_says_what_of_it_is_unknown_or_not_real(
    usage: dict[str, Any], expected: str
) -> None:
    assert cost(Usage.model_validate(usage)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, ""),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (59.4, "59s"),
        (59.9, "1m00s"),
        (185, "3m05s"),
        (7800, "2h10m"),
        (273600, "3d04h"),
    ],
)
def test_durations_are_short(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_summary_ends_with_the_output() -> None:
    status = {
        "phase": "Succeeded",
        "startedAt": "2026-01-01T12:00:00Z",
        "finishedAt": "2026-01-01T12:01:00Z",
        "usage": {"requests": 1, "inputTokens": 1200, "outputTokens": 3, "unpricedRequests": 1},
        "output": {"score": 1},
    }
    assert [line.plain for line in summary(view(status), NOW)] == [
        "Phase     Succeeded",
        "Duration  1m00s",
        "Cost      unknown (unpriced: 1 request)",
        "Tokens    1,200 in, 3 out, 1 request",
        "Output",
        "  {",
        '    "score": 1',
        "  }",
    ]


def test_without_a_terminal_only_changes_are_printed() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    with follower(console, lambda: NOW) as shown:
        shown.update(view(RUNNING))
        shown.update(view(RUNNING))
        shown.update(view({**RUNNING, "steps": [{"name": "write", "phase": "Running"}]}))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + 2 + 1 + 1
    assert lines[-1].endswith("write: Running")


def test_what_has_not_begun_is_no_change() -> None:
    assert "write" not in {name for name, _ in changes(view(RUNNING))}


def test_nested_steps_iterations_children_approvals_and_memoized_results() -> None:
    spec = {
        "steps": [
            {
                "name": "review",
                "loop": {"until": "output.score > 1", "maxIterations": 4},
                "steps": [
                    {"name": "read", "agentRef": {"name": "r"}},
                    {
                        "name": "judge",
                        "dependsOn": ["read"],
                        "agentRef": {"name": "j"},
                        "forEach": {"items": [1, 2, 3]},
                    },
                    {"name": "sum", "dependsOn": ["judge"], "transform": "x"},
                ],
            },
            {"name": "known", "agentRef": {"name": "k"}},
            {"name": "child", "workflow": {"templateRef": {"name": "t"}}},
            {
                "name": "sure",
                "approval": {"prompt": "?", "approvers": [{"kind": "User", "name": "u"}]},
            },
        ]
    }
    start = parse("2026-01-01T12:00:00Z")
    judged = [
        Node(phase=StepPhase.SUCCEEDED, started=start, finished=start + 1),
        Node(phase=StepPhase.RUNNING, started=start),
        Node(phase=StepPhase.QUEUED),
    ]
    inner = {
        "read": StepState(
            phase=StepPhase.SUCCEEDED,
            finished=start + 1,
            nodes=[Node(phase=StepPhase.SUCCEEDED, started=start, memoized=True)],
        ),
        "judge": StepState(phase=StepPhase.RUNNING, items=[1, 2, 3], nodes=judged),
    }
    outer = Node(phase=StepPhase.RUNNING, started=start, iteration=2, steps=inner)
    run = Run(
        run_id="r",
        steps={
            "review": StepState(phase=StepPhase.RUNNING, nodes=[outer]),
            "known": StepState(phase=StepPhase.SUCCEEDED, taken_over=True),
        },
    )
    status = {
        "phase": "Running",
        "steps": [
            {
                "name": "review",
                "phase": "Running",
                "iteration": 2,
                "startedAt": "2026-01-01T12:00:00Z",
            },
            {"name": "known", "phase": "Succeeded", "memoized": True},
            {"name": "child", "phase": "Running", "child": "w-child-1"},
            {"name": "sure", "phase": "Waiting", "approval": "w-sure"},
        ],
        "journal": to_journal(run),
    }
    shown = "\n".join(line.plain for line in tree(view(status, spec), 90, NOW))
    assert shown == (
        "Workflow demo/report  Running\n"
        "├─ ● review    Running       10s  iteration 2 of 4\n"
        "│  ├─ ✓ read   Succeeded    1.0s  memoized\n"
        "│  ├─ ● judge  Running       10s  1 of 3 done, 1 running, 1 queued\n"
        "│  └─ ○ sum    Pending            after judge\n"
        "├─ ✓ known     Succeeded          memoized, taken over\n"
        "├─ ● child     Running            Workflow w-child-1\n"
        "└─ ◔ sure      Waiting            waits for approval w-sure"
    )


def test_nested_steps_that_are_over_are_not_said_to_be_pending() -> None:
    spec = {"steps": [{"name": "outer", "steps": [SPEC["steps"][0]]}]}
    run = Run(run_id="r", steps={"outer": StepState(phase=StepPhase.SUCCEEDED, nodes=[Node()])})
    rows = [{"name": "outer", "phase": "Succeeded"}]
    status = {"phase": "Running", "steps": rows, "journal": to_journal(run)}
    shown = [line.plain for line in tree(view(status, spec), 80, NOW)]
    assert [line.strip() for line in shown[1:]] == ["└─ ✓ outer  Succeeded"]


def test_items_of_nested_steps_that_need_a_look() -> None:
    spec = {"steps": [{"name": "outer", "forEach": {"items": [1]}, "steps": [SPEC["steps"][0]]}]}
    status = {
        "phase": "Running",
        "steps": [{"name": "outer", "phase": "Running", "items": {"total": 9, "waiting": 9}}],
        "attention": [
            {
                "name": "outer[3].plan",
                "phase": "Failed",
                "reason": "Timeout",
                "message": "Too slow.",
            }
        ],
    }
    shown = [line.plain for line in tree(view(status, spec), 80, NOW)]
    assert shown[1:] == [
        "└─ ● outer        Running            0 of 9 done, 9 waiting",
        "   └─ ✗ [3].plan  Failed",
        "        Timeout: Too slow.",
    ]


def test_a_run_of_a_template_shows_the_templates_steps() -> None:
    run = Run(run_id="r", template={"steps": SPEC["steps"]})
    status = {"phase": "Running", "steps": [{"name": "plan", "phase": "Running"}]}
    spec = {"workflowTemplateRef": {"name": "t"}}
    shown = [line.plain for line in tree(view(status, spec), 80, NOW)]
    assert [line.split()[2] for line in shown[1:]] == ["plan"]
    status["journal"] = to_journal(run)
    shown = [line.plain for line in tree(view(status, spec), 80, NOW)]
    assert [line.split()[2] for line in shown[1:]] == ["plan", "research", "write"]
