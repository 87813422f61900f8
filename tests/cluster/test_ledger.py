"""The ledger: what was spent is there once, whatever is away, killed or deleted."""

import asyncio
import csv
import io
import json
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from corral.ledger.query import Filter
from corral.ledger.rows import Entry
from corral.ledger.store import Store
from tests.cluster import processes
from tests.cluster.harness import Cluster, Json, agent, pool, simulated, workflow
from tests.cluster.lab import SYSTEM, Lab, each, operators
from tests.cluster.lab import step as step_of
from tests.cluster.lab import workflow as made_of
from tests.cluster.terminal import corral
from tests.faults.rig import HASTE, rigged, shortly, wait_until
from tests.unit.ledger.postgres import Postgres, program

PRICE = '{inputPerMillionUSD: "0.3", outputPerMillionUSD: "1.7"}'
ANSWER = "latency: 300ms\nreply: ok\ninputTokens: 71\noutputTokens: 13"
ONE_CALL = (71 * Decimal("0.3") + 13 * Decimal("1.7")) / 1_000_000
TEAM = (
    simulated("priced", ANSWER, PRICE)
    + simulated("unpriced", ANSWER)
    + agent("priced", "priced")
    + agent("unpriced", "unpriced")
    + pool("priced", "replicas: 2\nconcurrency: 8\ndrainTimeout: 20s")
    + pool("unpriced", "replicas: 1")
)
BOTH = """
steps:
- name: many
  agentRef: {name: priced}
  input: $(item)
  forEach: {items: [1, 2, 3, 4, 5, 6, 7, 8]}
- {name: one, agentRef: {name: unpriced}, input: go}
"""
STEPS = 1000 if HASTE == 1 else 240
READER = "/api/v1/namespaces/corral-system/services/corral-operator:ledger/proxy/costs"


@pytest.fixture(scope="module", autouse=True)
def _a_team(team: Cluster) -> None:
    team.apply(TEAM)
    team.kubectl("wait", "--for=condition=Ready", "agentpool", "--all", "--timeout=90s")


def sums(team: Cluster, *words: str) -> Json:
    done = corral(team, "cost", "-o", "json", *words)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def until_booked(team: Cluster, run: str, requests: int) -> Json:
    """Waits until the ledger has so many requests of a run; what it has."""
    found: list[Json] = []

    def booked() -> bool:
        found.append(sums(team, "--workflow", run))
        return bool(found[-1]["total"]["requests"] >= requests)

    wait_until(booked, f"{requests} requests of {run} are in the ledger")
    return found[-1]


def usage_of(run: Json) -> tuple[int, Decimal]:
    usage = run["status"]["usage"]
    return usage["requests"], Decimal(usage["costUSD"])


def test_what_a_run_cost_is_known_when_it_is_gone_and_all_exports_come_to_that(
    team: Cluster,
) -> None:
    team.apply(workflow("gone", BOTH))
    requests, spent = usage_of(team.finished("gone"))
    team.kubectl("delete", "workflow", "gone", "--wait=true")
    found = until_booked(team, "gone", requests)
    assert (requests, spent) == (9, 8 * ONE_CALL)
    rows = {row["agent"]: row for row in found["rows"]}
    assert Decimal(rows["priced"]["costUSD"]) == Decimal(found["total"]["costUSD"]) == spent
    assert (rows["unpriced"]["costUSD"], rows["unpriced"]["unpricedRequests"]) == (None, 1)
    assert found["total"]["simulatedRequests"] == 9
    for form, column, lines in (("csv", "costUSD", 9), ("focus", "BilledCost", 8)):
        done = corral(team, "cost", "--by", "attempt", "--workflow", "gone", "-o", form)
        bill = list(csv.DictReader(io.StringIO(done.stdout)))
        assert (done.returncode, len(bill)) == (0, lines)
        assert sum(Decimal(row[column] or 0) for row in bill) == spent


def test_it_is_read_by_those_who_are_bound_to_the_role_and_by_nobody_else(team: Cluster) -> None:
    words = ("get", f"--raw={READER}?by=agent&namespace={team.namespace}")
    refused = SYSTEM.kubectl(*words, as_user="accountant", check=False)
    assert "forbidden" in refused.stderr.lower()
    binding = ("rolebinding", "accountants")
    to = ("--role=corral-ledger-reader", "--user=accountant")
    SYSTEM.kubectl("create", *binding, *to)
    try:
        assert json.loads(SYSTEM.kubectl(*words, as_user="accountant").stdout)["rows"]
        [name] = [pod["metadata"]["name"] for pod in operators()]
        other = READER.replace("corral-operator:ledger", "corral-operator:artifacts")
        pod = f"/api/v1/namespaces/corral-system/pods/{name}:8083/proxy/costs"
        for path in (other, pod):
            done = SYSTEM.kubectl("get", f"--raw={path}", as_user="accountant", check=False)
            assert done.returncode != 0
    finally:
        SYSTEM.kubectl("delete", *binding)


def test_a_file_that_can_not_be_written_holds_up_no_run(team: Cluster) -> None:
    place = processes.folder() / "lib/volumes/artifacts/ledger.db"
    lock = sqlite3.connect(place)
    lock.execute("BEGIN IMMEDIATE")
    try:
        team.apply(workflow("locked", BOTH))
        requests, spent = usage_of(team.finished("locked"))
        assert sums(team, "--workflow", "locked")["total"]["requests"] == 0
    finally:
        lock.rollback()
        lock.close()
    found = until_booked(team, "locked", requests)["total"]
    assert (found["requests"], Decimal(found["costUSD"])) == (requests, spent)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if program("postgres") is None:
        pytest.skip("PostgreSQL is not installed")
    processes.folder()
    server = Postgres()
    yield server
    server.close()


def rows_of(postgres: Postgres, run_id: str) -> list[Entry]:
    async def read() -> list[Entry]:
        store = Store(postgres.url)
        try:
            return await store.entries(Filter(equal={"run_id": run_id}), 10 * STEPS)
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_database_that_is_away_while_operator_and_workers_die_is_complete_afterwards(
    team: Cluster, postgres: Postgres
) -> None:
    lab = Lab(team)
    with rigged() as rig:
        rig.operator.stop()
        setting = {"CORRAL_LEDGER_URL": postgres.local_url}
        rig.start(**setting)
        wide = step_of("wide", agent="priced", input="$(item)", **each(*range(STEPS)))
        run_id = lab.start(made_of("stormy", wide))
        _until_done(team, STEPS // 10)
        postgres.stop()
        away = time.monotonic()
        try:
            _until_done(team, _done(team) + STEPS // 8)
            victim = lab.workers("priced")[0]
            rig.operator.kill()
            operator = rig.start(**setting)
            found = f"attempts on {victim['metadata']['name']} are in no status"
            wait_until(
                lambda: found in operator.log.read_text(),
                "the new operator has found what the dead one had not booked",
            )
            # By the time that so much more is done, it has asked the workers for all of that.
            _until_done(team, _done(team) + STEPS // 8)
            processes.kill(processes.of_pod(victim))
            _until_done(team, _done(team) + STEPS // 16)
            wait_until(
                lambda: time.monotonic() > away + shortly(120), "the outage is over", timeout=130
            )
        finally:
            postgres.start()
        _until_done(team, STEPS // 2)
        processes.kill(processes.of_pod(_ready(lab)))
        usage = team.finished("stormy", timeout=240)["status"]["usage"]

        def complete() -> bool:
            return sum(row.requests for row in rows_of(postgres, run_id)) >= usage["requests"]

        wait_until(complete, "the ledger has caught up")
        rows = rows_of(postgres, run_id)
    assert sum(row.requests for row in rows) == usage["requests"] >= STEPS
    assert sum(row.cost_usd or 0 for row in rows) == Decimal(usage["costUSD"])
    assert {row.item for row in rows} == set(range(STEPS))
    assert {row.workflow for row in rows} == {"stormy"}


def _done(team: Cluster) -> int:
    status = team.get("workflow", "stormy").get("status") or {}
    rows = status.get("steps") or [{}]
    return int((rows[0].get("items") or {}).get("succeeded", 0))


def _until_done(team: Cluster, count: int) -> None:
    wait_until(lambda: _done(team) >= count, f"{count} items are done", timeout=120)


def _ready(lab: Lab) -> Json:
    return next(pod for pod in lab.workers("priced") if processes.of_pod(pod))
