"""The ledger's database: SQLite or PostgreSQL, by URL.

SQLAlchemy is used as it is without asyncio, in threads: one call a batch goes there and back,
and not one a cursor.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import time
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    func,
    inspect,
    make_url,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)

from corral.artifacts.errors import said
from corral.ledger.errors import LedgerError, RowsRefusedError
from corral.ledger.query import MEASURES, Filter, Sum
from corral.ledger.rows import Entry
from corral.ledger.shelf import row_of
from corral.ledger.table import LEDGER, SPANS, VERSION_TABLE, Total, prepare_sqlite
from corral.tracing.parcel import Parcel

T = TypeVar("T")

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATING = 7_236_011_905
"""The number of PostgreSQL's lock: one migrates at a time."""
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=30000 -c lock_timeout=10000",
    "application_name": "corral",
}
_READERS = 2
_KEY = ("recorded_at", "attempt_id", "model_ref", "simulated")
_SINGLE = re.compile(r"^[^\n]*")


class Store:
    """The database; all raise ``LedgerError`` where it can't be asked.

    Args:
        url: ``sqlite:////path/to/file`` or ``postgresql://user:password@host/name``.

    Raises:
        ValueError: the URL is none of these; the message has no password in it.
    """

    def __init__(self, url: str) -> None:
        self._url = _read(url)
        self._engine = _engine(self._url)
        # Whoever exports a year does not keep the rows of this second waiting.
        self._writing = ThreadPoolExecutor(1, "ledger-write")
        self._reading = ThreadPoolExecutor(_READERS, "ledger-read")

    @property
    def url(self) -> str:
        """Without the password."""
        return self._url.render_as_string(hide_password=True)

    async def close(self) -> None:
        """Lets go of the database; a call that hangs there is left behind."""
        self._writing.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    async def migrate(self) -> None:
        """Makes the table, or takes it to this version's form; a newer one's is left as it is."""
        await self._in(self._writing, self._migrate)

    async def write(self, entries: Sequence[Entry], parcels: Sequence[Parcel] = ()) -> None:
        """Adds rows, and spans to be exported, all or none; those that are there stay as they are.

        Raises:
            RowsRefusedError: a row is not what the database takes.
        """
        await self._in(self._writing, lambda: self._write(entries, parcels))

    async def prune(self, before: float) -> int:
        """Deletes what was recorded before; how many rows that were."""

        old = delete(LEDGER).where(LEDGER.c.recorded_at < before)
        return await self.change(lambda connection: connection.execute(old).rowcount)

    async def sums(self, by: Sequence[str], wanted: Filter) -> list[Sum]:
        """Sums by columns, the dearest first."""
        return await self._in(self._reading, lambda: self._sums(by, wanted))

    async def entries(
        self, wanted: Filter, limit: int, after: tuple[float, str, str, bool] | None = None
    ) -> list[Entry]:
        """Rows, the oldest first, from the one behind ``after``, which is the end of a page."""
        return await self._in(self._reading, lambda: self._entries(wanted, limit, after))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Has something read."""

        def reading() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        return await self._in(self._reading, reading)

    async def change(self, work: Callable[[Connection], T]) -> T:
        """Has something changed, in one transaction."""

        def changing() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        return await self._in(self._writing, changing)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with _told():
                return work()

        return await asyncio.get_running_loop().run_in_executor(threads, guarded)

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self._engine.begin() as connection:
            if self._url.get_backend_name() == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            if _newer(connection, config):
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _write(self, entries: Sequence[Entry], parcels: Sequence[Parcel]) -> None:
        dialect = postgresql if self._url.get_backend_name() == "postgresql" else sqlite
        now = time()
        with self._engine.begin() as connection:
            if entries:
                adding = dialect.insert(LEDGER).on_conflict_do_nothing()
                known = _completed(connection, entries)
                connection.execute(adding, [asdict(entry) for entry in known])
            if parcels:
                adding = dialect.insert(SPANS).on_conflict_do_nothing()
                connection.execute(adding, [row_of(parcel, now) for parcel in parcels])

    def _sums(self, by: Sequence[str], wanted: Filter) -> list[Sum]:
        keys = [LEDGER.c[name] for name in by]
        asked = select(
            *keys,
            func.count().label("rows"),
            *(func.sum(LEDGER.c[name]).label(name) for name in MEASURES),
            func.sum(LEDGER.c.requests).filter(LEDGER.c.simulated).label("simulated_requests"),
            Total(LEDGER.c.cost_usd).label("cost_usd"),
        )
        asked = asked.where(*_conditions(wanted)).group_by(*keys)
        with self._engine.connect() as connection:
            found = [_sum(by, row._mapping) for row in connection.execute(asked)]
        return sorted(found, key=lambda one: (-(one.cost_usd or 0), [str(key) for key in one.keys]))

    def _entries(
        self, wanted: Filter, limit: int, after: tuple[float, str, str, bool] | None
    ) -> list[Entry]:
        place = [LEDGER.c[name] for name in _KEY]
        asked = select(LEDGER).where(*_conditions(wanted)).order_by(*place).limit(limit)
        if after is not None:
            at, *rest = after
            later = tuple_(*place[1:]) > tuple_(*rest, types=[c.type for c in place[1:]])
            asked = asked.where(or_(place[0] > at, (place[0] == at) & later))
        with self._engine.connect() as connection:
            return [Entry(**row._mapping) for row in connection.execute(asked)]


def _read(url: str) -> URL:
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ValueError("it is no URL of a database") from None
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError("it names no file: sqlite:////path/to/file")
        return parsed.set(drivername="sqlite+pysqlite")
    if kind == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ValueError(f"{kind} is neither sqlite nor postgresql")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        # What the URL says itself goes first.
        limits = {key: value for key, value in _POSTGRESQL.items() if key not in url.query}
        return create_engine(
            url, connect_args=limits, pool_size=1 + _READERS, max_overflow=0, pool_pre_ping=True
        )
    engine = create_engine(url, connect_args={"timeout": 5})
    event.listen(engine, "connect", prepare_sqlite)
    return engine


def _newer(connection: Connection, config: Config) -> bool:
    """Whether a later version has migrated; columns are only added, so its table will do."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return False
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    there = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return any(version not in known for version in there.scalars())


def _completed(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Where nobody knows any more what a run was, its earlier rows may tell."""
    lost = {entry.run_id for entry in entries if entry.workflow is None}
    if not lost:
        return list(entries)
    names = ("workflow", "template", "parent", "cron")
    columns = [LEDGER.c[name] for name in ("run_id", *names)]
    asked = select(*columns).distinct()
    asked = asked.where(LEDGER.c.run_id.in_(lost), LEDGER.c.workflow.is_not(None))
    told = {row.run_id: row for row in connection.execute(asked)}
    return [
        replace(entry, **{name: getattr(told[entry.run_id], name) for name in names})
        if entry.workflow is None and entry.run_id in told
        else entry
        for entry in entries
    ]


def _conditions(wanted: Filter) -> Iterator[Any]:
    if wanted.since is not None:
        yield LEDGER.c.recorded_at >= wanted.since
    if wanted.until is not None:
        yield LEDGER.c.recorded_at < wanted.until
    for name, value in wanted.equal.items():
        yield LEDGER.c[name] == value


def _sum(by: Sequence[str], row: Any) -> Sum:
    return Sum(
        keys=tuple(row[name] for name in by),
        rows=int(row["rows"]),
        simulated_requests=int(row["simulated_requests"] or 0),
        cost_usd=row["cost_usd"],
        **{name: int(row[name] or 0) for name in MEASURES},
    )


@contextmanager
def _told() -> Iterator[None]:
    """Errors in a sentence, without the URL, statements or values.

    Raises:
        RowsRefusedError: by the rows' own fault.
        LedgerError: by any other.
    """
    try:
        yield
    except (DataError, IntegrityError, OverflowError) as error:
        raise RowsRefusedError(_in_words(error)) from error
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        raise LedgerError(_in_words(error)) from error


def _in_words(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    first = _SINGLE.match(str(cause).strip())
    return said(type(cause)(first.group())) if first and first.group() else type(cause).__name__
