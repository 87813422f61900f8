"""The embedded cluster: a whole node as plain processes, in namespaces of its own.

Everything that it makes on the machine is either inside those namespaces, and goes with their
first process, or named by the cluster's number (claim.py), or in its state folder.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from cluster import claim, config, gobuild, packages
from cluster.api import Api, allow_dns, resolves
from cluster.config import FIRST, SECOND, Place, Setup
from cluster.paths import HERE, ClusterError, Home
from cluster.shell import run, say, step
from cluster.sweep import MARK, make_cgroups, processes, sweep

_FIRST = ("etcd", "kube-apiserver", "containerd")
_REST = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns")
COMPONENTS = _FIRST + _REST

_PATIENCE = 90.0  # seconds until a step of the start has failed


def up(home: Home) -> None:
    """Start the cluster, or do nothing where it is up."""
    if is_ready(home):
        return
    sweep(home)  # what a crash left
    packages.need(packages.CLUSTER)
    node, pause = gobuild.node(), gobuild.pause_archive()
    numbers = claim.take(home.path)
    setup = Setup(home, numbers)
    with step(f"starting {home.name} (Kubernetes {gobuild.kubernetes_version()})"):
        kubeconfig = config.write(setup)
        home.write(provider="embedded", number=numbers.number, server=setup.server)
        make_cgroups(numbers.device)
        init = _namespaces(setup, node)
        commands = init.stdin
        assert commands is not None
        home.write(pid=init.pid)
        _link(setup, init.pid)
        _tell(commands, "network")
        _tell(commands, f"start {' '.join(_FIRST)}")
        api = Api(setup.server, home.path / "pki")
        _until(init, home, "the API server is ready", api.ready)
        _tell(commands, f"start {' '.join(_REST)}")
        _until(init, home, "CoreDNS may read", lambda: allow_dns(api))
        socket = Path(f"/proc/{init.pid}/root/run/containerd/containerd.sock")
        _until(init, home, "containerd listens", socket.exists)
        load(home, pause)
        _until(init, home, "the node is ready", lambda: api.node_ready(setup.node))
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        _until(init, home, "the default service account exists", lambda: api.exists(account))
        service = f"kubernetes.default.svc.{config.DOMAIN}"
        _until(init, home, "CoreDNS answers", lambda: resolves(numbers.node, service))
        home.offer(kubeconfig, node / "kubectl", ours=True)
        _tell(commands, "stay")
        commands.close()
    say(f"{home.name} is up: {setup.server}")


def down(home: Home) -> None:
    """Leave nothing."""
    sweep(home)


def is_ready(home: Home) -> bool:
    """Whether the API server answers, and it is this cluster's."""
    server = home.read().get("server")
    if not server or not home.kubeconfig.exists() or not processes(home.path):
        return False
    return Api(server, home.path / "pki").ready()


def load(home: Home, archive: Path, node: Place = FIRST) -> None:
    """Import a docker-archive."""
    namespaces = ["nsenter", f"--target={home.read()['pid']}", "--mount", "--net", "--"]
    ctr = ["ctr", f"--address={config.socket(node)}", "--namespace=k8s.io"]
    snapshotter = f"--snapshotter={config.snapshotter(home.path)}"
    run([*namespaces, *ctr, "images", "import", snapshotter, archive])


def add_node(home: Home, archives: Iterable[Path]) -> str:
    """Start a second node with these images, and wait until it is ready; its name.

    It has a kubelet and a containerd of its own, and shares the network with the first. Nothing is
    scheduled there that does not tolerate ``config.TAINT``. It ends with the cluster.
    """
    facts = home.read()
    setup = Setup(home, claim.Numbers(facts["number"]))
    name, api = f"{setup.node}{SECOND.suffix}", Api(setup.server, home.path / "pki")
    if api.exists(f"/api/v1/nodes/{name}"):
        return name
    with step(f"starting {name}"):
        make_cgroups(f"{setup.numbers.device}{SECOND.suffix}")
        components = config.write_second(setup)
        logs = [f"{component}{SECOND.suffix}" for component in ("containerd", "kubelet")]
        add_component(home, logs[0], components["containerd"])
        listening = Path(f"/proc/{facts['pid']}/root{config.socket(SECOND)}")
        until(home, "containerd listens", listening.exists, logs)
        for archive in (gobuild.pause_archive(), *archives):
            load(home, archive, SECOND)
        add_component(home, logs[1], components["kubelet"])
        until(home, f"{name} is ready", lambda: api.node_ready(name), logs)
    return name


def add_component(home: Home, component: str, words: list[str]) -> None:
    """Start one more component inside of a cluster that is up; it ends with the cluster."""
    pid = home.read()["pid"]
    namespaces = ["--mount", "--net", f"--pid=/proc/{pid}/ns/pid_for_children"]
    with (home.logs / f"{component}.log").open("w") as log:
        subprocess.Popen(
            ["nsenter", f"--target={pid}", *namespaces, "--", *words],
            env={"PATH": packages.PATH, "HOME": "/root", MARK: str(home.path)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def until(home: Home, what: str, condition: Callable[[], bool], logs: Iterable[str]) -> None:
    """Wait for what was started beside; ``logs`` are shown where it does not come.

    Raises:
        ClusterError: it does not come.
    """
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise _failure(home, f"after {_PATIENCE:.0f} s, it's not so that {what}", *logs)
        time.sleep(0.05)


def inside(home: Home) -> list[str]:
    """The words that run a program in the cluster's network, where pods can be reached."""
    return ["nsenter", f"--target={home.read()['pid']}", "--net", "--"]


def _namespaces(setup: Setup, node: Path) -> subprocess.Popen[str]:
    """Start init.sh as the first process of new namespaces."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    bash = shutil.which("bash") or "/bin/bash"
    addresses = [setup.numbers.node, setup.numbers.host]
    with (setup.home.logs / "init.log").open("w") as log:
        init = subprocess.Popen(
            [*unshare, bash, str(HERE / "init.sh"), str(node), *addresses],
            cwd=setup.home.path,
            env={"PATH": packages.PATH, "HOME": "/root", MARK: str(setup.home.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # a ^C for us is not for the cluster
        )
    assert init.stdout is not None
    if init.stdout.readline() != "namespaced\n":
        raise _failure(setup.home, "no namespaces could be made", "init")
    init.stdout.close()
    return init


def _link(setup: Setup, pid: int) -> None:
    """A cable between the host and the cluster's network namespace."""
    device = setup.numbers.device
    peer = ["type", "veth", "peer", "name", "eth0", "netns", str(pid)]
    run(["ip", "link", "add", device, *peer])
    run(["ip", "address", "add", f"{setup.numbers.host}/24", "dev", device])
    run(["ip", "link", "set", device, "up"])


def _tell(commands: IO[str], line: str) -> None:
    try:
        commands.write(line + "\n")
        commands.flush()
    except BrokenPipeError as error:
        raise ClusterError("the cluster's first process has ended") from error


def _until(
    init: subprocess.Popen[str], home: Home, what: str, condition: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if init.poll() is not None:
            raise _failure(home, f"the cluster ended before {what}", "init")
        if time.monotonic() > deadline:
            raise _failure(home, f"after {_PATIENCE:.0f} s, it's not so that {what}", *COMPONENTS)
        time.sleep(0.05)


def _failure(home: Home, what: str, *components: str) -> ClusterError:
    """An error with the end of the logs that may say why."""
    parts = [what]
    for component in components:
        file = home.logs / f"{component}.log"
        if file.exists():
            lines = file.read_text(errors="replace").splitlines()[-4:]
            parts += [f"{file}:", *(f"  {line[:300]}" for line in lines)]
    return ClusterError("\n".join(parts))
