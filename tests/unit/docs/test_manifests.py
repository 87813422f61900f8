"""Manifests in the pages are valid."""

from pathlib import Path
from textwrap import indent

import pytest
import yaml

from corral.cli.check import check
from tests.unit.docs.pages import ROOT, Block, blocks, tables

WRAPPER = """\
apiVersion: corral.dev/v1alpha1
kind: Workflow
metadata:
  name: example
spec:
  arguments: {topic: batteries, questions: [How]}
  steps:
"""


def by_id(*infos: str) -> list[object]:
    return [pytest.param(block, id=block.id) for block in blocks(*infos)]


@pytest.mark.parametrize("block", by_id("yaml"))
def test_a_manifest_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text(block.text)
    checked = check([str(file)])
    assert checked.documents > 0
    assert [str(problem) for problem in checked.problems] == []


@pytest.mark.parametrize("block", by_id("yaml steps"))
def test_a_list_of_steps_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text(WRAPPER + indent(block.text, "  "))
    assert [str(problem) for problem in check([str(file)]).problems] == []


def test_a_fragment_is_yaml() -> None:
    for block in blocks("yaml fragment"):
        assert yaml.safe_load(block.text), block.id


def test_no_block_is_of_a_kind_that_nobody_checks() -> None:
    known = {"yaml", "yaml steps", "yaml fragment", "console", "text", "json", "mermaid"}
    for page in ROOT.glob("docs/**/*.md"):
        opened = False
        for line in page.read_text().splitlines():
            if line.startswith("```"):
                opened = not opened
                assert not opened or line[3:] in known, f"{page}: {line}"


def test_the_readme_shows_the_sample_as_it_is() -> None:
    sample = ROOT / "manifests/samples/hello/hello.yaml"
    shown = next(block for block in blocks("yaml") if block.page == "README.md")
    assert list(yaml.safe_load_all(shown.text)) == list(yaml.safe_load_all(sample.read_text()))


def test_all_samples_fit_into_one_namespace() -> None:
    samples = ROOT / "manifests/samples"
    names = [
        (found["kind"], found["metadata"]["name"], folder.name)
        for folder in sorted(path for path in samples.iterdir() if path.is_dir())
        for file in sorted(folder.glob("*.yaml"))
        for found in yaml.safe_load_all(file.read_text())
    ]
    assert len({name[:2] for name in names}) == len(names), names


def test_the_cookbook_has_every_sample() -> None:
    folders = {path.name for path in (ROOT / "manifests/samples").iterdir() if path.is_dir()}
    listed = {row[0].split("`")[1] for row in tables("docs/cookbook/index.md", "| Folder |")}
    assert listed == folders
