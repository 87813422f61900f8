"""What is spent, on what, how much of it is unknown, and how long budgets last."""

from grafana.panels import Board, Query, Row, bars, graph, number
from grafana.queries import AGENT, NAMESPACE, or_none, rate, rise
from prometheus.rules import NEARLY_GONE

_COST = "corral_cost_usd_total"
_UNPRICED = "corral_unpriced_requests_total"
_REQUESTS = "corral_model_requests_total"
_SUCCEEDED = f'{AGENT}, phase="Succeeded"'
_ESTIMATE = "Rises of counters are estimates; `corral cost` has the exact sums."

BOARD = Board(
    "cost",
    "Cost",
    "What is spent, on what, how much of it is unknown, and how long budgets last.",
    ["namespace", "agent"],
    [
        Row(
            "In the time shown",
            "CorralCostSpike",
            [
                number(
                    "Known cost",
                    f"Of calls with a price. {_ESTIMATE}",
                    or_none(rise(_COST, AGENT)),
                    unit="currencyUSD",
                ),
                number(
                    "Unpriced calls",
                    "Real calls whose cost is unknown, and in no number here: there is no price, "
                    "or no answer came. Set the Model's `price`.",
                    or_none(rise(_UNPRICED, AGENT)),
                    limit=1,
                ),
                number(
                    "Model calls",
                    "With and without a price, retries and simulated ones included.",
                    or_none(rise(_REQUESTS, AGENT)),
                ),
                number(
                    "An hour, at this rate",
                    "Known cost of an hour if all goes on as in the time shown.",
                    or_none(f"3600 * sum(rate({_COST}{{{AGENT}}}[$__range]))"),
                    unit="currencyUSD",
                ),
                number(
                    "30 days, at this rate",
                    "Known cost of a month if all goes on as in the time shown: show a week.",
                    or_none(f"30 * 86400 * sum(rate({_COST}{{{AGENT}}}[$__range]))"),
                    unit="currencyUSD",
                ),
                number(
                    "Fullest budget of an Agent",
                    "Of this period's. Above nine tenths the alert fires.",
                    or_none(f"max(corral_agent_budget_used_ratio{{{AGENT}}})"),
                    unit="percentunit",
                    limit=NEARLY_GONE,
                ),
            ],
        ),
        Row(
            "Who spends",
            "CorralCostSpike",
            [
                graph(
                    "Spending an hour, by Agent",
                    "Known cost at the rate of the moment.",
                    Query(
                        f"3600 * {rate(_COST, AGENT, 'namespace, agent')}",
                        "{{namespace}} {{agent}}",
                    ),
                    unit="currencyUSD",
                    stacked=True,
                ),
                graph(
                    "Spending an hour, by Model",
                    "Known cost at the rate of the moment.",
                    Query(f"3600 * {rate(_COST, AGENT, 'model')}", "{{model}}"),
                    unit="currencyUSD",
                    stacked=True,
                ),
                bars(
                    "Known cost, by Agent and Model",
                    f"Of the time shown. {_ESTIMATE}",
                    Query(
                        f"sort_desc({rise(_COST, AGENT, 'namespace, agent, model')})",
                        "{{namespace}} {{agent}} {{model}}",
                    ),
                    unit="currencyUSD",
                ),
                bars(
                    "Known cost of a step that succeeded, by Agent",
                    "What failed is in it: it is what a result costs.",
                    Query(
                        f"{rise(_COST, AGENT, 'agent')} / "
                        f"({rise('corral_steps_finished_total', _SUCCEEDED, 'agent')} > 0)",
                        "{{agent}}",
                    ),
                    unit="currencyUSD",
                ),
            ],
        ),
        Row(
            "What is not known",
            "CorralUnpricedUsage",
            [
                graph(
                    "Unpriced calls, by Model",
                    "In a second. They cost something that no budget in dollars sees.",
                    Query(rate(_UNPRICED, AGENT, "model"), "{{model}}"),
                    unit="reqps",
                    stacked=True,
                ),
                bars(
                    "Share of calls without a price, by Agent",
                    "Of the time shown. Above 0 the cost of that Agent is more than is shown.",
                    Query(
                        f"{rise(_UNPRICED, AGENT, 'agent')}"
                        f" / ({rise(_REQUESTS, AGENT, 'agent')} > 0)",
                        "{{agent}}",
                    ),
                    unit="percentunit",
                    limit=0.0001,
                    most=1,
                ),
            ],
        ),
        Row(
            "The ledger",
            "CorralLedgerBehind",
            [
                graph(
                    "The ledger takes rows",
                    "1 while the leader can write; 0: its database is away. Nothing waits for it, "
                    "and `corral cost` lacks what has ended since.",
                    Query("max(corral_ledger_up)", "up"),
                    most=1,
                    width=8,
                ),
                graph(
                    "Rows written to the ledger",
                    "In a second. None while steps end: no ledger, or its database is away.",
                    Query(rate("corral_ledger_rows_total"), "rows"),
                    unit="ops",
                    width=8,
                ),
                graph(
                    "What the ledger lacks",
                    "Attempts that wait until its database answers, which `corral cost` does not "
                    "know yet; and rows that the database refused, which it never will.",
                    Query("sum(corral_ledger_held_attempts)", "attempts that wait"),
                    Query(rise("corral_ledger_refused_rows_total"), "rows refused"),
                    width=8,
                ),
            ],
        ),
        Row(
            "What it is spent on",
            "CorralCostSpike",
            [
                graph(
                    "Tokens, by Model and direction",
                    "In a second. Output costs several times what input does.",
                    Query(rate("corral_tokens_total", AGENT, "model, type"), "{{model}} {{type}}"),
                    stacked=True,
                ),
                graph(
                    "Tokens of simulated and of real calls",
                    "As workers count them, in a second. Simulated ones cost nobody anything.",
                    Query(
                        rate("corral_worker_model_tokens_total", AGENT, "simulated"),
                        "simulated: {{simulated}}",
                    ),
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Budgets",
            "CorralAgentBudgetNearlyGone",
            [
                graph(
                    "Budgets of Agents",
                    "The share that is spent in this period. At 1 steps wait or fail, as "
                    "`onExceeded` says.",
                    Query(
                        or_none(
                            "max by (namespace, agent) "
                            f"(corral_agent_budget_used_ratio{{{AGENT}}})",
                            "agent",
                        ),
                        "{{namespace}} {{agent}}",
                    ),
                    unit="percentunit",
                    limit=NEARLY_GONE,
                ),
                graph(
                    "Fullest budget of an unfinished run, by namespace",
                    "`corral get workflows` says which run. A budget may be raised while it runs.",
                    Query(
                        or_none(
                            "max by (namespace) "
                            f"(corral_workflow_budget_used_ratio{{{NAMESPACE}}})",
                            "namespace",
                        ),
                        "{{namespace}}",
                    ),
                    unit="percentunit",
                    limit=NEARLY_GONE,
                ),
            ],
        ),
    ],
)
