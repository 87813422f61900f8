"""Where spans wait to be exported: a table beside the ledger's, written with its rows.

What was exported leaves its key behind for a while, so that what is told again is not exported
again.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from corral.ledger.table import SPANS
from corral.tracing.parcel import Parcel

log = logging.getLogger(__name__)

T = TypeVar("T")

_WAITS: ColumnElement[bool] = SPANS.c.payload.is_not(None)
_AT_ONCE = 1000
"""Keys that are asked for with one statement."""


class Database(Protocol):
    """What a shelf needs of a ``Store``; both raise ``LedgerError``."""

    def read(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """Has something read."""

    def change(self, work: Callable[[Connection], T]) -> Awaitable[T]:
        """Has something changed."""


def row_of(parcel: Parcel, now: float) -> dict[str, Any]:
    """A parcel as the table has it."""
    return {
        "key": parcel.key,
        "made_at": now,
        "spans": len(parcel.spans),
        "payload": parcel.to_text(),
    }


def _read(key: str, payload: str) -> Parcel:
    try:
        return Parcel.from_text(key, payload)
    except (ValueError, KeyError, TypeError) as error:  # another version's
        log.error("the spans of %s can't be read and are left out: %r", key, error)
        return Parcel(key, ())


class Shelf:
    """The spans that wait; all raise ``LedgerError`` where the database can't be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known(self, keys: Collection[str]) -> set[str]:
        """Those that are there, or were not long ago."""
        wanted = list(keys)

        def work(connection: Connection) -> set[str]:
            found: set[str] = set()
            for first in range(0, len(wanted), _AT_ONCE):
                some = SPANS.c.key.in_(wanted[first : first + _AT_ONCE])
                found.update(connection.execute(select(SPANS.c.key).where(some)).scalars())
            return found

        return await self._database.read(work)

    async def waiting(self, parcels: int, spans: int) -> list[Parcel]:
        """The oldest: so many parcels at the most, and no more spans, but for a single parcel."""
        order = (SPANS.c.made_at, SPANS.c.key)
        sizes = select(SPANS.c.key, SPANS.c.spans).where(_WAITS).order_by(*order).limit(parcels)

        def work(connection: Connection) -> list[Parcel]:
            keys: list[str] = []
            room = spans
            for key, size in connection.execute(sizes).all():
                if keys and size > room:
                    break
                room -= size
                keys.append(key)
            some = select(SPANS.c.key, SPANS.c.payload).where(_WAITS, SPANS.c.key.in_(keys))
            rows = connection.execute(some.order_by(*order)).all() if keys else []
            return [_read(key, payload) for key, payload in rows]

        return await self._database.read(work)

    async def take(self, keys: Collection[str]) -> None:
        """What need not be exported any more."""
        done = update(SPANS).where(SPANS.c.key.in_(list(keys))).values(payload=None)
        await self._database.change(lambda connection: connection.execute(done).rowcount)

    async def count(self) -> int:
        """How many spans wait."""
        asked = select(func.coalesce(func.sum(SPANS.c.spans), 0)).where(_WAITS)
        return int(
            await self._database.read(lambda connection: connection.execute(asked).scalar_one())
        )

    async def drop(self, before: float, parcels: int) -> int:
        """Gives up what has waited since before then, and the oldest of more than so many parcels.

        Returns:
            How many spans that were.
        """
        beyond = select(SPANS.c.made_at).where(_WAITS).order_by(SPANS.c.made_at.desc())
        beyond = beyond.offset(parcels).limit(1)

        def work(connection: Connection) -> int:
            newest = connection.execute(beyond).scalar()
            old = SPANS.c.made_at < before
            if newest is not None:
                old |= SPANS.c.made_at <= newest
            spans = select(func.coalesce(func.sum(SPANS.c.spans), 0)).where(_WAITS, old)
            dropped = int(connection.execute(spans).scalar_one())
            if dropped:
                connection.execute(update(SPANS).where(_WAITS, old).values(payload=None))
            return dropped

        return await self._database.change(work)

    async def forget(self, before: float) -> int:
        """Deletes the keys of what was made before; how many that were."""
        old = delete(SPANS).where(SPANS.c.made_at < before)
        return await self._database.change(lambda connection: connection.execute(old).rowcount)
