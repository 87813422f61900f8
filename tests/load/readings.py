"""What counters say at a moment: the operator's own, and the API server's."""

from collections import Counter
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

_CHANGES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})
_OURS = frozenset({"corral.dev", "events.k8s.io"})
_OURS_OF_CORE = frozenset({"pods", "serviceaccounts/token", "configmaps"})


@dataclass(frozen=True)
class OperatorReading:
    """The operator's own counters; those of one process, from its start."""

    writes: float
    conflicts: float
    cpu: float
    """Seconds."""
    resident: float
    """Bytes."""
    started: float
    """When the process started, in seconds since the epoch."""
    errors: float
    """Passes that ended in an exception that nobody expected."""


@dataclass(frozen=True)
class ServerReading:
    """The API server's counters; with several servers, those of the one that answered."""

    cpu: float
    """Seconds."""
    calls: Counter[str] = field(default_factory=Counter)
    """Calls that change what the operator may change, such as ``PUT workflows/status``.

    Workflows are made by the load itself, so ``POST workflows`` is not among them.
    """


def operator_reading(text: str) -> OperatorReading:
    """Reads the operator's metrics page."""
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
    return OperatorReading(
        writes=totals["corral_api_writes"],
        conflicts=totals["corral_api_conflicts_total"],
        cpu=totals["process_cpu_seconds_total"],
        resident=totals["process_resident_memory_bytes"],
        started=totals["process_start_time_seconds"],
        errors=totals["corral_reconcile_errors"],
    )


def server_reading(text: str) -> ServerReading:
    """Reads the API server's metrics page."""
    # Of its megabytes only these lines: the parser would take seconds for all.
    wanted = ("apiserver_request_total{", "process_cpu_seconds_total ")
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    cpu, calls = 0.0, Counter[str]()
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == "process_cpu_seconds_total":
                cpu = sample.value
            elif call := _call(sample.labels):
                calls[call] += int(sample.value)
    return ServerReading(cpu, calls)


def _call(labels: dict[str, str]) -> str | None:
    verb, group, what = labels["verb"], labels["group"], labels["resource"]
    if labels["subresource"]:
        what += f"/{labels['subresource']}"
    ours = group in _OURS or (not group and what in _OURS_OF_CORE)
    call = f"{verb} {what}"
    return call if verb in _CHANGES and ours and call != "POST workflows" else None
