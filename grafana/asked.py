"""What the dashboards' files ask Prometheus for, as Grafana would ask it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = Path(__file__).parent / "json"


@dataclass(frozen=True)
class Asked:
    """A query of a panel, with its variables replaced."""

    dashboard: str
    panel: str
    expr: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expr}"


def asked(interval: str, span: str, **variables: str) -> Iterator[Asked]:
    """Every query of every panel.

    Args:
        interval: what a rate is taken over, such as ``1m``; four scrapes are right.
        span: the time that is shown, such as ``1h``.
        variables: the values of ``namespace``, ``agent`` and ``pool``; all where left out.
    """
    values = {"namespace": ".*", "agent": ".*", "pool": ".*", **variables}
    values |= {"__rate_interval": interval, "__range": span}
    for path in sorted(FILES.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expr: str = target["expr"]
                for name, value in values.items():
                    expr = expr.replace(f"${name}", value)
                yield Asked(
                    path.stem,
                    panel["title"],
                    expr,
                    target["legendFormat"],
                    target.get("instant", False),
                )
