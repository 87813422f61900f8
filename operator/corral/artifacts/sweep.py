"""Deletes what runs have stored that are no more.

The only way in which anything leaves the store. A run whose Workflow is gone stays for a grace
period, counted from when that was first noticed, by this process: so a list of Workflows that was
wrong for once, or a restored backup, costs nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Any

from corral.artifacts.errors import ArtifactStoreError
from corral.artifacts.store import ArtifactStore

log = logging.getLogger(__name__)

PERIOD = 600.0
"""Seconds between two sweeps."""
GRACE = 3600.0
"""Seconds for which a run's values outlive its Workflow."""
PER_SECOND = 10.0
"""Runs that are deleted in a second, at most."""
MEMO_AGE = 30 * 86400.0
"""Seconds after which a result is not kept for later runs any more, whatever its maxAge."""

RunKey = tuple[str, str]
"""A run's namespace and id."""


def runs_of(workflows: Iterable[Mapping[str, Any]]) -> set[RunKey]:
    """The runs whose values these Workflows may refer to.

    By UID, as values are stored before the first status is written; and by ``status.runID``, which
    is another one where a Workflow was restored from a backup.
    """
    found = set()
    for workflow in workflows:
        metadata, status = workflow["metadata"], workflow.get("status") or {}
        ids = (metadata["uid"], status.get("runID"))
        found |= {(metadata["namespace"], run_id) for run_id in ids if run_id}
    return found


def orphans(
    stored: Iterable[RunKey],
    living: Collection[RunKey],
    since: Mapping[RunKey, float],
    now: float,
    grace: float = GRACE,
) -> tuple[list[RunKey], dict[RunKey, float]]:
    """What may be deleted, and since when each stored run is known to be an orphan.

    ======================  ===========================  ==========
    has a living Workflow   an orphan since              is deleted
    ======================  ===========================  ==========
    yes                     (forgotten)                  no
    no                      now (seen for the first time)  no
    no                      less than ``grace`` ago      no
    no                      ``grace`` ago or longer      yes
    ======================  ===========================  ==========

    Args:
        stored: the runs in the store, read before ``living``.
        living: the runs whose values somebody may still read.
        since: what the last call returned; empty at first.
        now: in seconds, by the clock of ``since``.
        grace: in seconds.
    """
    dead = {run: since.get(run, now) for run in stored if run not in living}
    return [run for run, seen in dead.items() if now - seen >= grace], dead


async def sweep_forever(
    store: ArtifactStore,
    living: Callable[[], Awaitable[Collection[RunKey]]],
    period: float = PERIOD,
    grace: float = GRACE,
) -> None:
    """Sweeps until it is cancelled. For the leader alone.

    A sweep that fails, in the store or in ``living``, deletes nothing and is made again after the
    next ``period``.

    Args:
        store: the store.
        living: the runs to be kept: ``runs_of`` all Workflows that the API server has. Must raise
            rather than return a part.
        period: seconds between two sweeps.
        grace: seconds.
    """
    since: dict[RunKey, float] = {}
    while True:
        await asyncio.sleep(period)
        try:
            since = await _sweep(store, living, since, grace)
        except ArtifactStoreError as error:
            log.warning("the artifact store was not swept: %s", error)
        except Exception:
            log.exception("the artifact store was not swept")


async def _sweep(
    store: ArtifactStore,
    living: Callable[[], Awaitable[Collection[RunKey]]],
    since: Mapping[RunKey, float],
    grace: float,
) -> dict[RunKey, float]:
    stored = await store.runs()
    due, dead = orphans(stored, await living(), since, monotonic(), grace)
    for run in due:
        await store.delete_run(*run)
        del dead[run]
        await asyncio.sleep(1 / PER_SECOND)
    if due:
        log.info("deleted the artifacts of %d runs that are no more", len(due))
    if old := await store.delete_old_memos(MEMO_AGE):
        log.info("deleted %d results that were kept for later runs", old)
    return dead
