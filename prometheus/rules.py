"""The alert and recording rules: the one source of corral.yaml and of the PrometheusRule.

Every duration goes through ``_at(pace, …)``, so that tests can have rules that run faster.
"""

from dataclasses import dataclass, field
from typing import Any

RUNBOOKS = "https://corral.dev/docs/runbooks/alerts/"
"""Where docs/runbooks/alerts.md is published; whoever has it elsewhere changes it here."""
OBJECTIVE = 0.99
"""The share of steps that should not fail."""
FEWEST_STEPS = 10
"""Failures among fewer steps than that, within the longer window, burn nothing."""
SLOW_STEP = 300.0
"""Seconds that 95 of 100 steps should not pass."""
DEEP_QUEUE = 100
"""Steps of one Agent."""
OLD_QUEUE = 600.0
"""Seconds without anything of a queued step being started."""
STILL_RUN = 1800.0
"""Seconds without any change of a run that waits for nobody."""
NEARLY_GONE = 0.9
"""The share of a budget."""
SPIKE = 3.0
"""Times what the day before cost."""
SPIKE_USD = 1.0
"""What an hour has to cost for that to matter."""

_HOUR = 3600.0
_FOR_PEOPLE = "ApprovalPending|Suspended|Waiting|BudgetExceeded"
"""What runs wait for that is no fault: somebody decides, or time passes."""


@dataclass(frozen=True)
class Alert:
    """One alert. ``wait`` is in seconds: for how long ``expr`` has to hold."""

    name: str
    severity: str
    """critical: somebody has to look now; warning: within the day; info: to be known."""
    expr: str
    summary: str
    description: str
    wait: float = 0.0


@dataclass
class Rules:
    """What Prometheus is to record, and to alert of.

    Args:
        pace: what every duration is multiplied by.
    """

    pace: float = 1.0
    recorded: dict[str, str] = field(init=False)
    """Expressions by name."""
    alerts: list[Alert] = field(init=False)

    def __post_init__(self) -> None:
        self.recorded = {
            f"corral:step_failures:ratio_rate{window}": self._failures(window)
            for window in ("5m", "30m", "1h", "6h", "3d")
        }
        self.alerts = [
            *self._errors(),
            *self._runs(),
            *self._pools(),
            *self._money(),
            *self._dependencies(),
            *self._operator(),
        ]

    def groups(self) -> list[dict[str, Any]]:
        """The groups of a rule file."""
        recorded = [{"record": name, "expr": expr} for name, expr in self.recorded.items()]
        return [
            {"name": "corral-recorded", "rules": recorded},
            {"name": "corral", "rules": [self._alert(alert) for alert in self.alerts]},
        ]

    def _alert(self, alert: Alert) -> dict[str, Any]:
        return {
            "alert": alert.name,
            "expr": alert.expr,
            **({"for": self._at(alert.wait)} if alert.wait else {}),
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{RUNBOOKS}#{alert.name.lower()}",
            },
        }

    def _at(self, seconds: float) -> str:
        """A duration as PromQL has it."""
        left = round(seconds * self.pace * 1000)
        parts = []
        for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
            count, left = divmod(left, size)
            parts += [f"{count}{unit}"] if count else []
        return "".join(parts)

    def _seconds(self, seconds: float) -> str:
        """A number of seconds to compare with."""
        return f"{seconds * self.pace:g}"

    def _failures(self, window: str) -> str:
        at = self._at(int(window[:-1]) * {"m": 60.0, "h": _HOUR, "d": 24 * _HOUR}[window[-1]])
        failed = f'corral_steps_finished_total{{phase="Failed"}}[{at}]'
        ended = f'corral_steps_finished_total{{phase=~"Succeeded|Failed"}}[{at}]'
        return f"sum by (namespace) (rate({failed})) / sum by (namespace) (rate({ended}))"

    def _rises(self, metric: str, by: str, window: float) -> str:
        """By how much a counter has risen; one that is new has risen from 0.

        Nothing is new to a Prometheus that was not there before.
        """
        at = self._at(window)
        new = f"sum by ({by}) ({metric} unless {metric} offset {at}) > 0"
        return (
            f"sum by ({by}) (increase({metric}[{at}])) > 0"
            f" or ({new} and on () count(up offset {at}) > 0)"
        )

    def _burn(
        self, name: str, severity: str, rate: float, windows: tuple[str, str], wait: float
    ) -> Alert:
        long, short = windows
        limit = f"{rate * (1 - OBJECTIVE):g}"
        ended = 'corral_steps_finished_total{phase=~"Succeeded|Failed"}'
        size = {"1h": _HOUR, "6h": 6 * _HOUR, "3d": 72 * _HOUR}[long]
        return Alert(
            name,
            severity,
            f"corral:step_failures:ratio_rate{long} > {limit}"
            f" and corral:step_failures:ratio_rate{short} > {limit}"
            f" and sum by (namespace) (increase({ended}[{self._at(size)}])) >= {FEWEST_STEPS}",
            "Steps in {{ $labels.namespace }} fail",
            "{{ $value | humanizePercentage }} of the steps of the last "
            f"{long} failed; {1 - OBJECTIVE:.0%} may.",
            wait,
        )

    def _errors(self) -> list[Alert]:
        return [
            self._burn("CorralStepsFailFast", "critical", 14.4, ("1h", "5m"), 120),
            self._burn("CorralStepsFail", "warning", 6, ("6h", "30m"), 900),
            self._burn("CorralStepsFailSlowly", "warning", 1, ("3d", "6h"), _HOUR),
        ]

    def _runs(self) -> list[Alert]:
        quarter = self._at(900)
        rates = f"rate(corral_step_duration_seconds_bucket[{quarter}])"
        at = "Agent {{ $labels.agent }} in {{ $labels.namespace }}"
        return [
            Alert(
                "CorralStepsSlow",
                "warning",
                f"histogram_quantile(0.95, sum by (namespace, agent, le) ({rates}))"
                f" > {self._seconds(SLOW_STEP)}",
                f"Steps of {at} are slow",
                "One of 20 takes longer than {{ $value | humanizeDuration }}.",
                600,
            ),
            Alert(
                "CorralQueueDeep",
                "warning",
                f'sum by (namespace, agent) (corral_steps{{phase="Queued"}}) > {DEEP_QUEUE}',
                f"Many steps wait for {at}",
                "{{ $value }} steps are queued.",
                900,
            ),
            Alert(
                "CorralQueueOld",
                "warning",
                "max by (namespace, agent) (corral_step_queue_age_seconds)"
                f" > {self._seconds(OLD_QUEUE)}",
                f"Steps of {at} don't start",
                "Nothing of a queued step has started for {{ $value | humanizeDuration }}.",
                120,
            ),
            Alert(
                "CorralWorkflowStuck",
                "warning",
                "max by (namespace, waits_for) (corral_workflow_still_seconds"
                f'{{waits_for!~"{_FOR_PEOPLE}"}}) > {self._seconds(STILL_RUN)}',
                "A Workflow in {{ $labels.namespace }} is stuck",
                "Nothing of it has changed for {{ $value | humanizeDuration }}; it says: "
                "{{ $labels.waits_for }}.",
            ),
            Alert(
                "CorralCronMissed",
                "warning",
                self._rises("corral_cron_missed_total", "namespace, cron", 900),
                "CronWorkflow {{ $labels.cron }} in {{ $labels.namespace }} missed its time",
                "No Workflow was made at a scheduled time.",
            ),
        ]

    def _pools(self) -> list[Alert]:
        pool = "AgentPool {{ $labels.pool }} in {{ $labels.namespace }}"
        return [
            Alert(
                "CorralPoolCannotStart",
                "critical",
                "max by (namespace, pool) (corral_pool_failing) == 1",
                f"Workers of {pool} can't start",
                "The pool's condition Ready says why.",
                300,
            ),
            Alert(
                "CorralWorkersCrash",
                "warning",
                "sum by (namespace, pool) (increase(corral_pool_workers_ended_total"
                f"[{self._at(900)}])) > 2",
                f"Workers of {pool} end again and again",
                "{{ $value | humanize }} have ended by themselves in the last 15 minutes.",
            ),
        ]

    def _money(self) -> list[Alert]:
        hour, day = self._at(_HOUR), self._at(24 * _HOUR)
        now = f"sum by (namespace) (increase(corral_cost_usd_total[{hour}]))"
        before = f"sum by (namespace) (increase(corral_cost_usd_total[{day}] offset {hour})) / 24"
        return [
            Alert(
                "CorralAgentBudgetNearlyGone",
                "warning",
                f"max by (namespace, agent) (corral_agent_budget_used_ratio) > {NEARLY_GONE}",
                "The budget of Agent {{ $labels.agent }} in {{ $labels.namespace }} is nearly gone",
                "{{ $value | humanizePercentage }} of this period's is spent.",
            ),
            Alert(
                "CorralWorkflowBudgetNearlyGone",
                "info",
                f"max by (namespace) (corral_workflow_budget_used_ratio) > {NEARLY_GONE}",
                "The budget of a Workflow in {{ $labels.namespace }} is nearly gone",
                "{{ $value | humanizePercentage }} of it is spent.",
            ),
            Alert(
                "CorralCostSpike",
                "warning",
                f"{now} > {SPIKE_USD:g} and {now} > {SPIKE:g} * ({before})",
                "{{ $labels.namespace }} spends much more than the day before",
                "{{ $value | humanize }} USD in the last hour.",
                300,
            ),
            Alert(
                "CorralUnpricedUsage",
                "warning",
                self._rises("corral_unpriced_requests_total", "namespace, model", 900),
                "Calls of Model {{ $labels.model }} in {{ $labels.namespace }} have no known cost",
                "No budget of money counts them: there is no price, or no answer came.",
            ),
        ]

    def _dependencies(self) -> list[Alert]:
        ten, hour = self._at(600), self._at(3600)
        return [
            Alert(
                "CorralCircuitOpen",
                "warning",
                "max by (namespace, model) (corral_circuit_state) > 0",
                "Model {{ $labels.model }} in {{ $labels.namespace }} does not answer",
                "Its circuit is open: steps that need it wait, or ask a fallback.",
                120,
            ),
            Alert(
                "CorralToolServerDown",
                "warning",
                "min by (namespace, server) (corral_worker_tool_server_usable) == 0",
                "Tool server {{ $labels.server }} does not answer workers in "
                "{{ $labels.namespace }}",
                "Workers leave it alone: calls of its tools fail at once.",
                120,
            ),
            Alert(
                "CorralArtifactStoreDown",
                "critical",
                "min(corral_artifact_store_usable) == 0",
                "The artifact store does not answer",
                "Runs with large outputs wait.",
                120,
            ),
            Alert(
                "CorralLedgerBehind",
                "warning",
                "max(corral_ledger_held_attempts) > 0 and max(corral_ledger_up) == 0",
                "The ledger of costs can't be written",
                "What {{ $value | humanize }} attempts cost waits to be written; runs go on.",
                600,
            ),
            Alert(
                "CorralLedgerRefusesRows",
                "warning",
                f"sum(increase(corral_ledger_refused_rows_total[{hour}])) > 0",
                "The ledger's database refuses rows",
                "{{ $value | humanize }} rows of costs are in no ledger; statuses have them.",
            ),
            Alert(
                "CorralTracesBehind",
                "warning",
                "max(corral_spans_waiting) > 0 and "
                f"sum(increase(corral_spans_exported_total[{ten}])) == 0",
                "No collector takes the spans of runs",
                "{{ $value | humanize }} spans wait in the ledger's database; runs go on.",
                600,
            ),
            Alert(
                "CorralSpansLost",
                "warning",
                f"sum(increase(corral_spans_dropped_total[{hour}])) + "
                f"sum(increase(corral_spans_failed_total[{hour}])) > 0",
                "Spans of runs are lost",
                "{{ $value | humanize }} spans were refused, or waited for too long.",
            ),
        ]

    def _operator(self) -> list[Alert]:
        five, ten = self._at(300), self._at(600)
        conflicts = f"sum by (resource) (rate(corral_api_conflicts_total[{ten}]))"
        writes = f"sum by (resource) (rate(corral_api_writes_total[{ten}]))"
        refused = f'rate(corral_api_errors_total{{status=~"0|429|5.."}}[{five}])'
        return [
            Alert(
                "CorralOperatorDown",
                "critical",
                "absent(corral_leader)",
                "No operator of corral can be scraped",
                "Nothing new starts; what runs goes on for two minutes.",
                120,
            ),
            Alert(
                "CorralNobodyLeads",
                "critical",
                "sum(corral_leader) == 0",
                "No operator of corral leads",
                "Operators are there, and none holds the Lease: nothing new starts.",
                120,
            ),
            Alert(
                "CorralSeveralLead",
                "critical",
                "sum(corral_leader) > 1",
                "{{ $value }} operators of corral say that they lead",
                "Only one may.",
                120,
            ),
            Alert(
                "CorralPassesFail",
                "warning",
                self._rises("corral_reconcile_errors_total", "queue", 600),
                "The operator meets errors that nobody expected",
                "Passes over {{ $labels.queue }} ended in an exception.",
            ),
            Alert(
                "CorralApiConflicts",
                "warning",
                f"{conflicts} > 0.1 * {writes} and {conflicts} > 0.1",
                "Somebody else writes the same {{ $labels.resource }} as the operator",
                "{{ $value | humanize }} writes a second met another's.",
                600,
            ),
            Alert(
                "CorralApiErrors",
                "warning",
                f"sum({refused}) > 0.05",
                "The API server does not answer the operator",
                "{{ $value | humanize }} calls a second got no answer, or were refused for now.",
                300,
            ),
        ]
