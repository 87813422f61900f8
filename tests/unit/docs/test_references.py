"""The generated references agree with the program."""

import runpy

import pytest

from tests.unit.docs.pages import ROOT


def test_commands_and_metrics_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    generator = runpy.run_path(str(ROOT / "docs/reference/generate.py"))
    for name, text in generator["files"]().items():
        on_disk = (ROOT / "docs/reference" / name).read_text()
        assert on_disk == text, "run: python docs/reference/generate.py"
