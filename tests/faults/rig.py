"""An operator beside the cluster whose every call goes through a proxy, in place of the installed.

``CORRAL_HASTE`` (10, or 1 for `make faults`) says by what long periods are divided.
"""

import ctypes
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from cluster.install import beside
from cluster.paths import Home
from tests.cluster import processes
from tests.cluster.harness import REPO, Json
from tests.cluster.lab import SYSTEM, lease, led_since
from tests.faults.proxy import Call, Proxy

HASTE = float(os.environ.get("CORRAL_HASTE", "10"))


def shortly(seconds: float) -> float:
    """A time as it is in the matrix of faults, or shortened like the operator's periods."""
    return seconds / HASTE


def wait_until(condition: Callable[[], object], what: str, timeout: float = 60) -> None:
    """Waits for something that no object's status tells."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.05)


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_the_test() -> None:
    """Has the kernel end the operator with who started it: the next one needs its ports."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Operator:
    """A process of the operator's, in the cluster's network."""

    def __init__(self, home: Home, server: str, name: str, more: dict[str, str]) -> None:
        words, environment = beside(home, [sys.executable, "-m", "tests.faults.hurried"], server)
        number = len(list(home.logs.glob("fault-operator-*.log")))
        self.log = home.logs / f"fault-operator-{number:03}.log"
        environment |= {
            "POD_UID": name,
            "POD_NAMESPACE": "corral-system",
            "CORRAL_HASTE": f"{HASTE}",
            "PYTHONPATH": f"{REPO}:{REPO / 'operator'}",
            **more,
        }
        # A file of its own: a second operator would have the first one's replaced.
        kubeconfig = self.log.with_suffix(".kubeconfig")
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(Path(environment["KUBECONFIG"]).read_text())
        environment["KUBECONFIG"] = str(kubeconfig)
        with self.log.open("w") as out:
            self._process = subprocess.Popen(
                words,
                env=environment,
                cwd=REPO,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_the_test,
            )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """As the kernel does it that has no memory left."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As the kubelet does it."""
        self._process.terminate()
        self._process.wait(30)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()


class Rig:
    """The proxy, and the operator that leads through it."""

    def __init__(self, home: Home, proxy: Proxy) -> None:
        self.home = home
        self.proxy = proxy
        self._operators: list[Operator] = []
        self.operator = self.start()

    def start(self, name: str = "rigged", **more: str) -> Operator:
        """An operator, once it leads. Of the same name as one that was killed: at once.

        Args:
            more: environment variables.
        """
        epoch = lease()["leaseTransitions"]
        self.operator = self.join(name, **more)
        led_since(epoch, 60)
        return self.operator

    def join(self, name: str, **more: str) -> Operator:
        """One more operator, which does not lead yet; its calls come in at a door of its name."""
        made = Operator(self.home, self.proxy.door(name), name, more)
        self._operators.append(made)
        return made

    def end(self) -> None:
        """Ends every operator."""
        for operator in self._operators:
            operator.send(signal.SIGCONT)
            operator.kill()

    def writes(self, since: float) -> list[Call]:
        """Calls since then that may have changed an object."""
        return [call for call in self.proxy.calls if call.at > since and call.writes]

    def read(self, path: str) -> Json:
        """The API server's own answer, not through the proxy."""
        found: Json = yaml.safe_load(SYSTEM.kubectl("get", f"--raw={path}").stdout)
        return found

    def quiet(self, seconds: float, within: float = 60) -> None:
        """Waits until nothing was written for so long."""
        deadline = time.monotonic() + within + seconds
        begun = time.monotonic()
        while True:
            writes = self.writes(max(begun, time.monotonic() - seconds))
            if not writes and time.monotonic() - begun >= seconds:
                return
            last = [str(call) for call in writes[-5:]]
            assert time.monotonic() < deadline, f"it goes on writing: {last}"
            time.sleep(0.1)


@contextmanager
def rigged() -> Iterator[Rig]:
    """The rig in place of the installed operator, which is put back afterwards."""
    home = Home(processes.folder().name)
    config = yaml.safe_load(home.kubeconfig.read_text())
    trust = ssl.create_default_context(cafile=str(home.path / "pki" / "ca.crt"))
    network = Path(f"/proc/{home.read()['pid']}/ns/net")
    SYSTEM.kubectl("scale", "deployment/corral-operator", "--replicas=0")
    wait_until(lambda: not _pods(), "the installed operator is gone")
    with Proxy(config["clusters"][0]["cluster"]["server"], trust, network) as proxy:
        rig = Rig(home, proxy)
        try:
            yield rig
        finally:
            rig.end()
    epoch = lease()["leaseTransitions"]
    free = '--patch={"spec":{"holderIdentity":""}}'
    SYSTEM.kubectl("patch", "lease", "corral-operator", "--type=merge", free)
    SYSTEM.kubectl("scale", "deployment/corral-operator", "--replicas=1")
    led_since(epoch, 60)


def _pods() -> list[Json]:
    return SYSTEM.list("pods", "--selector=app.kubernetes.io/component=operator")
