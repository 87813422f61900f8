"""Words that a shell is offered."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corral.cli import complete
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import DEMO, WORKFLOWS, Api
from tests.unit.cli.test_cluster import MANIFEST
from tests.unit.cli.test_commands import SOURCE


@pytest.fixture(autouse=True)
def _some_objects(api: Api) -> None:
    status = {"phase": "Failed", "steps": [{"name": "plan", "phase": "Failed"}]}
    api.put(f"{WORKFLOWS}/report", {**MANIFEST, "metadata": {"name": "report"}, "status": status})
    parameters = {"properties": {"topic": {"description": "What about."}}}
    template = {"metadata": {"name": "daily"}, "spec": {"parameters": parameters, "steps": []}}
    api.put(f"{DEMO}/workflowtemplates/daily", template)
    asked = {"workflowRef": {"name": "report", "uid": "u"}, "step": "review"}
    api.put(f"{DEMO}/approvalrequests/r", {"metadata": {"name": "r"}, "spec": asked})
    api.put("/api/v1/namespaces/demo", {"metadata": {"name": "demo"}})


def offered(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    """What kubectl would show."""
    command, *rest = words
    if rest:
        rest = ["--kubeconfig", config, *rest]
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-corral", command, *rest])
    assert complete.kubectl() == 0
    *lines, directive = capsys.readouterr().out.splitlines()
    assert directive == ":4"
    return [line.split("\t")[0] for line in lines]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["get", "workflow", "r"], ["report"]),
        (["get", "templates", ""], ["daily"]),
        (["get", "approvalr"], ["approvalrequests"]),
        (["watch", ""], ["report"]),
        (["logs", "report", "--step", "p"], ["plan"]),
        (["submit", "--from", "te"], ["template/daily"]),
        (["submit", "--from", "template/daily", "-p", ""], ["topic="]),
        (["approve", ""], ["report"]),
        (["get", "-n", "d"], ["demo"]),
        (["get", "--context", ""], ["c"]),
        (["get", "-o", "ta"], ["table"]),
        (["resu"], ["resubmit", "resume"]),
        (["watch", "x"], []),
    ],
)
def test_offers_come_from_the_cluster_and_the_options(
    words: list[str],
    expected: list[str],
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert offered(config, monkeypatch, capsys, *words) == expected


def test_only_what_failed_is_offered_to_be_retried(
    api: Api, config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "corral.cli.cluster.Cluster.summaries",
        lambda *_: [("a", "Failed"), ("b", "Running"), ("c", "Stopped")],
    )
    assert offered(config, monkeypatch, capsys, "retry", "") == ["a", "c"]


def test_what_goes_wrong_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text("no: config")
    assert offered(str(broken), monkeypatch, capsys, "watch", "") == []
    assert capsys.readouterr().err == ""


def shell(config: str, line: str) -> list[str]:
    """What bash, with the script that the command prints, offers at the end of a line."""
    corral = (
        f'corral() {{ {sys.executable} -c \'import sys; sys.argv[0] = "corral"; '
        'from corral.cli.main import main; sys.exit(main())\' "$@"; }\n'
    )
    program = corral + (
        'eval "$(corral completion bash)"\n'
        f"COMP_LINE='{line}'; read -ra COMP_WORDS <<< \"$COMP_LINE\"\n"
        '[[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")\n'
        "COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    # The script starts $1 through env, which knows programs only.
    folder = Path(config).parent / "bin"
    folder.mkdir(exist_ok=True)
    file = folder / "corral"
    file.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'corral'\n"
        "from corral.cli.main import main\nsys.exit(main())\n"
    )
    file.chmod(0o755)
    program = program.replace(corral, "").replace("printf", "_corral_completion corral\nprintf", 1)
    environment: dict[str, Any] = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": SOURCE,
        "KUBECONFIG": config,
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_names_of_live_objects(config: str) -> None:
    assert shell(config, "corral watch r") == ["report"]
    assert shell(config, "corral submit --from ") == ["template/daily", "workflow/report"]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_every_shell(corral: Corral, name: str) -> None:
    code, out, _ = corral("completion", name, cluster=False)
    assert code == 0
    assert f"_CORRAL_COMPLETE=complete_{name}" in out
    assert corral("completion", "tcsh", cluster=False)[0] == 2
