"""The benchmark's own arithmetic: what counters say, what counts as met, what is shown."""

import json
from pathlib import Path

import pytest

from tests.load.parts.observability import SETTINGS, Measured, _tell
from tests.load.readings import server_reading
from tests.load.report import Figure, Part, report, table, write

OPERATOR = """\
# TYPE corral_api_writes_total counter
corral_api_writes_total{resource="workflows/status",verb="PUT"} 12.0
corral_api_writes_total{resource="leases",verb="PUT"} 2.0
# TYPE corral_api_conflicts_total counter
corral_api_conflicts_total 3.0
# TYPE corral_reconcile_errors_total counter
corral_reconcile_errors_total{queue="workflows"} 1.0
corral_reconcile_errors_total{queue="agents"} 1.0
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 4.5
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1048576.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
"""


def calls(code: int, verb: str, group: str, resource: str, sub: str, count: int) -> str:
    """A line of the API server's page."""
    return (
        f'apiserver_request_total{{code="{code}",group="{group}",resource="{resource}",'
        f'subresource="{sub}",verb="{verb}"}} {count}'
    )


def test_the_api_servers_writes_of_workflows_statuses_are_added_up_over_answers() -> None:
    lines = [
        "process_cpu_seconds_total 7.5",
        calls(200, "PUT", "corral.dev", "workflows", "status", 5),
        calls(409, "PUT", "corral.dev", "workflows", "status", 1),
        calls(200, "GET", "corral.dev", "workflows", "status", 60),
        calls(201, "POST", "corral.dev", "workflows", "", 50),
        calls(200, "PUT", "corral.dev", "agents", "status", 70),
        calls(200, "PUT", "other.dev", "workflows", "status", 80),
        'apiserver_request_duration_seconds_sum{group="corral.dev",resource="workflows",'
        'subresource="status",verb="PUT"} 0.03',
        "other_total 1",
    ]
    reading = server_reading("\n".join(lines))
    assert (reading.cpu, reading.status_writes, reading.status_write_seconds) == (7.5, 6, 0.03)


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("", 5), None),
        (Figure("", 5, most=5), True),
        (Figure("", 5.1, most=5), False),
        (Figure("", 60, least=60), True),
        (Figure("", 59, least=60), False),
        (Figure("", -1, most=0, least=0), False),
    ],
)
def test_a_target_is_a_bound_that_may_be_reached(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_only_what_is_wrong_or_given_up_makes_a_part_fail() -> None:
    slow, lost = Figure("steps", 1, least=60), Figure("lost", 1, most=0, must=True)
    assert Part("chains", figures=[slow]).right
    assert not Part("chains", figures=[slow, lost]).right
    assert not Part("chains", error="it took too long").right


def test_the_table_shows_what_is_missed_and_why_a_part_was_given_up() -> None:
    shown = table(
        [
            Part("chains", figures=[Figure("steps", 1234.5, "/s", least=2000)], load=1.25),
            Part("wide", error="it took too long"),
        ]
    )
    assert "1,234.5 /s  >= 2000  MISSED" in shown
    assert "given up: it took too long" in shown


def test_the_report_has_each_figure_with_its_target_and_the_command_that_makes_it(
    tmp_path: Path,
) -> None:
    part = Part("chains", "--quick", seconds=3.21, load=0.5)
    part.figures.append(Figure("steps", 61, "/s", least=60))
    write(report([part], {"chains": 50}, "v1.34.4"), tmp_path / "new" / "report.json")
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert found["machine"]["apiServer"] == "v1.34.4"
    assert found["parts"]["chains"] == {
        "command": "make bench BENCH_ARGS='--only chains --quick'",
        "seconds": 3.2,
        "loadAverage": 0.5,
        "figures": [{"name": "steps", "value": 61, "unit": "/s", "target": ">= 60", "met": True}],
        "details": {},
    }


def test_settings_are_compared_within_a_round_and_a_round_that_went_wrong_decides_nothing() -> None:
    def measured(*rates: float, missing: int = 0) -> list[Measured]:
        lost = Figure("lost", 1, most=0, must=True)
        return [Measured(r, 100 / r, 100 / r, 0, [lost], missing=missing) for r in rates]

    part = Part("observability")
    found = [measured(100, 100, 100), measured(100, 50, 100), measured(100, 50, 100)]
    traced = measured(80, 40, 1, missing=2)
    _tell(part, dict(zip((one.name for one in SETTINGS), [*found, traced], strict=True)))
    told = {one.name: (round(one.value, 3), one.met) for one in part.figures}
    assert told["ledger: slower than nothing"] == (0, None)
    assert told["metrics, traces: slower than the ledger alone"] == (20, False)
    assert told["metrics, traces: more CPU than the ledger alone"] == (25, None)
    assert told["spans that did not come"] == (6, False)
    assert told["spans that came again"] == (0, True)
    assert told["lost"] == (12, False)
