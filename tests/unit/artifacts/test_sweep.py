"""What leaves the store, and when."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

import pytest

from corral.artifacts import sweep
from corral.artifacts.errors import ArtifactStoreError
from corral.artifacts.store import ArtifactStore
from corral.artifacts.sweep import RunKey, orphans, runs_of, sweep_forever

ONE, TWO, THREE = ("a", "1"), ("a", "2"), ("b", "1")
SHA_OF_1 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"


@pytest.mark.parametrize(
    ("living", "since", "now", "due", "left"),
    [
        pytest.param({ONE, TWO, THREE}, {}, 0, [], {}, id="all_live"),
        pytest.param({ONE}, {}, 5, [], {TWO: 5, THREE: 5}, id="noticed_for_the_first_time"),
        pytest.param({ONE, TWO}, {THREE: 5}, 3604, [], {THREE: 5}, id="within_the_grace"),
        pytest.param({ONE, TWO}, {THREE: 5}, 3605, [THREE], {THREE: 5}, id="after_the_grace"),
        pytest.param({ONE, TWO, THREE}, {THREE: 5}, 9999, [], {}, id="came_back"),
        pytest.param(set(), {("c", "1"): 0}, 9, [], {ONE: 9, TWO: 9, THREE: 9}, id="gone_itself"),
    ],
)
def test_orphans(
    living: set[RunKey],
    since: dict[RunKey, float],
    now: float,
    due: list[RunKey],
    left: dict[RunKey, float],
) -> None:
    assert orphans([ONE, TWO, THREE], living, since, now) == (due, left)


def test_a_workflow_keeps_what_is_under_its_uid_and_under_its_runs_id() -> None:
    new = {"metadata": {"namespace": "a", "uid": "1"}}
    restored = {"metadata": {"namespace": "b", "uid": "3"}, "status": {"runID": "2"}}
    assert runs_of([new, restored]) == {("a", "1"), ("b", "2"), ("b", "3")}


async def test_a_sweep_deletes_the_dead_and_survives_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "PER_SECOND", 1000)
    store = ArtifactStore("memory://sweep")
    for run in (ONE, TWO, THREE):
        await store.put(*run, SHA_OF_1, b"1")
    asked = 0

    async def living() -> Collection[RunKey]:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise ArtifactStoreError("the API server can't be read") if asked > 1 else OSError
        return {TWO}

    task = asyncio.create_task(sweep_forever(store, living, period=0.01, grace=0.015))
    async with asyncio.timeout(5):
        while await store.runs() != [TWO]:
            await asyncio.sleep(0.01)
    assert asked >= 4
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await store.close()
