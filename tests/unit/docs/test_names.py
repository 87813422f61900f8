"""Whatever the pages name is there: links, paths, targets, commands, options, fields."""

import re
from collections.abc import Iterator

import pytest
import typer
import yaml

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass, Reason
from corral.api.workflow import StepPhase, WorkflowPhase
from corral.cli.app import app
from corral.cli.errors import Exit
from corral.plan.agent import agent_problems
from tests.unit.docs.pages import ROOT, blocks, pages, prose, tables

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:^|\| |[A-Z_]+=\S+ |kubectl )corral ([A-Za-z-]+(?: [^|#;&\n]*)?)")
_FOLDERS = ("operator/", "docs/", "manifests/", "cluster/", "tests/", "crds/", "requirements/")


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return set(plain)


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for target in _LINK.findall(_CODE.sub("", prose(pages()[page]))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("page", pages())
def test_paths_exist(page: str) -> None:
    for code in _CODE.findall(prose(pages()[page])):
        path = code.rstrip("/")
        if code.startswith(_FOLDERS) and re.fullmatch(r"[\w./-]+", code):
            assert any((root / path).exists() for root in (ROOT, (ROOT / page).parent)), code


def said(page: str) -> Iterator[str]:
    """All code of a page: in text, in blocks, and after prompts."""
    yield from _CODE.findall(prose(pages()[page]))
    for block in blocks("", "console", "text"):
        if block.page == page:
            for line in block.text.splitlines():
                if block.info == "":
                    yield line.strip()
                elif line.startswith("$ "):
                    yield line[2:]


@pytest.mark.parametrize("page", pages())
def test_make_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for code in said(page):
        for words in re.findall(r"(?:^|[;&] )(?:[A-Z_]+=\S+ )*make ([^;&#,]*)", code):
            for word in words.split():
                name, is_variable, _ = word.partition("=")
                if is_variable:
                    assert re.search(rf"\b{name}\b", makefile), code
                else:
                    assert word in targets, code


@pytest.mark.parametrize("page", pages())
def test_commands_and_options_exist(page: str) -> None:
    commands = typer.main.get_group(app).commands
    for code in said(page):
        for call in _COMMAND.findall(code):
            name, *words = call.split()
            if name == "COMMAND":
                continue
            assert name in commands, code
            known = {"-h", "--help"}
            for parameter in commands[name].params:
                known |= {*parameter.opts, *parameter.secondary_opts}
            for word in words:
                if word.startswith("-") and word != "-":
                    assert word.split("=")[0] in known, f"{word} in {code}"


def test_the_navigation_has_every_page_once() -> None:
    def files(entries: list[dict[str, object]]) -> Iterator[str]:
        for entry in entries:
            for target in entry.values():
                if isinstance(target, list):
                    yield from files(target)
                else:
                    yield str(target)

    listed = list(files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(
        str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")
    )


AGENT: dict[str, dict[str, object]] = {
    "spec.tools[].agent": {"tools": [{"name": "t", "agent": {"name": "x"}}]},
    "spec.type": {"type": "Remote"},
    "spec.a2a": {"a2a": {"url": "http://a"}},
    "spec.image": {"image": "i"},
}


def test_the_readme_lists_what_is_not_supported_and_nothing_else() -> None:
    rows = dict(tables("README.md", "| Kind | Not supported yet"))
    shown = {kind: set(re.findall(r"`([^`]+)`", cell)) for kind, cell in rows.items()}
    assert shown.keys() == {"Agent", "Model"}
    assert shown["Agent"] == set(AGENT)
    assert shown["Model"] == set(), "only providers"
    for field, fields in AGENT.items():
        agent = AgentSpec.model_validate({"modelRef": {"name": "m"}, **fields})
        wrong = agent_problems(agent, {})
        assert [re.sub(r"\[\d+\]", "[]", p.field) for p in wrong] == [field]


def first_cells(page: str, header: str) -> set[str]:
    return {
        word for row in tables(page, header) for word in re.findall(r"\w+", row[0].replace("`", ""))
    }


def test_words_are_the_programs_words() -> None:
    status = "docs/concepts/status-and-conditions.md"
    workflows = "docs/concepts/workflows.md"
    assert first_cells(workflows, "| Class |") == {error.value for error in ErrorClass}
    assert first_cells(status, "| Reason |") <= {reason.value for reason in Reason}
    phases = first_cells(status, "| Phase | Means |")
    assert phases == {phase.value for phase in (*WorkflowPhase, *StepPhase)}
    assert first_cells(status, "| Code |") == {str(code.value) for code in Exit}
