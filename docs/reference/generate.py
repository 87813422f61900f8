"""Writes docs/reference/cli.md and metrics.md: ``python docs/reference/generate.py [--check]``."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from prometheus_client.metrics import MetricWrapperBase

if TYPE_CHECKING:
    from corral.worker.app import Worker

HERE = Path(__file__).resolve().parent
_HEAD = "<!-- Generated from {source}, do not edit: python docs/reference/generate.py -->\n"


def files() -> dict[str, str]:
    """The generated files' texts, by name."""
    return {"cli.md": "\n".join(_cli()) + "\n", "metrics.md": "\n".join(_metrics()) + "\n"}


def _cli() -> Iterator[str]:
    # Help is wrapped to the terminal, which is not the same everywhere.
    os.environ["COLUMNS"] = "100"
    from corral.cli.app import app

    yield _HEAD.format(source="operator/corral/cli/app.py")
    yield "# Commands\n"
    yield "What they are good for: [the command line](../guides/cli.md).\n"
    group = typer.main.get_group(app)
    context = group.make_context("corral", [], resilient_parsing=True)
    yield "```text"
    yield group.get_help(context).rstrip()
    yield "```"
    for name, command in group.commands.items():
        yield f"\n## corral {name}\n"
        yield "```text"
        inner = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield command.get_help(inner).rstrip()
        yield "```"


def _metrics() -> Iterator[str]:
    from prometheus_client import REGISTRY

    from corral.telemetry import metrics

    yield _HEAD.format(source="telemetry/metrics.py and worker/metrics.py in operator/corral")
    yield "# Metrics\n"
    yield "In Prometheus' text format. Labels are bounded: what is configured, never a run. What"
    yield "goes by them: [alerting](../guides/alerting.md),"
    yield "[dashboards](../guides/dashboards.md).\n"
    yield "## Operator\n"
    yield "Port 9090, `/metrics`; the Service `corral-operator-metrics` in `corral-system`, port"
    yield "`metrics`. Besides these there are Python's own, `python_*` and `process_*`. Who does"
    yield "not lead shows `corral_leader` 0 and nothing of runs, pools and models. Counters begin"
    yield "anew with each process; gauges follow from what the leader sees.\n"
    operator = [found for found in vars(metrics).values() if isinstance(found, MetricWrapperBase)]
    assert len(operator) == sum(found.name.startswith("corral_") for found in REGISTRY.collect())
    yield from _table(operator)
    yield "\n## Worker\n"
    yield "Port 8080 (`a2a`) of every worker pod, `/metrics`. Besides these there are `process_*`;"
    yield "the monitors in `manifests/monitoring` add `namespace`, `agent`, `pool` and `pod`.\n"
    collectors = _worker().metrics.registry._collector_to_names
    yield from _table([found for found in collectors if isinstance(found, MetricWrapperBase)])


def _worker() -> "Worker":
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm

    from corral.api.agent import AgentSpec
    from corral.api.attempt import OperatorIdentity, WorkerConfig
    from corral.worker.app import Worker

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    jwks = {"keys": [ECAlgorithm.to_jwk(key, as_dict=True) | {"alg": "ES256"}]}
    config = WorkerConfig(
        namespace="",
        agent_name="",
        agent=AgentSpec(),
        agent_revision="",
        models={},
        concurrency=1,
        drain_timeout_seconds=0,
        operator=OperatorIdentity(issuer="", subject="", jwks=jwks),
    )
    return Worker(config, "", lambda model: None)


def _table(metrics: Sequence[MetricWrapperBase]) -> Iterator[str]:
    yield "| Metric | Type | Labels | |"
    yield "|---|---|---|---|"
    for metric in metrics:
        name = metric._name + ("_total" if metric._type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        yield f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |"


def main(arguments: list[str]) -> int:
    """Writes the files; with ``--check`` compares and returns 1 where one differs."""
    stale = [
        name
        for name, text in files().items()
        if not (HERE / name).is_file() or (HERE / name).read_text() != text
    ]
    if "--check" in arguments:
        for name in stale:
            print(f"docs/reference/{name} is not up to date: python docs/reference/generate.py")
        return int(bool(stale))
    for name, text in files().items():
        (HERE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
