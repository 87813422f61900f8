"""The database's tables, and how amounts are kept exactly."""

import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

NAME = "corral_ledger"
SPANS_NAME = "corral_spans"
VERSION_TABLE = "corral_ledger_version"


class Amount(TypeDecorator[Decimal]):
    """US dollars, to the last digit. SQLite has no such number: there it is text."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        sqlite = dialect.name == "sqlite"
        return dialect.type_descriptor(Text() if sqlite else Numeric(asdecimal=True))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return f"{value:f}" if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Moment(TypeDecorator[float]):
    """Seconds since the epoch; in the database a time that people can read, in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value, UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> float | None:
        if value is None:
            return None
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


class Total(FunctionElement[Decimal]):
    """The exact sum of amounts; NULL where there is none."""

    type = Amount()
    inherit_cache = True
    name = "total"


@compiles(Total)
def _total(element: Any, compiler: Any, **options: Any) -> str:
    return f"sum({compiler.process(element.clauses, **options)})"


@compiles(Total, "sqlite")
def _total_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"exact_sum({compiler.process(element.clauses, **options)})"


class _ExactSum:
    def __init__(self) -> None:
        self._sum: Decimal | None = None

    def step(self, value: str | None) -> None:
        if value is not None:
            self._sum = (self._sum or Decimal(0)) + Decimal(value)

    def finalize(self) -> str | None:
        return None if self._sum is None else f"{self._sum:f}"


def prepare_sqlite(connection: sqlite3.Connection, _: object = None) -> None:
    """Teaches a new connection exact sums; what is committed is on the disk."""
    connection.create_aggregate("exact_sum", 1, _ExactSum)  # type: ignore[arg-type]
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


METADATA = MetaData()
LEDGER = Table(
    NAME,
    METADATA,
    Column("attempt_id", String, primary_key=True),
    Column("model_ref", String, primary_key=True),
    Column("simulated", Boolean, primary_key=True),
    Column("recorded_at", Moment, nullable=False),
    Column("namespace", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("workflow", String),
    Column("template", String),
    Column("parent", String),
    Column("cron", String),
    Column("agent", String),
    Column("step", String, nullable=False),
    Column("item", BigInteger, nullable=False),
    Column("iteration", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("purpose", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("model", String, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cost_usd", Amount),
    Column("price_source", String),
    Column("unpriced_requests", BigInteger, nullable=False),
    Index(f"{NAME}_recorded_at", "recorded_at"),
    Index(f"{NAME}_run_id", "run_id"),
)
SPANS = Table(
    SPANS_NAME,
    METADATA,
    Column("key", String, primary_key=True),
    Column("made_at", Moment, nullable=False),
    Column("spans", BigInteger, nullable=False),
    Column("payload", Text),
    Index(f"{SPANS_NAME}_made_at", "made_at"),
)
"""A row is a ``Parcel``; its payload is NULL once it need not be exported any more."""
_WAITS = text("payload IS NOT NULL")
Index(f"{SPANS_NAME}_waiting", SPANS.c.made_at, sqlite_where=_WAITS, postgresql_where=_WAITS)
