"""``corral cost`` against a ledger that is really served: all its forms come to the same sum."""

import asyncio
import csv
import io
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from corral.cli import focus
from corral.cli.cluster import ApiError, Cluster
from corral.cli.cost import Wanted, cost, keys_of, moment, table
from corral.cli.errors import CliError, Exit
from corral.handlers.ledger import serve_ledger
from corral.ledger.store import Store
from tests.unit.ledger.entries import NOW, entries, entry

PROXY = "/api/v1/namespaces/corral-system/services/corral-operator:ledger/proxy"
UNPRICED = {"cost_usd": None, "price_source": None, "unpriced_requests": 2}
ROWS = [
    *entries(5, cost_usd=Decimal("0.0000000000001"), simulated=True),
    *entries(2100, run_id="big", workflow="big", model_ref="cheap", cost_usd=Decimal("0.001")),
    entry(attempt_id="r.u.0.1.1", agent="critic", model="nobody-knows", **UNPRICED),
    entry(attempt_id="r.o.0.1.1", namespace="other", cost_usd=Decimal(7)),
    entry(attempt_id="r.old.0.1.1", recorded_at=NOW - 90 * 86400, cost_usd=Decimal(100)),
]
KNOWN = Decimal("2.1000000000005")


class Served(Cluster):
    """What the operator serves, without an API server in between."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.error: ApiError | None = None
        self.calls = 0

    def read(self, path: str) -> bytes:
        self.calls += 1
        if self.error is not None:
            raise self.error
        assert path.startswith(f"{PROXY}/")
        try:
            with urllib.request.urlopen(self.address + path.removeprefix(PROXY)) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            message = json.loads(error.read())["message"]
            error.close()
            raise ApiError(error.code, "", message, {}) from None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Any, Store, int]:
        store = Store(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")
        await store.migrate()
        await store.write(ROWS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return await serve_ledger(store, port), store, port

    runner, store, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield Served(port)

    async def end() -> None:
        await runner.cleanup()
        await store.close()

    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def wanted(**changes: Any) -> Wanted:
    known = {"by": ("agent",), "namespace": "team", "since": NOW - 60, "until": NOW + 60}
    return Wanted(**{**known, "only": {}, **changes})


def shown(served: Served, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    assert cost(served, wanted(**changes)) == Exit.OK
    return capsys.readouterr().out


def test_the_table_has_the_dearest_first_with_bars_and_the_total(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cost(served, wanted()) == Exit.OK
    said = capsys.readouterr()
    header, first, second, total = said.out.splitlines()
    assert " ".join(header.split()) == "AGENT COST REQUESTS TOKENS IN TOKENS OUT UNPRICED"
    assert first.startswith("writer   $2.1000000000005")
    assert first.endswith("█" * 24)
    assert second.split() == ["critic", "unknown", "2", "100", "50", "2"]
    assert total.split()[:2] == ["TOTAL", "$2.1000000000005"]
    assert "of 4,212 requests 2 have no known price" in said.err
    assert "10 requests were simulated" in said.err


def test_all_forms_come_to_the_same_sum(
    served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    by_json = json.loads(shown(served, capsys, form="json"))
    by_csv = list(csv.DictReader(io.StringIO(shown(served, capsys, form="csv"))))
    attempts = list(csv.DictReader(io.StringIO(shown(served, capsys, form="csv", by=("attempt",)))))
    bill = list(csv.DictReader(io.StringIO(shown(served, capsys, form="focus"))))
    place = tmp_path / "cost.parquet"
    shown(served, capsys, form="parquet", by=("attempt",), file=str(place))
    columns = parquet.read_table(place).to_pydict()
    assert Decimal(by_json["total"]["costUSD"]) == KNOWN
    assert sum(Decimal(row["costUSD"] or 0) for row in by_csv) == KNOWN
    assert sum(Decimal(row["costUSD"] or 0) for row in attempts) == KNOWN
    assert sum(Decimal(row["BilledCost"]) for row in bill) == KNOWN
    assert sum(one or 0 for one in columns["costUSD"]) == KNOWN
    assert len(attempts) == len(columns["attemptID"]) == 2106
    assert len(bill) == 2105, "the unpriced has no cost to be billed"


def test_the_unpriced_is_empty_and_never_zero(
    served: Served, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only = {"only": {"agent": "critic"}}
    (row,) = csv.DictReader(io.StringIO(shown(served, capsys, form="csv", **only)))
    assert (row["costUSD"], row["unpricedRequests"]) == ("", "2")
    assert json.loads(shown(served, capsys, form="json", **only))["rows"][0]["costUSD"] is None
    place = tmp_path / "cost.parquet"
    shown(served, capsys, form="parquet", file=str(place), **only)
    assert parquet.read_table(place)["costUSD"].to_pylist() == [None]
    assert shown(served, capsys, form="focus", **only).count("\n") == 1  # the header


def test_all_namespaces_are_told_apart(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(served, capsys, form="json", namespace=None))
    assert [(row["namespace"], row["agent"]) for row in found["rows"]] == [
        ("other", "writer"),
        ("team", "writer"),
        ("team", "critic"),
    ]


def test_several_keys_and_times(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(served, capsys, form="json", by=("workflow", "model"), since=0.0))
    assert Decimal(found["total"]["costUSD"]) == KNOWN + 100
    assert [(row["workflow"], row["model"]) for row in found["rows"]] == [
        ("report", "gpt-5-mini"),
        ("big", "gpt-5-mini"),
        ("report", "nobody-knows"),
    ]


def test_nothing_is_not_unknown(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ("table", "csv", "json", "focus"):
        assert shown(served, capsys, form=form, since=1.0, until=2.0)
    assert shown(served, capsys, since=1.0, until=2.0).splitlines()[1].split()[:2] == ["TOTAL", "-"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ApiError(403, "", "no rights", {}), "the Role corral-ledger-reader in namespace corral-"),
        (ApiError(404, "", "none", {"name": "x"}), "there is no Service corral-operator"),
        (ApiError(404, "", "this operator keeps no ledger", {}), "keeps no ledger"),
        (ApiError(503, "", "the ledger can't be read: locked", {}), "can't be read: locked"),
    ],
)
def test_a_ledger_that_can_not_be_had_is_said_in_a_sentence(
    served: Served, error: ApiError, message: str
) -> None:
    served.error = error
    try:
        with pytest.raises(CliError, match=message):
            cost(served, wanted())
    finally:
        served.error = None


def test_a_file_that_can_not_be_written_is_named(served: Served, tmp_path: Path) -> None:
    for form in ("csv", "parquet"):
        with pytest.raises(CliError, match="can't be written: No such file") as failed:
            cost(served, wanted(form=form, file=str(tmp_path / "no" / "where")))
        assert failed.value.code == Exit.USAGE


def test_parquet_needs_a_file(served: Served) -> None:
    with pytest.raises(CliError, match="needs --file"):
        cost(served, wanted(form="parquet"))


def test_keys_are_repeated_or_with_commas() -> None:
    assert keys_of(["agent,model", "agent", "step"]) == ("agent", "model", "step")
    with pytest.raises(CliError, match="no key 'agnet'; did you mean 'agent'"):
        keys_of(["agnet"])
    with pytest.raises(CliError, match="stands alone"):
        keys_of(["attempt,agent"])


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("7d", NOW - 7 * 86400),
        ("2w", NOW - 14 * 86400),
        ("1h30m", NOW - 5400),
        ("2026-11-01", 1_793_491_200.0),
        ("2026-11-01T12:00", 1_793_534_400.0),
        ("2026-11-01T12:00:00+02:00", 1_793_527_200.0),
    ],
)
def test_times_are_read(text: str, at: float) -> None:
    assert moment("--since", text, NOW) == at


@pytest.mark.parametrize("text", ["", "7", "-7d", "yesterday", "2026-13-01", "9" * 30 + "d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="--since"):
        moment("--since", text, NOW)


def test_bars_are_shares_of_the_dearest() -> None:
    counts = {"requests": 1, "inputTokens": 1, "outputTokens": 1, "unpricedRequests": 0}
    rows = [{"agent": name, "costUSD": known, **counts} for name, known in
            (("a", "8"), ("b", "4"), ("c", "0.0417"), ("d", None))]  # fmt: skip
    lines = table(["agent"], {"rows": rows, "total": {"costUSD": "12", **counts}})
    assert [line.split("0   ")[-1].strip() for line in lines[1:3]] == ["█" * 24, "█" * 12]
    assert lines[3].endswith("▏")
    assert "▏" not in lines[4]


def test_a_bill_has_all_columns_that_focus_asks_for(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    bill = list(csv.DictReader(io.StringIO(shown(served, capsys, form="focus"))))
    must = set(focus.COLUMNS) - set(focus._EMPTY)
    row = next(one for one in bill if one["x_Simulated"] == "True")
    assert all(row[name] for name in must - {"x_PriceSource"}), row
    assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"]
    assert json.loads(row["Tags"])["corral.dev/workflow"] == "report"
    assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(
        row["ListCost"]
    )
