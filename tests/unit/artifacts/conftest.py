"""Stores of every kind that is shipped, each with a way to change what it holds."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from corral.artifacts.store import ArtifactStore
from tests.unit.artifacts.s3 import BUCKET, ENVIRONMENT, S3


@dataclass(frozen=True)
class Place:
    """A store's URL, and how to overwrite one of its files from outside."""

    url: str
    overwrite: Callable[[str, bytes], None]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def aws(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3:
    """The server, and the variables that lead to it; nothing else of this machine's counts."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return s3


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere empty."""
    name = uuid.uuid4().hex
    if request.param == "file":
        root = tmp_path / name
        return Place(f"file://{root}", lambda key, data: void((root / key).write_bytes(data)))
    if request.param == "memory":
        memory = fsspec.filesystem("memory")
        return Place(f"memory://{name}", lambda key, data: memory.pipe(f"/{name}/{key}", data))
    server: S3 = request.getfixturevalue("aws")
    return Place(
        f"s3://{BUCKET}/{name}",
        lambda key, data: void(server.object(f"{name}/{key}").write_bytes(data)),
    )


def void(_: object) -> None:
    """Nothing, of something."""


@pytest.fixture
async def store(place: Place) -> AsyncIterator[ArtifactStore]:
    made = ArtifactStore(place.url)
    yield made
    await made.close()
