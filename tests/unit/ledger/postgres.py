"""A real PostgreSQL server, on a free port, that can be stopped and started again."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/bin"))


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is; None if it is not installed."""
    places = os.pathsep.join(map(str, _PLACES))
    return shutil.which(name, path=places) or shutil.which(name)


class Postgres:
    """The server. It refuses to run as root: then it runs as nobody."""

    def __init__(self) -> None:
        self._user = "nobody" if os.geteuid() == 0 else None
        self._home = Path(tempfile.mkdtemp(prefix="corral-postgres-"))
        if self._user:
            shutil.chown(self._home, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._run("initdb", "-D", "data", "-U", "corral", "-A", "trust", "-N", "-E", "UTF8")
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://corral@127.0.0.1:{self.port}/postgres"

    @property
    def local_url(self) -> str:
        """By its socket, which is a file: from any network of this machine."""
        return f"postgresql://corral@/postgres?host={self._home}&port={self.port}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        how = ["-D", "data", "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._home)]
        self._server = subprocess.Popen(
            [str(program("postgres")), *how],
            cwd=self._home,
            user=self._user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = [str(program("pg_isready")), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        limit = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            assert self._server.poll() is None, "postgres has ended"
            assert time.monotonic() < limit, "postgres does not answer"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops it, and whatever is under way there."""
        if self._server is not None:
            self._server.send_signal(3)  # SIGQUIT: at once, as if it had crashed
            self._server.wait(30)
            self._server = None

    def close(self) -> None:
        """Leaves nothing behind."""
        self.stop()
        shutil.rmtree(self._home)

    def _run(self, name: str, *words: str) -> None:
        subprocess.run(
            [str(program(name)), *words],
            cwd=self._home,
            user=self._user,
            stdout=subprocess.DEVNULL,
            check=True,
        )
