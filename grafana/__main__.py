"""Writes the dashboards, as JSON and as ConfigMaps: ``python -m grafana [--check]``."""

import sys
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.dashboards import BOARDS

ROOT = Path(__file__).resolve().parents[1]
_HEAD = "# Generated from grafana/dashboards, do not edit: python -m grafana\n"
_MAPS = "manifests/monitoring/dashboards"


def files() -> dict[Path, str]:
    """The generated files' texts."""
    found = {}
    for board in BOARDS:
        made = board.build()
        text = JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n"
        found[ROOT / f"grafana/json/{board.name}.json"] = text
        # On one line: whoever wants to read it has the other.
        line = JSONEncoder(sort_keys=True).encode(made)
        found[ROOT / f"{_MAPS}/{board.name}.yaml"] = _config_map(board.name, line)
    resources = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{board.name}.yaml" for board in BOARDS],
    }
    return found | {ROOT / f"{_MAPS}/kustomization.yaml": _HEAD + _yaml(resources)}


def _config_map(name: str, text: str) -> str:
    labels = {
        # By which Grafana's sidecar finds it.
        "grafana_dashboard": "1",
        "app.kubernetes.io/name": "corral",
        "app.kubernetes.io/part-of": "corral",
    }
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"corral-dashboard-{name}",
            "namespace": "corral-system",
            "labels": labels,
        },
        "data": {f"corral-{name}.json": text},
    }
    return _HEAD + _yaml(made)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=1_000_000)


def main(arguments: list[str]) -> int:
    """Writes the files; with ``--check`` compares and returns 1 where one differs."""
    texts = files()
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is not up to date: python -m grafana")
        else:
            path.write_text(texts[path])
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
