"""Each alert fires when it should and not before: by promtool, on series that are made up."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.observe import programs
from cluster.paths import ClusterError
from prometheus.__main__ import files
from prometheus.rules import RUNBOOKS, Rules
from tests.unit.docs.pages import ROOT

ALERTS = {alert.name: alert for alert in Rules().alerts}
RUNBOOK = "docs/runbooks/alerts.md"
Series = dict[str, str]
"""Values, as promtool writes them, by series."""


@dataclass(frozen=True)
class Case:
    """What an alert is to say of series that go wrong, and of some that don't."""

    alert: str
    labels: str
    wrong: Series
    at: str
    """When it is to fire, of the wrong series."""
    right: Series
    not_yet: str = "0m"
    """When it is not to fire yet, of the wrong ones."""
    every: str = "1m"
    """How far values are apart."""


def steps(failed: str, succeeded: str) -> Series:
    series = 'corral_steps_finished_total{namespace="a",agent="b",phase="%s",reason="%s"}'
    return {series % ("Failed", "Timeout"): failed, series % ("Succeeded", ""): succeeded}


def took(within: str, ever: str) -> Series:
    series = (
        'corral_step_duration_seconds_bucket{namespace="a",agent="b",phase="Succeeded",le="%s"}'
    )
    return {series % "160": within, series % "640": ever, series % "+Inf": ever}


STUCK = 'corral_workflow_still_seconds{namespace="a",waits_for="%s"}'
LEADER = 'corral_leader{pod="%s"}'
COST = 'corral_cost_usd_total{namespace="a",agent="b",model="m"}'
UP = 'up{job="any"}'
MISSED = 'corral_cron_missed_total{namespace="a",cron="nightly"}'
UNPRICED = 'corral_unpriced_requests_total{namespace="a",agent="b",model="m"}'
WRITES = 'corral_api_writes_total{resource="workflows/status",verb="PUT"}'
CONFLICTS = 'corral_api_conflicts_total{resource="workflows/status"}'

CASES = [
    Case(
        "CorralStepsFailFast",
        'namespace="a"',
        steps("0+1x70", "0+4x70"),
        "70m",
        steps("0+1x70", "0+20x70"),
    ),
    Case(
        "CorralStepsFail",
        'namespace="a"',
        steps("0+10x40", "0+90x40"),
        "400m",
        steps("0+10x40", "0+400x40"),
        every="10m",
    ),
    Case(
        "CorralStepsFailSlowly",
        'namespace="a"',
        steps("0+1x440", "0+40x440"),
        "4400m",
        steps("0+1x440", "0+200x440"),
        every="10m",
    ),
    Case(
        "CorralStepsSlow",
        'namespace="a", agent="b"',
        took("0+0x40", "0+5x40"),
        "30m",
        took("0+5x40", "0+5x40"),
    ),
    Case(
        "CorralQueueDeep",
        'namespace="a", agent="b"',
        {'corral_steps{namespace="a",agent="b",phase="Queued",reason=""}': "200x30"},
        "20m",
        {'corral_steps{namespace="a",agent="b",phase="Running",reason=""}': "200x30"},
        "10m",
    ),
    Case(
        "CorralQueueOld",
        'namespace="a", agent="b"',
        {'corral_step_queue_age_seconds{namespace="a",agent="b"}': "0+60x30"},
        "15m",
        {'corral_step_queue_age_seconds{namespace="a",agent="b"}': "0+60x9 0+60x9"},
        "9m",
    ),
    Case(
        "CorralWorkflowStuck",
        'namespace="a", waits_for="NoCapacity"',
        {STUCK % "NoCapacity": "0+60x60"},
        "35m",
        {STUCK % "ApprovalPending": "0+60x60", STUCK % "Suspended": "0+60x60"},
        "25m",
    ),
    Case(
        "CorralCronMissed",
        'namespace="a", cron="nightly"',
        {MISSED: "_x20 1x5", UP: "1x30"},
        "22m",
        {MISSED: "_x5 3x30", UP: "_x5 1x30"},
    ),
    Case(
        "CorralPoolCannotStart",
        'namespace="a", pool="p"',
        {'corral_pool_failing{namespace="a",pool="p"}': "1x20"},
        "6m",
        {'corral_pool_failing{namespace="a",pool="p"}': "1x3 0 1x3 0 1x3"},
        "4m",
    ),
    Case(
        "CorralWorkersCrash",
        'namespace="a", pool="p"',
        {'corral_pool_workers_ended_total{namespace="a",pool="p"}': "0+1x20"},
        "10m",
        {'corral_pool_workers_ended_total{namespace="a",pool="p"}': "0x5 1x15"},
    ),
    Case(
        "CorralAgentBudgetNearlyGone",
        'namespace="a", agent="b"',
        {'corral_agent_budget_used_ratio{namespace="a",agent="b"}': "0.5x5 0.95x5"},
        "8m",
        {'corral_agent_budget_used_ratio{namespace="a",agent="b"}': "0.9x10"},
    ),
    Case(
        "CorralWorkflowBudgetNearlyGone",
        'namespace="a"',
        {'corral_workflow_budget_used_ratio{namespace="a"}': "0.5x5 1x5"},
        "8m",
        {'corral_workflow_budget_used_ratio{namespace="a"}': "0.9x10"},
    ),
    Case(
        "CorralCostSpike",
        'namespace="a"',
        {COST: "0+0.1x144 15+1x12"},
        "1540m",
        {COST: "0+1x160"},
        "1440m",
        every="10m",
    ),
    Case(
        "CorralUnpricedUsage",
        'namespace="a", model="m"',
        {UNPRICED: "0x5 1x5"},
        "7m",
        {UNPRICED: "5x30", UP: "1x30"},
    ),
    Case(
        "CorralCircuitOpen",
        'namespace="a", model="m"',
        {'corral_circuit_state{namespace="a",model="m"}': "0 1 0.5 1 0.5 1"},
        "5m",
        {'corral_circuit_state{namespace="a",model="m"}': "0 1 0 0 1 0"},
    ),
    Case(
        "CorralToolServerDown",
        'namespace="a", server="s"',
        {'corral_worker_tool_server_usable{namespace="a",pod="x",server="s"}': "0x10"},
        "5m",
        {'corral_worker_tool_server_usable{namespace="a",pod="x",server="s"}': "1x10"},
    ),
    Case(
        "CorralArtifactStoreDown",
        "",
        {"corral_artifact_store_usable": "0x10"},
        "5m",
        {"corral_artifact_store_usable": "1x10"},
    ),
    Case(
        "CorralLedgerBehind",
        "",
        {"corral_ledger_held_attempts": "5x20", "corral_ledger_up": "0x20"},
        "15m",
        {"corral_ledger_held_attempts": "0x20", "corral_ledger_up": "0x20"},
        "8m",
    ),
    Case(
        "CorralLedgerRefusesRows",
        "",
        {"corral_ledger_refused_rows_total": "0x5 2x15"},
        "10m",
        {"corral_ledger_refused_rows_total": "2x20"},
    ),
    Case(
        "CorralTracesBehind",
        "",
        {"corral_spans_waiting": "0x2 9x30", "corral_spans_exported_total": "0x2 40x30"},
        "24m",
        {"corral_spans_waiting": "9x40", "corral_spans_exported_total": "0+5x40"},
    ),
    Case(
        "CorralSpansLost",
        "",
        {"corral_spans_dropped_total": "0x20", "corral_spans_failed_total": "0x5 2x15"},
        "10m",
        {"corral_spans_dropped_total": "3x20", "corral_spans_failed_total": "2x20"},
    ),
    Case("CorralOperatorDown", "", {LEADER % "x": "1x3 stale"}, "7m", {LEADER % "x": "0x10"}),
    Case(
        "CorralNobodyLeads",
        "",
        {LEADER % "x": "0x10"},
        "5m",
        {LEADER % "x": "0x10", LEADER % "y": "1x10"},
    ),
    Case(
        "CorralSeveralLead",
        "",
        {LEADER % "x": "1x10", LEADER % "y": "1x10"},
        "5m",
        {LEADER % "x": "1x4 stale", LEADER % "y": "0x4 1x6"},
    ),
    Case(
        "CorralPassesFail",
        'queue="workflows"',
        {'corral_reconcile_errors_total{queue="workflows"}': "0x3 1x10"},
        "6m",
        {'corral_reconcile_errors_total{queue="workflows"}': "7x40"},
    ),
    Case(
        "CorralApiConflicts",
        'resource="workflows/status"',
        {CONFLICTS: "0+30x40", WRITES: "0+60x40"},
        "30m",
        {CONFLICTS: "0+30x40", WRITES: "0+600x40"},
    ),
    Case(
        "CorralApiErrors",
        "",
        {'corral_api_errors_total{verb="PUT",status="0"}': "0+60x20"},
        "15m",
        {'corral_api_errors_total{verb="GET",status="404"}': "0+60x20"},
    ),
]


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return programs().promtool
    except ClusterError as error:
        pytest.skip(f"promtool is not to be had here: {error}")


def block(case: Case, series: Series, expected: dict[str, list[str]]) -> dict[str, Any]:
    """What promtool is to do: put the series in, and see what is expected at each moment."""
    return {
        "interval": case.every,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": 1} for labels in firing],
            }
            for at, firing in expected.items()
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_it_fires_when_it_should_and_only_then(case: Case, promtool: Path, tmp_path: Path) -> None:
    severity = ALERTS[case.alert].severity
    labels = f'alertname="{case.alert}", alertstate="firing", severity="{severity}"'
    firing = f"ALERTS{{{labels}{', ' + case.labels if case.labels else ''}}}"
    text = yaml.safe_dump(
        {
            "rule_files": [str(ROOT / "prometheus/corral.yaml")],
            # Else in any order: an alert may look where nothing has been recorded yet.
            "group_eval_order": [group["name"] for group in Rules().groups()],
            "evaluation_interval": case.every,
            "tests": [
                block(case, case.wrong, {case.not_yet: [], case.at: [firing]}),
                block(case, case.right, {case.at: []}),
            ],
        }
    )
    (tmp_path / "test.yaml").write_text(text)
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    assert {case.alert for case in CASES} == ALERTS.keys()


def test_the_generated_files_are_up_to_date_and_promtool_takes_them(promtool: Path) -> None:
    for path, text in files().items():
        assert path.read_text() == text, "run: python -m prometheus"
    subprocess.run([promtool, "check", "rules", ROOT / "prometheus/corral.yaml"], check=True)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_leads_to_a_section_that_says_what_to_do(name: str) -> None:
    rules = [rule for group in Rules().groups() for rule in group["rules"] if "alert" in rule]
    [rule] = [rule for rule in rules if rule["alert"] == name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{name.lower()}"
    sections = (ROOT / RUNBOOK).read_text().split("\n## ")
    [section] = [section for section in sections if section.startswith(f"{name}\n")]
    for word in ("**Means.**", "**Look.**", "**Do.**"):
        assert word in section, f"{name}: {word}"


def test_every_section_of_the_runbook_is_of_an_alert() -> None:
    text = (ROOT / RUNBOOK).read_text()
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == list(ALERTS), "in the order of the rules"


def test_a_pace_shortens_every_duration() -> None:
    fast = Rules(pace=1 / 60)
    wait = {rule.get("alert"): rule for group in fast.groups() for rule in group["rules"]}
    assert wait["CorralPoolCannotStart"]["for"] == "5s"
    assert "[15s]" in wait["CorralWorkersCrash"]["expr"]
    assert wait["CorralQueueOld"]["expr"].endswith("> 10")
