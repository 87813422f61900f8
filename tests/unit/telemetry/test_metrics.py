"""What is measured, what the pages name, and what rules ask for is the same."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from corral.telemetry import metrics
from tests.unit.docs.pages import ROOT, tables

PAGE = "docs/reference/metrics.md"
OPERATOR = {
    name: found for name, found in vars(metrics).items() if isinstance(found, MetricWrapperBase)
}
_OTHERS = r"operator\b|ca\b|ledger\b|ledger_version\b"
"""What else is called so: a Service, a certificate, tables."""
NAMED = re.compile(rf"(?<![\w/-])corral_(?!{_OTHERS})[a-z][a-z_]+[a-z](?![\w(*/])")
"""A metric's name in a text."""
_SELECTOR = re.compile(r"\b(corral_[a-z_]+)\{([^{}]*)\}")
RUNS = {
    "workflow",
    "run",
    "run_id",
    "attempt",
    "attempt_id",
    "pod",
    "worker",
    "uid",
    "item",
    "step",
}
"""What there are ever more of."""


def listed() -> dict[str, str]:
    """All metrics of the page and their types."""
    return {row[0].strip("`"): row[1] for row in tables(PAGE, "| Metric | Type |")}


def series() -> Iterator[str]:
    """The names that can be asked for."""
    for name, kind in listed().items():
        yield name
        if kind == "histogram":
            yield from (f"{name}_{part}" for part in ("bucket", "sum", "count"))


def texts() -> list[Path]:
    """What names metrics: pages, rules, dashboards, manifests."""
    found = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    for folder in ("prometheus", "grafana", "manifests"):
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".yaml", ".json", ".md", ".py")
        ]
    return found


def test_whatever_names_a_metric_names_one_that_there_is() -> None:
    known = set(series())
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts()
        for name in NAMED.findall(path.read_text())
        if name not in known
    }
    assert wrong == set()


def test_whatever_asks_by_a_label_asks_by_one_that_the_metric_has() -> None:
    labels = {
        row[0].strip("`"): {"job", "le", *re.findall(r"\w+", row[2])}
        for row in tables(PAGE, "| Metric | Type |")
    }
    of_targets = {"namespace", "agent", "pool", "pod"}
    asked = 0
    for path in texts():
        for name, selector in _SELECTOR.findall(path.read_text()):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            known = labels[base] | (of_targets if base.startswith("corral_worker_") else set())
            for label in re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*[\"']", selector):
                asked += 1
                assert label in known, f"{path.relative_to(ROOT)}: {name} by {label}"
    assert asked > 10


@pytest.mark.parametrize("constant", OPERATOR)
def test_a_metric_of_the_operator_is_set_somewhere(constant: str) -> None:
    code = "".join(path.read_text() for path in (ROOT / "operator/corral").rglob("*.py"))
    # Once where it is made, and once at least where it is used.
    assert len(re.findall(rf"\b{constant}\b", code)) > 1, constant


def test_names_follow_prometheus_and_labels_are_bounded() -> None:
    for row in tables(PAGE, "| Metric | Type |"):
        name, kind, labels, text = row[0].strip("`"), row[1], row[2], row[3]
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(milliseconds|minutes|ms|percent)\b", name), name
        assert text.endswith("."), name
        assert not RUNS & set(re.findall(r"\w+", labels)), name
