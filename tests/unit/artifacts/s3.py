"""A real S3 server for tests: versitygw on a folder, as a process."""

import http.client
import os
import socket
import subprocess
import time
from pathlib import Path

from cluster.gobuild import s3_server

BUCKET = "corral"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-6b1f",
    "AWS_REGION": "us-east-1",
}


class S3:
    """The server, which can be stopped, frozen and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data" / BUCKET).mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        # By a name and not by an address: what a bucket's own host name would hide.
        return f"http://localhost:{self._port}"

    def object(self, key: str) -> Path:
        """The file that holds an object."""
        return self._folder / "data" / BUCKET / key

    def start(self) -> None:
        """Starts it and waits until it answers."""
        words = [str(s3_server()), f"127.0.0.1:{self._port}", str(self._folder)]
        self._process = subprocess.Popen(words, env=os.environ | ENVIRONMENT)
        deadline = time.monotonic() + 10
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
            try:
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                assert self._process.poll() is None, "the S3 server has ended"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.02)
            finally:
                connection.close()

    def send(self, signal: int) -> None:
        """A signal: SIGSTOP makes it hang, SIGCONT go on."""
        assert self._process
        self._process.send_signal(signal)

    def stop(self) -> None:
        """Ends it; its data stay."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
