"""Tells the Prometheus beside a cluster what to scrape: `python -m cluster.targets NAME`.

What a Prometheus in a cluster finds by the monitors of manifests/monitoring. Debian's can't ask an
API server, but reads a file again whenever that changes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.api import Api
from cluster.paths import Home, replace

PERIOD = 1.0  # seconds between two looks
FILE = "observe/targets.json"
_OURS = "app.kubernetes.io/part-of=corral,app.kubernetes.io/component in (operator,worker)"


def targets(pods: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What there is to scrape, as Prometheus' file_sd wants it."""
    for pod in pods:
        status, meta = pod.get("status") or {}, pod["metadata"]
        labels = meta.get("labels") or {}
        address = status.get("podIP")
        if not address or status.get("phase") != "Running":
            continue
        if labels["app.kubernetes.io/component"] == "operator":
            found, port = {"job": "corral-operator", "pod": meta["name"]}, 9090
        else:
            found, port = {"job": "corral-workers", "pod": meta["name"]}, 8080
            found["namespace"] = meta["namespace"]
            for label in ("agent", "pool"):
                found[label] = labels.get(f"corral.dev/{label}", "")
        yield {"targets": [f"{address}:{port}"], "labels": found}


def follow(home: Home) -> None:
    """Keeps the file up to date, for ever. What can't be read stays as it was."""
    api = Api(home.read()["server"], home.path / "pki")
    path, told = home.path / FILE, None
    while True:
        status, answer = api.call(f"/api/v1/pods?labelSelector={quote(_OURS)}")
        if status == 200:
            found = list(targets(json.loads(answer)["items"]))
            if found != told:
                replace(Path(path), json.dumps(found, indent=2))
                told = found
        time.sleep(PERIOD)


if __name__ == "__main__":
    follow(Home(sys.argv[1]))
