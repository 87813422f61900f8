"""A cluster of one's own for each test."""

import io
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from corral.cli.cluster import Cluster
from corral.cli.main import main
from tests.unit.cli.fake_cluster import Api, handler, kubeconfig


@pytest.fixture
def api() -> Api:
    """What the server holds."""
    return Api()


@pytest.fixture
def config(api: Api, tmp_path: Path) -> Iterator[str]:
    """The kubeconfig of a server that is running."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(api))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kubeconfig(tmp_path, server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cluster(config: str) -> Cluster:
    """That server, as the commands see it."""
    return Cluster.connect(config)


Corral = Callable[..., tuple[int, str, str]]
"""Runs the command; the exit code, what it printed, and what it said on stderr."""


@pytest.fixture
def corral(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Corral:
    """The command in this process, against the server; ``stdin`` is what it may read."""

    def call(*words: str, stdin: str = "", cluster: bool = True) -> tuple[int, str, str]:
        more = ["--kubeconfig", config] if cluster else []
        monkeypatch.setattr(sys, "argv", ["corral", *words, *more])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main()
        shown = capsys.readouterr()
        assert "should not happen" not in shown.err
        return int(code), shown.out, shown.err

    return call
