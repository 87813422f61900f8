"""The ledger's databases: a file, and a real server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from corral.ledger.store import Store
from tests.unit.ledger.postgres import Postgres, program


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests of this process."""
    if program("postgres") is None:
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    server: Postgres = request.getfixturevalue("postgres")
    with psycopg.connect(server.url) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS corral_ledger, corral_spans, corral_ledger_version"
        )
    return server.url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """A ledger that is ready."""
    opened = Store(url)
    await opened.migrate()
    yield opened
    await opened.close()
