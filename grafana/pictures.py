"""Draws the dashboards from a Prometheus: ``python -m grafana.pictures ADDRESS START END``.

Not with Grafana, but with matplotlib (group ``pictures`` of pyproject.toml): the same panels in the
same places, by the same queries. Times are in seconds since 1970.
"""

import json
import math
import re
import sys
from collections import defaultdict
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grafana.asked import FILES, Asked, asked
from grafana.prometheus_api import Prometheus

FOLDER = Path(__file__).resolve().parents[1] / "docs/images/dashboards"
POINTS = 60
MOST = 8
"""Series of a panel; more are not told apart."""
_POINT = re.compile(r'^(.* d=")?[ML] [-\d. ]+', re.MULTILINE)
"""A line of a path, in SVG."""
_LONG = re.compile(r"(\.\d)\d+")
Series = tuple[str, list[float], list[float]]
"""Its name, times in days and values."""
_CELL = 0.55, 0.34
"""Inches of a column and of a line of Grafana's grid."""
_COLORS = matplotlib.color_sequences["tab10"]


def draw(prometheus: Prometheus, start: float, end: float) -> None:
    """Writes a picture of each dashboard."""
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "corral",
        "font.family": "sans-serif",
        "font.size": 7,
        "path.simplify_threshold": 0.5,
    }
    queries: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for query in asked("30s", f"{end - start:.0f}s"):
        queries[query.dashboard, query.panel].append(query)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in sorted(FILES.glob("*.json")):
        board = json.loads(path.read_text())
        high = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
        figure = Figure(figsize=(24 * _CELL[0], high * _CELL[1]))
        for panel in board["panels"]:
            axes = _place(figure, panel["gridPos"], high)
            if panel["type"] == "row":
                axes.axis("off")
                axes.text(0, 0.2, panel["title"], fontsize=10, weight="bold", color="#444444")
                continue
            axes.set_title(panel["title"], fontsize=8, loc="left", color="#222222", y=1)
            found = [
                one
                for query in queries[path.stem, panel["title"]]
                for one in _series(prometheus, query, start, end)
            ]
            if found:
                _KINDS[panel["type"]](axes, panel, found)
            else:
                axes.axis("off")
                axes.text(0.01, 0.5, "no data", color="#888888")
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        short = _POINT.sub(lambda found: _LONG.sub(r"\1", found[0]), text.getvalue())
        (FOLDER / f"{path.stem}.svg").write_text(re.sub(r" +\n", "\n", short))


def _place(figure: Figure, at: dict[str, int], high: int) -> Axes:
    """Axes where Grafana has the panel, with room for a title and for what is beside them."""
    small = at["h"] < 8
    left, right = (0.15, 0.15) if small else (1.1, 0.4)
    above, below = (1.0, 0.1) if small else (1.1, 2.4)
    if at["h"] == 1:
        left, above, below = 0.15, 0.0, 0.0
    return figure.add_axes(
        (
            (at["x"] + left) / 24,
            1 - (at["y"] + at["h"] - below) / high,
            (at["w"] - left - right) / 24,
            (at["h"] - above - below) / high,
        )
    )


def _series(prometheus: Prometheus, query: Asked, start: float, end: float) -> list[Series]:
    if query.instant:
        found = prometheus.now(query.expr, end)
    else:
        found = prometheus.over(query.expr, start, end, (end - start) / POINTS)
    made = []
    for one in found:
        name = query.legend
        for label, value in one["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", value)
        points = [(at, float(text)) for at, text in one.get("values", [one.get("value")])]
        whole = [(at, value) for at, value in points if not math.isnan(value)]
        if whole:
            times, values = zip(*whole, strict=True)
            made.append((_plain(name), [at / 86400 for at in times], list(values)))
    return sorted(made, key=lambda one: -max(one[2]))[:MOST]


def _plain(legend: str) -> str:
    """A legend without the labels that the series doesn't have."""
    return " ".join(word for word in legend.split() if not word.startswith("{{"))


def _graph(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    names = [name for name, _, _ in found]
    times = sorted({at for _, series_times, _ in found for at in series_times})
    rows = [dict(zip(at, values, strict=True)) for _, at, values in found]
    if "stacking" in defaults["custom"]:
        stacks = [[row.get(at, 0.0) for at in times] for row in rows]
        axes.stackplot(times, stacks, labels=names, colors=_COLORS, alpha=0.6)
    else:
        for name, row, color in zip(names, rows, _COLORS, strict=False):
            values = [row.get(at, math.nan) for at in times]
            near = zip([None, *times], times, [*times[1:], None], strict=False)
            # A point alone between gaps is no line.
            alone = [n for n, (a, b, c) in enumerate(near) if b in row and not {a, c} & set(row)]
            dots: dict[str, Any] = {"marker": ".", "markersize": 2, "markevery": alone}
            axes.plot(times, values, label=name, color=color, lw=0.9, clip_on=False, **dots)
    axes.set_ylim(bottom=0, top=defaults.get("max"))
    if "thresholdsStyle" in defaults["custom"]:
        limit = defaults["thresholds"]["steps"][1]["value"]
        if limit <= axes.get_ylim()[1]:
            axes.axhline(limit, color="#d62728", linewidth=0.8, linestyle="--")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: _with_unit(value, defaults["unit"]))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.grid(color="#d5d5d5", linewidth=0.4)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=6)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.1),
        ncol=4,
        fontsize=6,
        frameon=False,
        handlelength=1,
    )


def _bars(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    names, values = [one[0] for one in found], [one[2][-1] for one in found]
    axes.barh(range(len(values)), values, color=[_color(defaults, value) for value in values])
    across = axes.get_yaxis_transform()
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        axes.text(0.01, place, name, transform=across, va="center", fontsize=6)
        shown = _with_unit(value, defaults["unit"])
        axes.text(1, place, shown, transform=across, ha="right", va="center", fontsize=6)
    axes.set_ylim(MOST - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * (defaults.get("max") or max(values, default=1.0) or 1.0))
    axes.axis("off")


def _number(axes: Axes, panel: dict[str, Any], found: list[Series]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    if len(found[0][1]) > 1:
        axes.fill_between(found[0][1], found[0][2], color="#1f77b4", alpha=0.12, linewidth=0)
        axes.set_ylim(bottom=0)
    value = found[0][2][-1]
    shown = _with_unit(value, defaults["unit"])
    for mapping in defaults.get("mappings", []):
        shown = mapping["options"].get(f"{value:g}", {"text": shown})["text"]
    axes.text(
        0.02,
        0.45,
        shown,
        transform=axes.transAxes,
        fontsize=16,
        color=_color(defaults, value),
        va="center",
    )


def _color(defaults: dict[str, Any], value: float) -> str:
    """That of the last threshold which the value has reached."""
    steps = defaults["thresholds"]["steps"]
    reached = [one for one in steps if one["value"] is None or value >= one["value"]]
    return {"green": "#2ca02c", "red": "#d62728"}[reached[-1]["color"]]


def _with_unit(value: float, unit: str) -> str:
    """A value as Grafana shows it, more or less."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "currencyUSD":
        return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.2g}"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if 0 < value < 1 else f"{value:.3g} s"
    text = f"{value:,.0f}" if value >= 20 else f"{value:.3g}"
    return text + {"ops": "/s", "reqps": "/s", "opm": "/min"}.get(unit, "")


_KINDS = {"timeseries": _graph, "bargauge": _bars, "stat": _number}


if __name__ == "__main__":
    draw(Prometheus(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
