"""The documentation as tests see it: pages, and the blocks of code in them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n)+")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: str
    line: int
    info: str
    """What stands after the fence; empty where the block is indented."""
    text: str

    @property
    def id(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> dict[str, str]:
    """All pages of the repository by their path from the root."""
    found = {}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder) / name for name in sorted(files) if name.endswith(".md")):
            found[path.relative_to(ROOT).as_posix()] = path.read_text()
    return found


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def blocks(*infos: str) -> Iterator[Block]:
    """The blocks of these kinds in all pages."""
    for page, text in pages().items():
        for match in _FENCE.finditer(text):
            if match["info"] in infos:
                line = text.count("\n", 0, match.start("text")) + 1
                yield Block(page, line, match["info"], match["text"])
        if "" in infos:
            for match in _INDENTED.finditer(_FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)):
                yield Block(page, text.count("\n", 0, match.start()) + 1, "", match[0])


def tables(page: str, header: str) -> Iterator[list[str]]:
    """The rows of all tables of a page that begin with this header, as cells."""
    rows = pages()[page].splitlines()
    inside = False
    for row in rows:
        if row.startswith(header):
            inside = True
        elif inside and not row.startswith("|"):
            inside = False
        elif inside and not row.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))]
