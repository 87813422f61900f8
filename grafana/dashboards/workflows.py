"""Do runs get on, how long do they take, and what do they wait for?"""

from grafana.panels import Board, Query, Row, bars, graph, number, quantiles
from grafana.queries import NAMESPACE, named, or_none, rate, rise
from prometheus.rules import NEARLY_GONE, STILL_RUN

_FAILED = f'{NAMESPACE}, phase="Failed"'

BOARD = Board(
    "workflows",
    "Workflow execution",
    "Do runs get on, how long do they take, and what do they wait for?",
    ["namespace"],
    traces='{name=~"invoke_workflow.*" && span.k8s.namespace.name=~"${namespace:pipe}"}',
    rows=[
        Row(
            "Runs",
            "CorralWorkflowStuck",
            [
                number(
                    "Running",
                    "Runs at work.",
                    or_none(f'sum(corral_workflows{{{NAMESPACE}, phase="Running"}})'),
                ),
                number(
                    "Succeeded",
                    "Runs that ended well in the time shown.",
                    or_none(
                        rise("corral_workflows_finished_total", f'{NAMESPACE}, phase="Succeeded"')
                    ),
                ),
                number(
                    "Failed",
                    "Runs that failed in the time shown; below, by reason.",
                    or_none(rise("corral_workflows_finished_total", _FAILED)),
                    limit=1,
                ),
                number(
                    "Stands still the longest",
                    "The unfinished run of which nothing has changed for the longest; below, by "
                    "what is waited for. `corral get workflows` names it.",
                    or_none(f"max(corral_workflow_still_seconds{{{NAMESPACE}}})"),
                    unit="s",
                    limit=STILL_RUN,
                ),
                number(
                    "Missed times",
                    "Scheduled times of the time shown at which no Workflow was made.",
                    or_none(rise("corral_cron_missed_total", NAMESPACE)),
                    limit=1,
                ),
                number(
                    "Fullest budget",
                    "Of the unfinished run that has spent the most of its budget, the share.",
                    or_none(f"max(corral_workflow_budget_used_ratio{{{NAMESPACE}}})"),
                    unit="percentunit",
                    limit=NEARLY_GONE,
                ),
                graph(
                    "Workflows by phase",
                    "Workflows that there are. If the finished only grow, give runs "
                    "`ttlAfterFinished`.",
                    Query(f"sum by (phase) (corral_workflows{{{NAMESPACE}}})", "{{phase}}"),
                    stacked=True,
                ),
                graph(
                    "Changes of phase",
                    "What happens: runs that begin, wait and end.",
                    Query(
                        rate("corral_workflow_phase_transitions_total", NAMESPACE, "phase"),
                        "{{phase}}",
                    ),
                    unit="ops",
                ),
            ],
        ),
        Row(
            "How runs end",
            "CorralStepsFail",
            [
                bars(
                    "Ended, by template",
                    "In the time shown.",
                    Query(
                        named(
                            rise("corral_workflows_finished_total", NAMESPACE, "template, phase"),
                            "template",
                            "no template",
                        ),
                        "{{template}} {{phase}}",
                    ),
                ),
                graph(
                    "Failed, by reason",
                    "Runs that failed, in a minute. Failed: a step did, `corral get workflow NAME` "
                    "says which.",
                    Query(
                        or_none(
                            f"60 * {rate('corral_workflows_finished_total', _FAILED, 'reason')}",
                            "reason",
                        ),
                        "{{reason}}",
                    ),
                    unit="opm",
                ),
                graph(
                    "Duration, by template",
                    "From start to end: half of the runs, and 95 of 100, take no longer.",
                    *quantiles(
                        "corral_workflow_duration_seconds", NAMESPACE, "template", "no template"
                    ),
                    unit="s",
                ),
                graph(
                    "Times missed, by CronWorkflow",
                    "In a minute. Events of the CronWorkflow say why.",
                    Query(
                        or_none(
                            f"60 * {rate('corral_cron_missed_total', NAMESPACE, 'cron')}", "cron"
                        ),
                        "{{cron}}",
                    ),
                    unit="opm",
                ),
            ],
        ),
        Row(
            "What steps wait for",
            "CorralQueueOld",
            [
                graph(
                    "Stand still, by what is waited for",
                    "The longest of each. ApprovalPending and Suspended wait for people; others "
                    "that rise for half an hour are stuck.",
                    Query(
                        or_none(
                            f"max by (waits_for) (corral_workflow_still_seconds{{{NAMESPACE}}})",
                            "waits_for",
                        ),
                        "{{waits_for}}",
                    ),
                    unit="s",
                ),
                graph(
                    "Queued steps, by reason",
                    "All workers are busy: more of them. ModelLimited, CircuitOpen: the Model "
                    "lets nothing through. NoCapacity: workers don't start.",
                    Query(
                        or_none(
                            named(
                                f'sum by (reason) (corral_steps{{{NAMESPACE}, phase="Queued"}})',
                                "reason",
                                "all workers are busy",
                            ),
                            "reason",
                        ),
                        "{{reason}}",
                    ),
                    stacked=True,
                ),
                graph(
                    "Steps that end, by phase and reason",
                    "Of all Agents. Failed ones have the class of their error as reason.",
                    Query(
                        rate("corral_steps_finished_total", NAMESPACE, "phase, reason"),
                        "{{phase}} {{reason}}",
                    ),
                    unit="ops",
                    width=24,
                    stacked=True,
                ),
            ],
        ),
    ],
)
