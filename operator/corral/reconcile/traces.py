"""What is told of runs to who keeps traces: at the end of every attempt, and of the run.

All of it goes to the ledger's writer, as rows do: an attempt's before its worker may forget it. A
run's span and its steps' follow from its status, so they are made again where nobody knows whether
they were told.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from corral.api.trace import SpanRef, span_id
from corral.kube.client import Json
from corral.ledger.errors import LedgerError
from corral.ledger.rows import Origin
from corral.plan.observed import Result
from corral.plan.state import JournalError, Run, Worker, from_journal
from corral.plan.times import parse
from corral.reconcile.world import World
from corral.tracing import genai
from corral.tracing.attempt import Attempt, settled
from corral.tracing.parcel import Parcel
from corral.tracing.run import attempt_of, spans_of
from corral.tracing.span import Span

log = logging.getLogger(__name__)

TOLD_AGAIN = 6 * 24 * 3600.0
"""Seconds after a run's end in which its spans are told again; the database knows those for a day
longer."""
LATER = 5.0
_CALLS = "/calls"


class Traces:
    """Hands spans to the ledger's writer."""

    def __init__(self, world: World) -> None:
        self._world = world

    def attempts(self, obj: Json, run: Run, attempts: Iterable[str]) -> dict[str, Attempt]:
        """What a run knows of attempts, before it is planned anew; none if it is not traced."""
        with _never_in_the_way(obj["metadata"]["uid"]):
            if (root := self._kept(obj)) is not None:
                return {one: attempt_of(obj, run, root, one) for one in attempts}
        return {}

    def of_attempt(
        self,
        result: Result,
        origin: Origin,
        agent: str | None,
        worker: Worker | None,
        about: Attempt | None,
        now: float,
    ) -> list[Parcel]:
        """The spans of an attempt that is settled, its calls' apart.

        Of an attempt that was given up the one may be known before the others.

        Args:
            now: when its end was known.
        """
        identity = result.attempt_id
        with _never_in_the_way(identity):
            about = about or self._stray(result, origin, agent)
            if about is not None:
                price = self._world.price(origin.namespace)
                own, calls = settled(about, result, worker, price, now)
                of_calls = [Parcel(identity + _CALLS, tuple(calls))] if calls else []
                return [Parcel(identity, (own,)), *of_calls]
        return []

    def _stray(self, result: Result, origin: Origin, agent: str | None) -> Attempt | None:
        """What can still be told of an attempt that no pass was given; None: it is not traced."""
        tracer, identity = self._world.tracer, result.attempt_id
        obj = self._world.workflows.get((origin.namespace, origin.workflow or ""))
        if obj is not None and obj["metadata"]["uid"] == origin.run_id:
            of_run = self._kept(obj)
            return None if of_run is None else attempt_of(obj, _run_of(obj), of_run, identity)
        told = SpanRef.parse(result.report.traceparent) if result.report and tracer.on else None
        if told is None or not told.sampled or told.span_id != span_id(identity):
            return None
        root = SpanRef(told.trace_id, span_id(origin.run_id))
        return Attempt(root, identity, origin.namespace, agent)

    def ended(self, obj: Json, run: Run | None = None) -> None:
        """Tells of a run that has ended, of its steps, and of attempts that nobody else tells of.

        Args:
            run: what its journal says, if that was read already.
        """
        with _never_in_the_way(obj["metadata"]["uid"]):
            if self._kept(obj) is not None:
                self._tell(obj, spans_of(obj, self._world.kube.now(), run))

    def gone(self, obj: Json) -> None:
        """Tells of a run that will never end, as its Workflow was deleted."""
        if not obj or (obj.get("status") or {}).get("finishedAt"):
            return
        with _never_in_the_way(obj["metadata"]["uid"]):
            found = spans_of(obj, self._world.kube.now()) if self._kept(obj) else []
            if found:
                found[0] = replace(found[0], error="the Workflow was deleted")
                self._tell(obj, found)

    def _kept(self, obj: Json) -> SpanRef | None:
        """The span of a run that is traced and sampled; None for any other."""
        root = self._world.tracer.root(obj)
        return root if root is not None and root.sampled else None

    def _tell(self, obj: Json, spans: Iterable[Span]) -> None:
        of_run, parcels = [], []
        for span in spans:
            if genai.ATTEMPT_ID not in span.attributes:
                of_run.append(span)
            elif span.error is not None:  # those that succeeded have a worker that told of them
                parcels.append(Parcel(str(span.attributes[genai.ATTEMPT_ID]), (span,)))
        if of_run:
            run_id = obj["metadata"]["uid"]
            parcels.append(Parcel(run_id, tuple(of_run)))
            self._world.ledger.book(run_id, [], lambda: None, parcels=parcels)

    async def take_up(self) -> None:
        """Tells of the runs that ended under a former leader which may not have come to that."""
        if self._world.tracer.on:
            while True:
                try:
                    await self._tell_again()
                    break
                except LedgerError as error:
                    log.info("it can't be told which runs' spans are missing: %s", error)
                    await asyncio.sleep(LATER)
        await asyncio.Event().wait()

    async def _tell_again(self) -> None:
        since = self._world.kube.now() - TOLD_AGAIN
        ended = {
            obj["metadata"]["uid"]: obj
            for obj in self._world.workflows
            if (status := obj.get("status") or {}).get("traceID")
            and status.get("finishedAt")
            and parse(status["finishedAt"]) > since
        }
        for run_id in ended.keys() - await self._world.ledger.known(ended):
            self.ended(ended[run_id])
            await asyncio.sleep(0)


@contextmanager
def _never_in_the_way(what: str) -> Iterator[None]:
    """A run goes on, and money is booked, whatever can't be told of it."""
    try:
        yield
    except Exception:
        log.exception("spans of %s can't be made", what)


def _run_of(obj: Json) -> Run | None:
    try:
        return from_journal((obj.get("status") or {}).get("journal") or "")
    except JournalError:
        return None
