"""The lease over real HTTP: it fails safely, whatever the API server does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest

from corral.kube import lease as module
from corral.kube.client import LEASES, WORKFLOWS, ApiError, Kube
from corral.kube.lease import Lease
from tests.unit.kube.fake_api import FakeApi, fake_api

PATH = LEASES.path("corral-system", "corral-operator")


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(module, "RENEW_DEADLINE", 0.4)
    monkeypatch.setattr(module, "RETRY_PERIOD", 0.05)


def candidate(kube: Kube, identity: str = "a") -> Lease:
    return Lease(kube, "corral-system", "corral-operator", identity)


@asynccontextmanager
async def holding(lease: Lease) -> AsyncIterator["asyncio.Task[None]"]:
    await lease.acquire()
    task = asyncio.create_task(lease.hold())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def held_by(api: FakeApi, identity: str, epoch: int = 5) -> None:
    api.objects[PATH] = {
        "metadata": {"name": "corral-operator", "resourceVersion": "0"},
        "spec": {
            "holderIdentity": identity,
            "leaseTransitions": epoch,
            "renewTime": "2020-01-01T00:00:00.000000Z",
            "leaseDurationSeconds": 0.6,
        },
    }


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_first_candidate_makes_the_lease_with_an_epoch_above_any_before() -> None:
    async with fake_api() as (api, kube):
        first = await candidate(kube).acquire()
        api.objects.clear()  # somebody deletes it
        assert first > 1
        assert await candidate(kube, "b").acquire() >= first


async def test_a_released_lease_and_one_of_the_same_pod_are_taken_at_once_with_a_new_epoch() -> (
    None
):
    for holder in ("", "a"):
        async with fake_api() as (api, kube):
            held_by(api, holder)
            assert await candidate(kube, "a").acquire() == 6
            assert [method for method, _ in api.requests] == ["GET", "PUT"]


async def test_a_live_lease_is_not_taken_however_old_its_time_looks() -> None:
    async with fake_api() as (api, kube):
        held_by(api, "other")
        waiting = asyncio.create_task(candidate(kube).acquire())
        for number in range(20):  # the other renews; its clock is years behind
            await asyncio.sleep(0.05)
            api.objects[PATH]["spec"]["renewTime"] = f"2020-01-01T00:00:{number:02}.000000Z"
        assert not waiting.done()
        assert await waiting == 6  # and it is, once nobody renews it


async def test_of_two_that_reach_for_an_expired_lease_one_gets_it() -> None:
    async with fake_api() as (api, kube):
        held_by(api, "dead")
        tasks = [asyncio.create_task(candidate(kube, name).acquire()) for name in "ab"]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(pending) == 1
        for task in pending:
            task.cancel()


@pytest.mark.parametrize("fault", ["hang", "drop", 500, 409, 429])
async def test_a_failed_renewal_is_made_up_for_and_several_end_the_right_to_write(
    fault: str | int,
) -> None:
    async with fake_api() as (api, kube):
        lease = candidate(kube)
        kube.may_write = lambda: lease.held
        async with holding(lease) as task:
            api.faults.append(fault)
            await until(lambda: not api.faults)
            assert lease.held
            api.faults.extend([fault] * 20)
            await until(lambda: not lease.held)
            before = len(api.requests)
            with pytest.raises(ApiError, match="lease"):
                await kube.put_status(WORKFLOWS, {"metadata": {"namespace": "n", "name": "w"}})
            assert ("PUT", WORKFLOWS.path("n", "w", "/status")) not in api.requests[before:]
            api.faults.clear()
            await until(lambda: lease.held)  # nobody else took it: it goes on
            assert not task.done()
            assert api.objects[PATH]["spec"]["leaseTransitions"] == lease.epoch


async def test_a_holder_whose_lease_was_taken_or_deleted_stops_holding() -> None:
    async with fake_api() as (api, kube):
        lease = candidate(kube)
        async with holding(lease) as task:
            api.objects[PATH]["spec"] |= {"holderIdentity": "b", "leaseTransitions": 9}
            api.objects[PATH]["metadata"]["resourceVersion"] = "99"
            await asyncio.wait_for(task, 5)
            assert not lease.held
            assert lease.epoch == 0
    async with fake_api() as (api, kube):
        lease = candidate(kube)
        async with holding(lease) as task:
            api.objects.clear()
            await asyncio.wait_for(task, 5)
            assert not lease.held


async def test_a_holder_whose_lease_is_older_than_it_was_written_stops_holding() -> None:
    async with fake_api() as (api, kube):
        lease = candidate(kube)
        async with holding(lease) as task:
            version = int(api.objects[PATH]["metadata"]["resourceVersion"])
            api.objects[PATH]["metadata"]["resourceVersion"] = str(version - 1)
            await asyncio.wait_for(task, 5)
            assert not lease.held


async def test_a_frozen_holder_may_not_write_before_it_has_renewed() -> None:
    async with fake_api() as (_, kube):
        lease = candidate(kube)
        await lease.acquire()
        assert lease.held
        time.sleep(0.5)  # the whole process stands still, as under SIGSTOP
        assert not lease.held


async def test_the_local_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_api() as (api, kube):
        api.date, before = formatdate(usegmt=True), kube.now()
        lease = candidate(kube)
        async with holding(lease):
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 3600)
            await asyncio.sleep(0.3)
            assert lease.held
            assert abs(kube.now() - before) < 60


async def test_time_is_the_api_servers() -> None:
    async with fake_api() as (api, kube):
        api.date = "Mon, 01 Jan 2035 00:00:00 GMT"
        await candidate(kube).acquire()
        assert abs(kube.now() - 2051222400) < 5


async def test_a_release_lets_the_next_begin_at_once() -> None:
    async with fake_api() as (api, kube):
        lease = candidate(kube)
        epoch = await lease.acquire()
        await lease.release()
        assert not lease.held
        assert api.objects[PATH]["spec"]["holderIdentity"] == ""
        assert await candidate(kube, "b").acquire() == epoch + 1
        await lease.release()  # not its own any more
        assert api.objects[PATH]["spec"]["holderIdentity"] == "b"


@pytest.mark.parametrize(
    ("fault", "status", "passes", "after"),
    [(429, 429, True, 3), (503, 503, True, 0), (409, 409, False, 0), ("drop", 0, True, 0)],
)
async def test_errors_say_whether_they_may_pass(
    fault: str | int, status: int, passes: bool, after: float
) -> None:
    async with fake_api() as (api, kube):
        api.faults.extend([fault, fault])  # a cut connection is tried twice
        with pytest.raises(ApiError) as caught:
            await kube.get(WORKFLOWS, "n", "w")
        found = caught.value
        assert (found.status, found.may_pass, found.retry_after) == (status, passes, after)
