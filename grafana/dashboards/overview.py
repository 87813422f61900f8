"""Is anything wrong, and where?"""

from grafana.panels import Board, Query, Row, graph, number
from grafana.queries import NAMESPACE, or_none, rate, rise
from prometheus.rules import OBJECTIVE, OLD_QUEUE

_ENDED = f'{NAMESPACE}, phase=~"Succeeded|Failed"'
_FAILING = round(1 - OBJECTIVE, 6)
_FAILED = f'{NAMESPACE}, phase="Failed"'

BOARD = Board(
    "overview",
    "Overview",
    "Is anything wrong, and where? From here to the dashboard that has more of it.",
    ["namespace"],
    [
        Row(
            "Now",
            "CorralNobodyLeads",
            [
                number(
                    "Alerts",
                    "corral's alerts that fire, of all namespaces; below, by name.",
                    or_none('count(ALERTS{alertname=~"Corral.*", alertstate="firing"})'),
                    limit=1,
                ),
                number(
                    "Leaders",
                    "Operators that lead. 1 is right; with 0 nothing new starts.",
                    or_none("sum(corral_leader)"),
                    limit=1,
                    low=True,
                ),
                number(
                    "Steps that fail",
                    "Of the steps that ended in the time shown. Look at Agents for whose, and why.",
                    or_none(
                        f"{rise('corral_steps_finished_total', _FAILED)}"
                        f" / ({rise('corral_steps_finished_total', _ENDED)} > 0)"
                    ),
                    unit="percentunit",
                    limit=_FAILING,
                ),
                number(
                    "Oldest queued step",
                    "For how long nothing of it has started. If it only rises, look at Pools.",
                    or_none(f"max(corral_step_queue_age_seconds{{{NAMESPACE}}})"),
                    unit="s",
                    limit=OLD_QUEUE,
                ),
                number(
                    "Models that don't answer",
                    "Whose circuit is open or half open. Their steps wait, or ask a fallback.",
                    or_none(f"sum(corral_circuit_state{{{NAMESPACE}}} > bool 0)"),
                    limit=1,
                ),
                number(
                    "Spent",
                    "Known cost of the time shown. Unpriced calls are not in it: look at Cost.",
                    or_none(rise("corral_cost_usd_total", NAMESPACE)),
                    unit="currencyUSD",
                ),
            ],
        ),
        Row(
            "Work",
            "CorralStepsFailFast",
            [
                graph(
                    "Steps that end, by namespace",
                    "What gets done. A line that falls to 0 while steps wait is a stop.",
                    Query(
                        rate("corral_steps_finished_total", _ENDED, "namespace"), "{{namespace}}"
                    ),
                    unit="ops",
                ),
                graph(
                    "Share of steps that fail, by namespace",
                    "Above the line the objective is missed: see whose and why on Agents.",
                    Query(
                        f"{rate('corral_steps_finished_total', _FAILED, 'namespace')}"
                        f" / ({rate('corral_steps_finished_total', _ENDED, 'namespace')} > 0)"
                        f" or 0 * {rate('corral_steps_finished_total', _ENDED, 'namespace')}",
                        "{{namespace}}",
                    ),
                    unit="percentunit",
                    limit=_FAILING,
                    most=1,
                ),
                graph(
                    "Unfinished steps",
                    "Many queued and few running: too few workers, or a Model that holds back.",
                    Query(
                        or_none(f"sum by (phase) (corral_steps{{{NAMESPACE}}})", "phase"),
                        "{{phase}}",
                    ),
                    stacked=True,
                ),
                graph(
                    "Alerts that fire",
                    "By name; the runbook has a section for each.",
                    Query(
                        or_none(
                            "count by (alertname) "
                            '(ALERTS{alertname=~"Corral.*", alertstate="firing"})',
                            "alertname",
                        ),
                        "{{alertname}}",
                    ),
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Capacity and money",
            "CorralCostSpike",
            [
                graph(
                    "Workers",
                    "Of all pools. Ready below desired for long: look at Pools.",
                    Query(f"sum by (state) (corral_pool_replicas{{{NAMESPACE}}})", "{{state}}"),
                ),
                graph(
                    "Spending an hour, by namespace",
                    "Known cost at the rate of the moment. Who spends it: Cost.",
                    Query(
                        f"3600 * {rate('corral_cost_usd_total', NAMESPACE, 'namespace')}",
                        "{{namespace}}",
                    ),
                    unit="currencyUSD",
                    stacked=True,
                ),
            ],
        ),
    ],
)
