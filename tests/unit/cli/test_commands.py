"""The command as it is called: imports, help, exit codes of local runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from corral.cli.app import app
from corral.cli.main import main

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
SOURCE = str(Path(__file__).parents[3] / "operator")
COMMANDS = sorted(typer.main.get_group(app).commands)


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "module"),
    [("worker", "corral.worker.server"), ("operator", "corral.handlers.main")],
)
def test_pods_start_without_the_command_lines_libraries(command: str, module: str) -> None:
    done = python(
        "import sys, types\n"
        f"stub = types.ModuleType({module!r}); stub.main = lambda: 7\n"
        f"sys.modules[{module!r}] = stub\n"
        f"sys.argv = ['corral', {command!r}]\n"
        "from corral.cli.main import main\n"
        "assert main() == 7\n"
        "found = {'typer', 'rich', 'kubernetes', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_version_costs_next_to_nothing() -> None:
    done = python(
        "import sys; sys.argv = ['corral', 'version']\n"
        "from corral.cli.main import main\n"
        "code = main()\n"
        "assert not {'typer', 'rich', 'kubernetes'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    assert done.stdout.startswith("corral ")


def test_help_imports_nothing_that_a_command_needs() -> None:
    done = python(
        "import sys; sys.argv = ['corral', '--help']\n"
        "from corral.cli.main import main\n"
        "code = main()\n"
        "heavy = {'kubernetes', 'pydantic', 'pydantic_ai', 'yaml', 'jsonschema', 'a2a'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
        "sys.exit(code)"
    )
    assert done.returncode == 0, done.stderr
    assert "Start runs:" in done.stdout


@pytest.mark.parametrize("command", ["submit", "approve", "get", "graph"])
def test_a_commands_help_does_not_import_kubernetes(command: str) -> None:
    done = python(
        f"import sys; sys.argv = ['corral', {command!r}, '--help']\n"
        "from corral.cli.main import main\n"
        "main()\n"
        "assert not {'kubernetes', 'pydantic_ai', 'yaml'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_a_mistake_of_the_programs_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.delenv("CORRAL_DEBUG", raising=False)
    monkeypatch.setattr("corral.cli.validate.validate", broken)
    assert called(monkeypatch, "validate", "x.yaml") == 1
    shown = capsys.readouterr().err
    assert shown == (
        "error: this should not happen: ZeroDivisionError: by zero (CORRAL_DEBUG=1 shows where)\n"
    )
    monkeypatch.setenv("CORRAL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        called(monkeypatch, "validate", "x.yaml")


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["corral", *arguments])
    return main()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"  corral {command}" in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


def test_the_list_of_commands_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "..." not in shown.split("Start runs:")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 2, "No such command"),
        (["validate", "/absent.yaml"], 2, "No such file"),
        (["run"], 2, "Missing argument"),
        (["run", "--timeout", "soon", "x.yaml"], 2, "--timeout"),
        (["logs", "x", "--item", "1"], 2, "--item needs --step"),
        (["logs", "x", "--attempt", "1"], 2, "--attempt needs --step"),
        (["sbumit"], 2, "Did you mean 'submit'"),
        (["fmt", "-", "x.yaml"], 2, "- (stdin) stands alone"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(monkeypatch, *arguments) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def team(tmp_path: Path, spec: dict[str, Any], simulation: dict[str, Any] | None = None) -> str:
    about = {"apiVersion": "corral.dev/v1alpha1"}
    model = {"provider": "simulated", "simulation": simulation or {}}
    objects = [
        {**about, "kind": "Model", "metadata": {"name": "m"}, "spec": model},
        {
            **about,
            "kind": "Agent",
            "metadata": {"name": "a"},
            "spec": {"modelRef": {"name": "m"}},
        },
        {**about, "kind": "Workflow", "metadata": {"name": "w"}, "spec": spec},
    ]
    file = tmp_path / "team.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    return str(file)


ONE = {"steps": [{"name": "one", "agentRef": {"name": "a"}, "input": "x"}]}


@pytest.mark.parametrize(
    ("spec", "simulation", "options", "code"),
    [
        (ONE, {}, [], 0),
        (ONE, {"failurePercent": 100}, [], 1),
        ({**ONE, "shutdown": "Stop"}, {}, [], 3),
        ({"steps": [{"name": "one", "agentRef": {"name": "nobody"}}]}, {}, [], 4),
        ({"steps": [{"name": "one", "transform": "$(nonsense)"}]}, {}, [], 4),
        (ONE, {}, ["--workflow", "other"], 2),
        (ONE, {"latency": "20s"}, ["--timeout", "50ms"], 5),
    ],
)
def test_the_exit_code_of_a_local_run_is_its_outcome(
    spec: dict[str, Any],
    simulation: dict[str, Any],
    options: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = team(tmp_path, spec, simulation)
    assert called(monkeypatch, "run", "--local", *options, file) == code


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_local_run_prints_the_whole_object(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = team(tmp_path, {**ONE, "output": "$(steps.one.output)"}, {"reply": "hi"})
    assert called(monkeypatch, "run", "--local", "-o", form, "--generate-name", file) == 0
    data = yaml.safe_load(capsys.readouterr().out)
    assert (data["apiVersion"], data["kind"]) == ("corral.dev/v1alpha1", "Workflow")
    assert data["metadata"]["name"].startswith("w-")
    assert (data["status"]["phase"], data["status"]["output"]) == ("Succeeded", "hi")


def test_the_tree_of_a_local_run_fits_80_columns_without_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "run", "--local", team(tmp_path, ONE)) == 0
    shown = capsys.readouterr().out
    assert "└─ ✓ one   Succeeded" in shown
    assert "Cost      unknown (unpriced: 1 request) (simulated)" in shown
    assert "\x1b" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_research_team_runs_here_with_its_own_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SAMPLES / "research-team"
    model = tmp_path / "model.yaml"
    text = (folder / "local" / "model.yaml").read_text()
    model.write_text(text.replace("latency: 400ms", "latency: 1ms"))
    files = [str(folder / "agents.yaml"), str(folder / "workflow.yaml"), str(model)]
    assert called(monkeypatch, "run", "--local", "-o", "json", *files) == 0
    status = json.loads(capsys.readouterr().out)["status"]
    assert status["progress"] == "6/6"
    assert status["output"].startswith("# Solid-state batteries (simulated)")
    assert float(status["usage"]["costUSD"]) > 0


def test_the_research_teams_two_simulations_give_equal_answers() -> None:
    folder = SAMPLES / "research-team"
    (rules,) = [
        yaml.safe_load(data["data"]["rules.yaml"])["rules"]
        for data in yaml.safe_load_all((folder / "model-server.yaml").read_text())
        if data["kind"] == "ConfigMap"
    ]
    local = yaml.safe_load((folder / "local" / "model.yaml").read_text())
    assert [rule for rule in rules if "fault" not in rule] == local["spec"]["simulation"]["script"]
