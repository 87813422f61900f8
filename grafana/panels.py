"""What dashboards are made of: a board, its rows, and three kinds of panels."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as sdk
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as models

from grafana.queries import named, quantile
from prometheus.rules import RUNBOOKS

SOURCE = look.DataSourceRef(type_val="prometheus", uid="${datasource}")
TRACES = "traces"
"""The variable that names the data source with traces."""
TAG = "corral"
"""By which the dashboards link to each other."""
VARIABLES = {
    "namespace": "label_values(corral_pool_replicas, namespace)",
    "agent": 'label_values(corral_attempts_total{namespace=~"$namespace"}, agent)',
    "pool": 'label_values(corral_pool_replicas{namespace=~"$namespace"}, pool)',
}
"""Where a variable's values come from."""
Panel = stat.Panel | timeseries.Panel | bargauge.Panel
P = TypeVar("P", stat.Panel, timeseries.Panel, bargauge.Panel)


@dataclass(frozen=True)
class Query:
    """An expression, and how what it gives is called: ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under a title, and what to read when they look wrong."""

    title: str
    runbook: str
    """The alert whose section of the runbook explains the row."""
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """A dashboard. ``name`` is that of its files, and the end of its address in Grafana."""

    name: str
    title: str
    description: str
    variables: Sequence[str]
    rows: Sequence[Row]
    traces: str = ""
    """What a link asks the trace store for, in TraceQL; empty: there is none."""

    def build(self) -> models.Dashboard:
        """The dashboard as Grafana has it."""
        board = (
            sdk.Dashboard(f"corral / {self.title}")
            .uid(f"corral-{self.name}")
            .description(self.description)
            .tags([TAG])
            .timezone("browser")
            .time("now-1h", "now")
            .refresh("30s")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .with_variable(
                sdk.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
            )
            .link(
                sdk.DashboardLink("corral")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .placement("")
                .include_vars(True)
                .keep_time(True)
            )
            .link(_runbook("Runbooks", ""))
        )
        if self.traces:
            board.with_variable(sdk.DatasourceVariable(TRACES).label("Traces").type("tempo"))
            board.link(_traces(self.traces))
        for name in self.variables:
            board.with_variable(_variable(name))
        for row in self.rows:
            board.with_row(sdk.Row(row.title))
            for panel in row.panels:
                board.with_panel(panel.links([_runbook(f"Runbook: {row.runbook}", row.runbook)]))
        return _numbered(board.build())


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    stacked: bool = False,
    limit: float | None = None,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        unit: as Grafana names it: ``s``, ``reqps``, ``percentunit``, ``currencyUSD``, ….
        width: of 24.
        limit: where the red begins.
        most: the top of the axis.
    """
    made = (
        timeseries.Panel()
        .fill_opacity(30 if stacked else 8)
        .line_width(1)
        .show_points(look.VisibilityMode.AUTO)
        .min(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(look.LegendDisplayMode.TABLE)
            .placement(look.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(look.TooltipDisplayMode.MULTI)
            .sort(look.SortOrder.DESCENDING)
        )
    )
    if stacked:
        made.stacking(common.StackingConfig().mode(look.StackingMode.NORMAL))
    if most is not None:
        made.max(most)
    made.thresholds(_colors(limit))
    if limit is not None:
        made.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(look.GraphThresholdsStyleMode.LINE)
        )
    return _filled(made, title, description, queries, unit, width, 8)


def quantiles(histogram: str, selector: str, by: str, nameless: str = "") -> list[Query]:
    """What half of a histogram's values, and 95 of 100, do not pass; a line for each of both.

    Args:
        nameless: what series are called that don't have the label ``by``.
    """
    found = []
    for share in (0.5, 0.95):
        expr = quantile(share, histogram, selector, by)
        found.append(
            Query(named(expr, by, nameless) if nameless else expr, f"{{{{{by}}}}} p{share * 100:g}")
        )
    return found


def number(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    limit: float | None = None,
    low: bool = False,
    words: dict[str, str] | None = None,
) -> stat.Panel:
    """One number, as it is now; with a line behind it, unless it is one of all the time shown.

    Args:
        limit: from where it is red; with ``low`` it is red below that.
        words: what to show in place of a value.
    """
    of_all = "$__range" in expr
    made = (
        stat.Panel()
        .graph_mode(look.BigValueGraphMode.NONE if of_all else look.BigValueGraphMode.AREA)
        .color_mode(look.BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_colors(limit, low=low))
    )
    if of_all and unit == "short":
        # Extrapolated, or it would be whole.
        made.decimals(0)
    if words:
        options = {value: models.ValueMappingResult(text=text) for value, text in words.items()}
        made.mappings([models.ValueMap(options=options)])
    return _filled(made, title, description, [Query(expr)], unit, 4, 4, instant=of_all)


def bars(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = "short",
    limit: float | None = None,
    low: bool = False,
    most: float | None = None,
) -> bargauge.Panel:
    """A bar for each series, as it is now. Arguments as of ``graph`` and ``number``."""
    made = (
        bargauge.Panel()
        .orientation(look.VizOrientation.HORIZONTAL)
        .display_mode(look.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .thresholds(_colors(limit, low=low))
    )
    if most is not None:
        made.max(most)
    return _filled(made, title, description, [query], unit, 12, 8, instant=True)


def _filled(
    made: P,
    title: str,
    description: str,
    queries: Sequence[Query],
    unit: str,
    width: int,
    height: int,
    *,
    instant: bool = False,
) -> P:
    """What all panels have."""
    for ref, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
        target.legend_format(query.legend or "__auto")
        made.with_target(target.instant() if instant else target.range())
    made.title(title).description(description).datasource(SOURCE)
    made.unit(unit).span(width).height(height)
    return made


def _colors(limit: float | None, *, low: bool = False) -> sdk.ThresholdsConfig:
    """Green, and red from the limit on; with ``low`` red, and green from the limit on."""
    below, above = ("red", "green") if low else ("green", "red")
    steps = [models.Threshold(color=below, value=None)]
    if limit is not None:
        steps.append(models.Threshold(color=above, value=limit))
    return sdk.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _variable(name: str) -> sdk.QueryVariable:
    return (
        sdk.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": VARIABLES[name], "refId": name})
        .definition(VARIABLES[name])
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # Steps that no Agent works on have the empty name.
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _traces(query: str) -> sdk.DashboardLink:
    """Leads to Explore, to the traces of the time that is shown."""
    asked = {"refId": "A", "queryType": "traceql", "tableType": "traces", "query": query}
    panes = {
        "corral": {
            "datasource": f"${{{TRACES}}}",
            "queries": [asked],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    coded = quote(json.dumps(panes, separators=(",", ":")), safe="")
    # What Grafana fills in has to be seen by it.
    for variable in re.findall(r"\$\{[^}]+\}", json.dumps(panes)):
        coded = coded.replace(quote(variable, safe=""), variable)
    return (
        sdk.DashboardLink("Traces")
        .type(models.DashboardLinkType.LINK)
        .icon("external link")
        .placement("")
        .url(f"/explore?schemaVersion=1&panes={coded}")
        .target_blank(True)
    )


def _runbook(title: str, alert: str) -> sdk.DashboardLink:
    return (
        sdk.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .icon("doc")
        # Empty: where it is seen, not in a menu.
        .placement("")
        .url(f"{RUNBOOKS}#{alert.lower()}" if alert else RUNBOOKS)
        .target_blank(True)
    )


def _numbered(board: models.Dashboard) -> models.Dashboard:
    """Panels get the ids that Grafana would give them, so that its exports don't differ."""
    for place, panel in enumerate(board.panels or [], start=1):
        panel.id_val = place
    return board
