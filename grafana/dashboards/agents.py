"""Do Agents succeed, are they fast, and is it they, their Model or a tool?"""

from grafana.panels import Board, Query, Row, bars, graph, quantiles
from grafana.queries import AGENT, NAMESPACE, named, or_none, quantile, rate, rise
from prometheus.rules import OBJECTIVE, OLD_QUEUE, SLOW_STEP

_SUCCEEDED = f'{AGENT}, agent!="", phase="Succeeded"'
_ENDED = f'{AGENT}, agent!="", phase=~"Succeeded|Failed"'
_ANY = f"({rise('corral_steps_finished_total', _ENDED, 'agent')} > 0)"
_CALLS = "corral_worker_model_call_duration_seconds"
_TOOLS = "corral_worker_tool_call_duration_seconds"

BOARD = Board(
    "agents",
    "Agent performance",
    "Do Agents succeed, are they fast, and is it they, their Model or a tool?",
    ["namespace", "agent"],
    [
        Row(
            "Results",
            "CorralStepsFail",
            [
                bars(
                    "Steps that succeeded, by Agent",
                    "Of those that ended in the time shown. The lowest first.",
                    Query(
                        f"sort({rise('corral_steps_finished_total', _SUCCEEDED, 'agent')} / {_ANY}"
                        f" or 0 * {_ANY})",
                        "{{agent}}",
                    ),
                    unit="percentunit",
                    most=1,
                    low=True,
                    limit=OBJECTIVE,
                ),
                graph(
                    "Attempts, by outcome",
                    "What came of each attempt; retries count. RateLimited, ModelUnavailable: the "
                    "Model. ToolFailed: a tool server. InvalidOutput: the prompt or the schema.",
                    Query(rate("corral_attempts_total", AGENT, "outcome"), "{{outcome}}"),
                    unit="ops",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "How long it takes",
            "CorralStepsSlow",
            [
                graph(
                    "Steps",
                    "From a step's first attempt to its end, retries included, waiting before not.",
                    *quantiles("corral_step_duration_seconds", AGENT, "agent", "no Agent"),
                    unit="s",
                    limit=SLOW_STEP,
                ),
                graph(
                    "Attempts",
                    "For how long workers worked on one. Steps that take much longer are retried.",
                    Query(
                        quantile(0.95, "corral_attempt_duration_seconds", AGENT, "agent"),
                        "{{agent}} p95",
                    ),
                    unit="s",
                ),
                graph(
                    "Model calls",
                    "By Model, failed ones included. Close to an attempt's: the time goes here.",
                    *quantiles(_CALLS, AGENT, "model"),
                    unit="s",
                ),
                graph(
                    "Tool calls",
                    "By the Agent's entry, or a step's own. A slow one: its server.",
                    *quantiles(_TOOLS, AGENT, "tool", "a step's own"),
                    unit="s",
                ),
            ],
        ),
        Row(
            "Waiting",
            "CorralQueueOld",
            [
                graph(
                    "Wait before the first attempt",
                    "From when a step could start to when it did. More workers, or a Model's "
                    "higher limits, make it shorter.",
                    *quantiles("corral_step_queue_duration_seconds", AGENT, "agent"),
                    unit="s",
                ),
                graph(
                    "Oldest queued step, by Agent",
                    "For how long nothing of it has started. A queue that moves stays low.",
                    Query(
                        or_none(
                            f"max by (agent) (corral_step_queue_age_seconds{{{AGENT}}})", "agent"
                        ),
                        "{{agent}}",
                    ),
                    unit="s",
                    limit=OLD_QUEUE,
                ),
            ],
        ),
        Row(
            "Models",
            "CorralCircuitOpen",
            [
                graph(
                    "Model calls that fail, by class",
                    "In a second, by Model and class of error.",
                    Query(
                        or_none(
                            rate(
                                f"{_CALLS}_count", f'{AGENT}, error_class!=""', "model, error_class"
                            ),
                            "model",
                        ),
                        "{{model}} {{error_class}}",
                    ),
                    unit="ops",
                ),
                graph(
                    "Circuits",
                    "0 closed, 0.5 a probe is under way, 1 open: the Model has failed again and "
                    "again, and is left alone for a while.",
                    Query(f"max by (model) (corral_circuit_state{{{NAMESPACE}}})", "{{model}}"),
                    most=1,
                    limit=0.5,
                ),
                graph(
                    "Attempts held back, by what",
                    "They wait for a Model: its limits, its circuit, or a provider that said when "
                    "to come again.",
                    Query(
                        or_none(
                            "sum by (model, obstacle) "
                            f"(corral_model_attempts_held_back{{{NAMESPACE}}})",
                            "model",
                        ),
                        "{{model}} {{obstacle}}",
                    ),
                    stacked=True,
                ),
                graph(
                    "Attempts at work, by Model",
                    "Against `limits.maxInFlight`.",
                    Query(
                        f"sum by (model) (corral_model_attempts_in_flight{{{NAMESPACE}}})",
                        "{{model}}",
                    ),
                    stacked=True,
                ),
                graph(
                    "Tokens of a call",
                    "95 of 100 answered calls have no more. Input that grows: long histories, or "
                    "large outputs as inputs.",
                    Query(
                        quantile(
                            0.95, "corral_worker_model_call_tokens", AGENT, "direction, model"
                        ),
                        "{{model}} {{direction}}",
                    ),
                    width=24,
                ),
            ],
        ),
        Row(
            "Tools",
            "CorralToolServerDown",
            [
                graph(
                    "Tool calls, by outcome",
                    "In a second, by the Agent's entry.",
                    Query(
                        named(
                            rate(f"{_TOOLS}_count", AGENT, "tool, outcome"), "tool", "a step's own"
                        ),
                        "{{tool}} {{outcome}}",
                    ),
                    unit="ops",
                    stacked=True,
                ),
                graph(
                    "Tool servers that are left alone",
                    "1 while a worker leaves it alone after failures: its calls fail at once.",
                    Query(
                        or_none(
                            f"1 - min by (server) (corral_worker_tool_server_usable{{{AGENT}}})",
                            "server",
                        ),
                        "{{server}}",
                    ),
                    most=1,
                    limit=1,
                ),
            ],
        ),
    ],
)
