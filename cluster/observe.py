"""Prometheus, Alertmanager and a trace store beside an embedded cluster.

Prometheus has all rules of corral loaded, and the operator exports its spans to the store. They are
processes in the cluster's network, and end with it.
"""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from cluster import claim, gobuild, packages
from cluster.embedded import add_component, until
from cluster.install import NAMESPACE, OPERATOR, kubectl
from cluster.paths import REPO, ClusterError, Home
from cluster.shell import run, say, step
from cluster.targets import FILE
from prometheus.rules import Rules

_INTERVAL = 15.0  # seconds between scrapes


@dataclass(frozen=True)
class Programs:
    """Where they are."""

    prometheus: Path
    alertmanager: Path
    promtool: Path
    share: Path | None = None
    """What of Debian's is not installed, and expected in /usr/share."""


@dataclass(frozen=True)
class Addresses:
    """Where they answer."""

    prometheus: str
    alertmanager: str
    traces: str
    """Where traces are read."""
    otlp: str
    """Where spans are sent."""


def programs() -> Programs:
    """Those of the machine, else Debian's.

    Raises:
        ClusterError: there are none, and this machine can't get them.
    """
    installed = [shutil.which(name) for name in ("prometheus", "alertmanager", "promtool")]
    if all(installed):
        return Programs(*(Path(path) for path in installed if path))
    unpacked = packages.unpacked("prometheus", "prometheus", "prometheus-alertmanager")
    programs = unpacked / "usr" / "bin"
    return Programs(
        programs / "prometheus",
        programs / "prometheus-alertmanager",
        programs / "promtool",
        unpacked / "usr" / "share" / "prometheus",
    )


def addresses(home: Home) -> Addresses:
    """Where they answer, or would."""
    node = claim.Numbers(home.read()["number"]).node
    return Addresses(*(f"http://{node}:{port}" for port in (9090, 9093, 16686, 4318)))


def observe(home: Home, pace: float = 1.0) -> Addresses:
    """Start them and wait until they answer; where they do, they read the rules again.

    Args:
        pace: what all durations of the rules are multiplied by.
    """
    found, at, folder = programs(), addresses(home), home.path / "observe"
    _write(home, folder, at, pace)
    run([found.promtool, "check", "config", folder / "prometheus.yaml"])
    # First, as it restarts the operator: no alert is to see that.
    _trace(home, at)
    both = (at.prometheus, at.alertmanager)
    if all(answers(f"{one}/-/ready") for one in both):
        if not all(answers(f"{one}/-/reload", "POST") for one in both):
            raise ClusterError(f"the rules could not be read again: see {home.logs}")
    else:
        with step("starting Prometheus and Alertmanager"):
            _start(home, folder, found, at)
    say(f"Prometheus: {at.prometheus} (/targets, /alerts)   Alertmanager: {at.alertmanager}")
    say(f"Traces: export CORRAL_TRACE_STORE={at.traces}   then: corral trace WORKFLOW")
    return at


def answers(url: str, method: str = "GET") -> bool:
    """Whether a call succeeds."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, method=method), timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _write(home: Home, folder: Path, at: Addresses, pace: float) -> None:
    """Everything that they are started with."""
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    interval = f"{max(1.0, _INTERVAL * pace):g}s"
    settings = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(folder / "rules" / "*.yaml")],
        "alerting": {
            "alertmanagers": [
                {"static_configs": [{"targets": [at.alertmanager.removeprefix("http://")]}]}
            ]
        },
        "scrape_configs": [
            {"job_name": "corral", "file_sd_configs": [{"files": [str(home.path / FILE)]}]}
        ],
    }
    routes = {
        "route": {
            "receiver": "nobody",
            "group_by": ["alertname", "namespace"],
            "group_wait": interval,
        },
        "receivers": [{"name": "nobody"}],
    }
    groups = {"groups": Rules(pace).groups()}
    (folder / "rules" / "corral.yaml").write_text(yaml.safe_dump(groups, sort_keys=False))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(routes, sort_keys=False))


def _start(home: Home, folder: Path, found: Programs, at: Addresses) -> None:
    follow = [sys.executable, "-m", "cluster.targets", home.name]
    prometheus = [
        found.prometheus,
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/metrics",
        "--web.enable-lifecycle",
    ]
    alertmanager = [
        found.alertmanager,
        f"--config.file={folder}/alertmanager.yaml",
        f"--storage.path={folder}/alerts",
        "--cluster.listen-address=",
    ]
    add_component(home, "targets", ["env", f"--chdir={REPO}", *follow])
    add_component(home, "prometheus", _shared(found, prometheus))
    add_component(home, "alertmanager", _shared(found, alertmanager))
    for name, url in (("prometheus", at.prometheus), ("alertmanager", at.alertmanager)):
        until(home, f"{name} answers", partial(answers, f"{url}/-/ready"), [name])


def _trace(home: Home, at: Addresses) -> None:
    """Starts the trace store, and has the operator send its spans there."""
    ready = partial(answers, f"{at.traces}/api/v3/services")
    if not ready():
        listen = [url.removeprefix("http://") for url in (at.otlp, at.traces)]
        add_component(home, "traces", [str(gobuild.trace_store()), *listen])
        until(home, "the trace store answers", ready, ["traces"])
    with step("having the operator export its spans"):
        where = f"deployment/{OPERATOR}", f"--namespace={NAMESPACE}"
        # Another manager's than that of an installation, which therefore leaves it be.
        kubectl(home, "set", "env", *where, f"OTEL_EXPORTER_OTLP_ENDPOINT={at.otlp}")
        kubectl(home, "rollout", "status", *where, "--timeout=120s")


def _shared(found: Programs, words: Sequence[object]) -> list[str]:
    """The words that start a program which sees its files in /usr/share, as nobody else does."""
    command = [str(word) for word in words]
    if found.share is None:
        return command
    script = 'mount -t tmpfs tmpfs /usr/share; ln -s "$0" /usr/share/prometheus; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, str(found.share), *command]
