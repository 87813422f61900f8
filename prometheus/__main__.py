"""Writes the rules, for Prometheus and for its operator: ``python -m prometheus [--check]``."""

import sys
from pathlib import Path

import yaml

from prometheus.rules import Rules

ROOT = Path(__file__).resolve().parents[1]
_HEAD = "# Generated from prometheus/rules.py, do not edit: python -m prometheus\n"


def files() -> dict[Path, str]:
    """The generated files' texts."""
    groups = {"groups": Rules().groups()}
    labels = {"app.kubernetes.io/name": "corral", "app.kubernetes.io/part-of": "corral"}
    custom = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "corral", "namespace": "corral-system", "labels": labels},
        "spec": groups,
    }
    return {
        ROOT / "prometheus/corral.yaml": _text(groups),
        ROOT / "manifests/monitoring/rules.yaml": _text(custom),
    }


def _text(value: object) -> str:
    return _HEAD + yaml.safe_dump(value, sort_keys=False, width=96)


def main(arguments: list[str]) -> int:
    """Writes the files; with ``--check`` compares and returns 1 where one differs."""
    stale = [
        path for path, text in files().items() if not path.is_file() or path.read_text() != text
    ]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is not up to date: python -m prometheus")
        else:
            path.write_text(files()[path])
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
