"""``corral run --local`` as it is called: what it needs, what it prints, how it ends."""

import json
import sys
from pathlib import Path

import pytest

from corral.cli.main import main

TEAM = """
apiVersion: corral.dev/v1alpha1
kind: Model
metadata: {name: m}
spec:
  provider: simulated
  price: {inputPerMillionUSD: "100", outputPerMillionUSD: "0"}
  simulation: {inputTokens: 100, outputTokens: 10, reply: done}
---
apiVersion: corral.dev/v1alpha1
kind: Agent
metadata: {name: worker}
spec: {modelRef: {name: m}, capabilities: [write]}
---
apiVersion: corral.dev/v1alpha1
kind: Agent
metadata: {name: librarian}
spec:
  modelRef: {name: m}
  capabilities: [read]
  tools:
  - name: library
    mcp:
      url: http://127.0.0.1:1/mcp
      headersFrom: [{name: X-Token, secretKeyRef: {name: s, key: k}}]
---
apiVersion: corral.dev/v1alpha1
kind: WorkflowTemplate
metadata: {name: report}
spec:
  parameters: {type: object, properties: {topic: {type: string}, size: {default: 3}}}
  steps: [{name: ask, agentRef: {name: worker}, input: $(arguments.topic)}]
  output: $(arguments.topic) $(arguments.size)
---
apiVersion: corral.dev/v1alpha1
kind: WorkflowTemplate
metadata: {name: endless}
spec:
  steps: [{name: again, workflow: {templateRef: {name: endless}}}]
---
apiVersion: corral.dev/v1alpha1
kind: Workflow
metadata: {name: w}
spec:
  SPEC
"""


class Command:
    """Runs it in this process; the exit code, stdout and stderr."""

    def __init__(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self._file = tmp_path / "team.yaml"
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, spec: str, *options: str) -> tuple[int, str, str]:
        self._file.write_text(TEAM.replace("SPEC", spec))
        words = ["corral", "run", "--local", *options, str(self._file)]
        self._monkeypatch.setattr(sys, "argv", words)
        code = main()
        shown = self._capsys.readouterr()
        assert "should not happen" not in shown.err
        return int(code), shown.out, shown.err


@pytest.fixture
def corral(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


ASK = "steps: [{name: ask, agentRef: {name: worker}, input: go}]"
REVIEW = "{name: review, approval: {prompt: Go on?, approvers: [{kind: User, name: u}]}}"
EACH = f"{{name: each, forEach: {{items: [1, 2]}}, steps: [{REVIEW}]}}"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            "steps: [{name: a, workflow: {templateRef: {name: endless}}}]",
            "WorkflowTemplate 'endless' reaches itself: endless → endless",
        ),
        (
            "steps: [{name: a, forEach: {configMapKeyRef: {name: c, key: k}}, transform: x}]",
            "there is no ConfigMap 'c' with key 'k' in the files",
        ),
        (
            "steps: [{name: a, agentSelector: {matchCapabilities: [fly]}, input: x}]",
            "no Agent in the files has the capabilities fly",
        ),
        (
            "steps: [{name: a, agentSelector: {matchCapabilities: [read]}, input: x}]",
            "Agent 'librarian': tool 'library' has no header X-Token: "
            "set CORRAL_HEADER_LIBRARY_X_TOKEN",
        ),
        (f"{{retryOf: {{name: v}}, {ASK}}}", "spec.retryOf: a local run has no earlier one"),
    ],
)
def test_what_is_missing_is_told_before_anything_starts(
    spec: str, problem: str, corral: Command
) -> None:
    code, output, errors = corral(spec)
    assert (code, output) == (4, "")
    assert errors.startswith("error: nothing was started:\n")
    assert problem in errors


def test_a_header_comes_from_the_environment(
    corral: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_HEADER_LIBRARY_X_TOKEN", "secret")
    spec = "steps: [{name: a, agentSelector: {matchCapabilities: [read]}, input: x}]"
    code, output, _ = corral(spec)
    assert code == 1, "nobody listens there"
    assert "ToolFailed" in output
    assert "secret" not in output


def test_parameters_reach_the_template_and_stand_in_what_is_printed(corral: Command) -> None:
    code, output, _ = corral(
        "workflowTemplateRef: {name: report}", "-o", "json", "-p", "topic=magnets"
    )
    data = json.loads(output)
    assert (code, data["status"]["output"]) == (0, "magnets 3")
    assert data["spec"] == {
        "workflowTemplateRef": {"name": "report"},
        "arguments": {"topic": "magnets"},
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (f'{{budget: {{maxCostUSD: "0.001"}}, {ASK}}}', "the budget is spent; raise spec.budget"),
        (f"{{suspend: true, {ASK}}}", "Workflow w is suspended, and nobody can resume it here"),
        (f"steps: [{REVIEW}]", "step review of w waits for a person's approval; use --approve"),
        (f"steps: [{EACH}]", "step each[0].review of w waits for a person's approval"),
    ],
)
def test_a_run_that_nobody_here_can_help_ends_with_exit_code_4(
    spec: str, said: str, corral: Command
) -> None:
    code, output, errors = corral(spec, "-o", "json")
    assert code == 4
    assert f"error: {said}" in errors
    assert "finishedAt" not in json.loads(output)["status"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--approve", "*"], 0),
        (["--approve", "each[*].review"], 0),
        (["--approve", "each[0].review", "--approve", "each[1].review"], 0),
        (["--approve", "each[01].review"], 4),
        (["--approve", "*", "--reject", "each[1].*"], 1),
    ],
)
def test_what_was_decided_beforehand_is_not_asked(
    options: list[str], code: int, corral: Command
) -> None:
    assert corral(f"steps: [{EACH}]", *options)[0] == code


def test_a_share_of_the_budget_is_told_of(corral: Command) -> None:
    _, _, errors = corral(f'{{budget: {{maxCostUSD: "0.02", warnAt: [50]}}, {ASK}}}')
    assert errors == "warning: Workflow w: 50% of the budget of 0.02 USD are spent\n"
