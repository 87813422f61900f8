"""The guide lists what spans have, and nothing else."""

import re

from corral.tracing import genai
from corral.tracing.genai import CHAT, EXECUTE_TOOL, INVOKE_AGENT, INVOKE_WORKFLOW
from tests.unit.docs.pages import tables

PAGE = "docs/guides/distributed-tracing.md"
OPERATIONS = {CHAT, EXECUTE_TOOL, INVOKE_AGENT, INVOKE_WORKFLOW}


def test_every_attribute_is_listed_once() -> None:
    names = {value for name, value in vars(genai).items() if name.isupper() and name[0] != "_"}
    listed = [
        name
        for row in tables(PAGE, "| Attribute | On |")
        for name in re.findall(r"`([^`]+)`", row[0])
    ]
    assert sorted(listed) == sorted(names - OPERATIONS)


def test_every_kind_of_span_is_listed() -> None:
    listed = {row[0].strip("`").split()[0] for row in tables(PAGE, "| Span | Is |")}
    assert listed == OPERATIONS | {"step"}
