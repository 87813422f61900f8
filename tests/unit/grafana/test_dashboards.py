"""Dashboards ask for what is measured, say what they show, and lead to what to do."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import unquote

import promql_parser
import pytest
import yaml

from corral.tracing import genai
from corral.tracing.span import OPERATOR
from grafana.__main__ import ROOT, files
from grafana.asked import FILES, Asked, asked
from grafana.panels import VARIABLES
from prometheus.rules import RUNBOOKS
from tests.unit.docs.pages import tables

Json = dict[str, Any]
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FILES.glob("*.json"))}
MAPS = ROOT / "manifests/monitoring/dashboards"
PYTHON = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
OF_WORKERS = {"namespace", "agent", "pool", "pod"}
"""What scraping adds to workers' series; to the operator's, only the pod."""
LABELS = {
    row[0].strip("`"): set(re.findall(r"\w+", row[2])) | {"instance", "job", "pod"}
    for row in tables("docs/reference/metrics.md", "| Metric | Type |")
}
KINDS = {
    row[0].strip("`"): row[1] for row in tables("docs/reference/metrics.md", "| Metric | Type |")
}
QUERIES = list(asked("1m", "1h"))


def panels(board: Json) -> list[Json]:
    """A dashboard's panels, without its rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def selectors(expr: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    """All selectors of an expression."""
    if isinstance(expr, promql_parser.VectorSelector):
        yield expr
    elif isinstance(expr, promql_parser.MatrixSelector):
        yield expr.vector_selector
    elif isinstance(expr, promql_parser.Call):
        for inner in expr.args:
            yield from selectors(inner)
    elif isinstance(expr, promql_parser.BinaryExpr):
        yield from selectors(expr.lhs)
        yield from selectors(expr.rhs)
    elif hasattr(expr, "expr"):
        yield from selectors(expr.expr)


def known(metric: str) -> set[str]:
    """The labels of a metric; fails for one that there isn't."""
    if metric in PYTHON:
        return OF_WORKERS | {"instance", "job"}
    if metric == "ALERTS":
        return {"alertname", "alertstate", "severity", "namespace"}
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    if base != metric:
        assert KINDS.get(base) == "histogram", metric
    else:
        assert metric in KINDS, metric
    more = {"le"} if metric.endswith("_bucket") else set()
    return LABELS[base] | more | (OF_WORKERS if base.startswith("corral_worker_") else set())


def grouped(expr: promql_parser.Expr) -> Iterator[tuple[list[str], set[str]]]:
    """The labels by which an expression sums up, with those that are there to sum up by."""
    if isinstance(expr, promql_parser.AggregateExpr) and expr.modifier:
        there = [known(one.name) for one in selectors(expr.expr)]
        yield expr.modifier.labels, set.union(*there)
    for inner in ("expr", "lhs", "rhs"):
        if hasattr(expr, inner):
            yield from grouped(getattr(expr, inner))
    if isinstance(expr, promql_parser.Call):
        for argument in expr.args:
            yield from grouped(argument)


def test_the_files_are_those_of_the_code() -> None:
    texts = files()
    assert {path.name for path in texts if path.suffix == ".json"} == {
        f"{name}.json" for name in BOARDS
    }
    for path, text in texts.items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: make generate"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.dashboard}-{query.panel}")
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: Asked) -> None:
    assert "$" not in query.expr
    parsed = promql_parser.parse(query.expr)
    found = list(selectors(parsed))
    assert found
    for selector in found:
        labels = known(selector.name)
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels, selector
    for labels, there in grouped(parsed):
        assert set(labels) <= there, labels


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.dashboard}-{query.panel}")
def test_a_legend_names_labels_that_the_query_keeps(query: Asked) -> None:
    kept = {label for labels, _ in grouped(promql_parser.parse(query.expr)) for label in labels}
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= kept


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.dashboard}-{query.panel}")
def test_counters_are_asked_for_their_rise(query: Asked) -> None:
    for selector in selectors(promql_parser.parse(query.expr)):
        if selector.name.endswith(("_total", "_bucket", "_count")):
            assert re.search(rf"(rate|increase)\({selector.name}\b", query.expr), selector


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_panel_says_what_it_shows_and_leads_to_a_runbook(board: Json) -> None:
    sections = re.findall(r"^## (\w+)", (ROOT / "docs/runbooks/alerts.md").read_text(), re.M)
    known_links = {f"{RUNBOOKS}#{name.lower()}" for name in sections}
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {link["url"] for link in panel["links"]} <= known_links, panel["title"]
        assert panel["links"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_fill_their_rows_and_do_not_overlap(board: Json) -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken.update((at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"]))
    assert set(taken.values()) == {1}
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_variables_are_those_that_queries_use(board: Json) -> None:
    variables = {one["name"]: one for one in board["templating"]["list"]}
    used = set(re.findall(r"\$(namespace|agent|pool)\b", json.dumps(panels(board))))
    leads = (
        {"traces"} if any("${traces}" in link.get("url", "") for link in board["links"]) else set()
    )
    assert set(variables) == {"datasource"} | used | leads
    for name in used:
        assert variables[name]["query"]["query"] == VARIABLES[name]
        assert variables[name]["allValue"] == ".*"


def test_variables_ask_for_labels_that_there_are() -> None:
    for name, query in VARIABLES.items():
        [(metric, label)] = re.findall(r"^label_values\((\w+).*, (\w+)\)$", query)
        assert label == name
        assert label in known(metric)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("workflows", {genai.INVOKE_WORKFLOW, f"span.{genai.NAMESPACE}", "${namespace:pipe}"}),
        ("operator", {f"resource.{genai.SERVICE_NAME}", str(OPERATOR[genai.SERVICE_NAME])}),
    ],
)
def test_a_link_leads_to_traces_by_names_that_spans_have(name: str, words: set[str]) -> None:
    [link] = [link for link in BOARDS[name]["links"] if link["title"] == "Traces"]
    # Grafana fills in what it sees before the address is decoded.
    assert set(re.findall(r"\$\{[^}]+\}", link["url"])) >= {"${traces}", "${__from}", "${__to}"}
    address, _, panes = link["url"].partition("&panes=")
    assert address == "/explore?schemaVersion=1"
    [pane] = json.loads(unquote(panes)).values()
    [query] = pane["queries"]
    assert all(word in query["query"] for word in words), query


def test_no_panel_repeats_another() -> None:
    asked_for = Counter(
        tuple(target["expr"] for target in panel["targets"])
        for board in BOARDS.values()
        for panel in panels(board)
    )
    assert asked_for.most_common(1)[0][1] == 1


def test_dashboards_lead_to_each_other() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        assert "corral" in board["tags"]
        assert any(link["tags"] == ["corral"] for link in board["links"])


@pytest.mark.parametrize("name", BOARDS)
def test_the_guide_has_a_picture_with_every_panel(name: str) -> None:
    assert f"../images/dashboards/{name}.svg" in (ROOT / "docs/guides/dashboards.md").read_text()
    picture = unescape((ROOT / f"docs/images/dashboards/{name}.svg").read_text())
    for panel in BOARDS[name]["panels"]:
        assert f">{panel['title']}<" in picture


def test_config_maps_have_the_label_of_the_sidecar_and_the_same_json() -> None:
    listed = yaml.safe_load((MAPS / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(f"{name}.yaml" for name in BOARDS)
    for name, board in BOARDS.items():
        made = yaml.safe_load((MAPS / f"{name}.yaml").read_text())
        assert made["kind"] == "ConfigMap"
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
        [text] = made["data"].values()
        assert json.loads(text) == board
