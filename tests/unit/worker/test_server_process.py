"""The worker as a process: it starts from a file, and SIGTERM loses nothing."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.worker import server
from corral.worker.app import Worker
from tests.unit.worker.bench import UID, Operator, config, reason

PROGRAM = "from corral.worker.server import main; raise SystemExit(main())"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _start(directory: Path, text: str) -> tuple[subprocess.Popen[bytes], int]:
    path, port = directory / "config.json", _free_port()
    path.write_text(text)
    environment = {
        **os.environ,
        "CORRAL_WORKER_CONFIG": str(path),
        "CORRAL_WORKER_KEYS": str(directory / "keys"),
        "CORRAL_WORKER_PORT": str(port),
        "POD_UID": UID,
    }
    return subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=-1), port


@asynccontextmanager
async def _process(
    directory: Path, **changes: Any
) -> AsyncIterator[tuple[subprocess.Popen[bytes], Operator]]:
    text = config(**changes).model_dump_json(by_alias=True, exclude_none=True)
    process, port = _start(directory, text)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            while True:
                assert process.poll() is None
                try:
                    await client.get("/readyz")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
            worker = Worker(config(**changes), UID, lambda model: None)
            yield process, Operator(worker, url, client)
    finally:
        process.kill()
        _, errors = process.communicate()
        assert b"Traceback" not in errors


async def _exit_code(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 20)


async def test_sigterm_refuses_starts_finishes_what_runs_and_waits_for_the_ack(
    tmp_path: Path,
) -> None:
    async with _process(tmp_path, simulation={"latency": "700ms"}) as (process, operator):
        sent = asyncio.create_task(operator.send("r.a.0.1.1"))
        while not (await operator.inventory())["attempts"]:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while not (await operator.inventory())["draining"]:
            await asyncio.sleep(0.01)
        refused = await operator.send("r.a.1.1.1")
        task = (await sent).json()["task"]
        still_there = (await operator.task("r.a.0.1.1")).status_code
        await operator.ack("r.a.0.1.1")
        code = await _exit_code(process)
    assert reason(refused) == "Draining"
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert still_there == 200
    assert code == 0


async def test_the_drain_timeout_ends_a_worker_that_is_not_acked(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"simulation": {"latency": "1h"}, "drainTimeoutSeconds": 0.2}
    async with _process(tmp_path, **changes) as (process, operator):
        await operator.send("r.a.0.1.1", wait=0)
        process.send_signal(signal.SIGTERM)
        assert await _exit_code(process) == 0


@pytest.mark.parametrize(
    ("text", "env"),
    [
        pytest.param("{", {}, id="a file that is no JSON"),
        pytest.param("{}", {}, id="a file without its fields"),
        pytest.param("{}", {"POD_UID": ""}, id="no pod UID"),
        pytest.param("{}", {"CORRAL_WORKER_CONFIG": "/nowhere"}, id="no file"),
    ],
)
def test_a_worker_that_cannot_start_says_why_and_ends_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    env: dict[str, str],
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    for name, value in {"CORRAL_WORKER_CONFIG": str(path), "POD_UID": UID, **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(server, "configure_logging", lambda level: None)
    monkeypatch.setattr(server.logging, "captureWarnings", lambda capture: None)
    assert server.main() == 2
    assert caplog.records[-1].levelname == "ERROR"
