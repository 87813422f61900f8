"""Agents' sums, held against the ledger."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from corral.kube.client import AGENTS, ApiError, Json, Kind
from corral.ledger.store import Store
from corral.ledger.writer import Ledger
from corral.plan.state import Consumption
from corral.reconcile.agents import Agents
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.recount import Recount
from corral.reconcile.world import World
from tests.unit.ledger.entries import NOW, entries, entry

KEY = ("team", "writer")
ONE = Consumption(requests=2, input_tokens=100, output_tokens=20, cost=Decimal("0.5"))


class Kube:
    """An API server that knows one Agent, and answers writes when it is told to."""

    def __init__(self, usage: Json) -> None:
        self.agent: Json = {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "Agent",
            "metadata": {
                "namespace": KEY[0],
                "name": KEY[1],
                "uid": "u",
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": "2020-01-01T00:00:00Z",
            },
            "spec": {"instructions": "write", "modelRef": {"name": "m"}},
            "status": {"usage": usage},
        }
        self.answers = asyncio.Event()
        self.answers.set()
        self.is_heard = True
        self.time = NOW

    def now(self) -> float:
        return self.time

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        assert kind is AGENTS
        return {**self.agent, "metadata": dict(self.agent["metadata"])}

    async def put_status(self, kind: Kind, obj: Json) -> Json:
        meta = self.agent["metadata"]
        meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 1)
        self.agent = {**self.agent, "status": obj["status"]}
        await self.answers.wait()
        if not self.is_heard:
            raise ApiError(0, "Unreachable", "connection reset")
        return {**self.agent, "metadata": dict(meta)}

    async def create(self, kind: Kind, obj: Json) -> Json:
        return obj

    @property
    def requests(self) -> int:
        return int(self.agent["status"]["usage"].get("requests", 0))


class Lab:
    """An operator's view of it, beside a real ledger."""

    def __init__(self, ledger: Ledger, usage: Json) -> None:
        self.kube = Kube(usage)
        kube: Any = self.kube
        nobody: Any = None  # these passes call nothing but the API server
        self.world = World(kube, nobody, nobody, nobody, nobody, "", ledger=ledger)
        self.world.agents.see({**self.kube.agent, "metadata": dict(self.kube.agent["metadata"])})
        self.agents = Agents(self.world)
        self.recount = Recount(self.world, self.agents)

    async def count(self) -> bool:
        """Once; whether it could be done."""
        return not await self.recount._count_all({KEY})

    async def write(self) -> None:
        """A pass over the Agent, late enough for its sums to be written."""
        self.kube.time += 20
        await self.agents.reconcile(KEY)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    await store.migrate()
    await store.write(entries(3))  # of two requests each
    await store.write([entry(attempt_id="r.s.0.1.9", agent="critic")])
    ledger = Ledger(store)
    writing = asyncio.create_task(ledger.run())
    yield ledger
    writing.cancel()
    await store.close()


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ({}, 6),
        ({"requests": 4}, 6),
        ({"requests": 6}, 6),
        ({"requests": 100}, 100),  # from before there was a ledger
    ],
)
async def test_what_the_ledger_has_more_is_added(ledger: Ledger, said: Json, then: int) -> None:
    lab = Lab(ledger, said)
    assert await lab.count()
    assert await lab.count()  # adds nothing more
    await lab.write()
    assert lab.kube.requests == then


async def test_what_waits_to_be_written_is_not_added_again(ledger: Ledger) -> None:
    lab = Lab(ledger, {"requests": 4})
    lab.agents.add_usage(KEY, ONE)
    assert await lab.count()
    await lab.write()
    assert lab.kube.requests == 6


async def test_nothing_is_added_while_a_write_is_under_way_or_not_heard_of(ledger: Ledger) -> None:
    lab = Lab(ledger, {"requests": 4})
    lab.agents.add_usage(KEY, ONE)
    lab.kube.answers.clear()
    lab.kube.is_heard = False
    writing = asyncio.create_task(lab.write())
    await asyncio.sleep(0)
    assert not await lab.count()
    lab.kube.answers.set()
    with pytest.raises(RetryLaterError):
        await writing
    assert not await lab.count()
    lab.kube.is_heard = True
    await lab.write()  # finds out that it was done
    assert await lab.count()
    await lab.write()
    assert lab.kube.requests == 6


@pytest.mark.parametrize(
    ("known", "other", "short"),
    [
        (Consumption(), Consumption(), Consumption()),
        (ONE, ONE, Consumption()),
        (Consumption(), ONE, ONE),
        (ONE, Consumption(), Consumption()),
        (Consumption(requests=3), ONE, ONE.model_copy(update={"requests": 0})),
        (ONE, Consumption(cost=Decimal("0.75")), Consumption(cost=Decimal("0.25"))),
        (ONE, Consumption(unpriced_requests=2), Consumption(unpriced_requests=2)),
    ],
)
def test_what_is_short_is_told_by_each_number(
    known: Consumption, other: Consumption, short: Consumption
) -> None:
    assert known.short_of(other) == short
