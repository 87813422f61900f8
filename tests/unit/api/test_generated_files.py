"""What is generated agrees with what is on disk, and is the same every time."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corral.api.crd.__main__ import differences, files, main
from corral.api.crd.kinds import KINDS

ROOT = Path(__file__).parents[3]


def test_the_files_on_disk_are_up_to_date() -> None:
    assert differences(ROOT) == "", "run: make generate"


def test_the_same_comes_out_every_time() -> None:
    assert files() == files()


def test_crds_apply_without_the_kustomization_beside_them() -> None:
    """``kubectl apply -f crds/`` reads *.yaml, *.yml and *.json."""
    readable = {path.name for path in (ROOT / "crds").iterdir() if path.suffix}
    assert readable == {f"{kind.plural}.yaml" for kind in KINDS}
    listed = yaml.safe_load((ROOT / "crds/Kustomization").read_text())["resources"]
    assert set(listed) == readable


def test_every_generated_file_says_that_it_is() -> None:
    for text in files().values():
        assert "do not edit: make generate" in text.splitlines()[0]


def test_writes_what_is_missing_and_then_finds_no_difference(tmp_path: Path) -> None:
    root = ["--root", str(tmp_path)]
    assert main([*root, "--check"]) == 1
    assert main(root) == 0
    assert main([*root, "--check"]) == 0


def test_shows_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--root", str(tmp_path)])
    path = tmp_path / "crds/models.yaml"
    path.write_text(path.read_text().replace("Namespaced", "Cluster"))
    assert main(["--root", str(tmp_path), "--check"]) == 1
    shown = capsys.readouterr().out
    assert "-  scope: Cluster\n+  scope: Namespaced\n" in shown
    assert "agents" not in shown


def test_the_api_does_not_load_its_generator() -> None:
    code = (
        "import sys, corral.api.workflow, corral.api.pool, corral.api.model, corral.api.attempt\n"
        "print([name for name in sys.modules if name in ('yaml', 'corral.api.crd', 'kopf')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": "operator"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_the_reference_has_every_kind_and_links_that_lead_somewhere() -> None:
    lines = files()["docs/reference/api.md"].splitlines()
    headings = {line.lstrip("#").strip().lower() for line in lines if line.startswith("#")}
    assert {kind.name.lower() for kind in KINDS} | {"nestedstep"} <= headings
    targets = {part.split(")")[0] for line in lines for part in line.split("](#")[1:]}
    assert targets <= headings
    assert "condition" in targets
