"""What counters say at a moment: the operator's own, and the API server's."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

LEASE = "PUT leases"
_STATUS_WRITE = {
    "group": "corral.dev",
    "resource": "workflows",
    "subresource": "status",
    "verb": "PUT",
}


@dataclass(frozen=True)
class OperatorReading:
    """The operator's own counters; those of one process, from its start."""

    calls: Counter[str]
    """Calls that change something, such as ``PUT workflows/status``."""
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
    status_writes: int
    """Writes of Workflows' statuses: by the operator, as nobody else may."""
    status_write_seconds: float
    """What those writes took in the API server, together."""


def operator_reading(text: str) -> OperatorReading:
    """Reads the operator's metrics page."""
    totals: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
            if sample.name == "corral_api_writes_total":
                calls[f"{sample.labels['verb']} {sample.labels['resource']}"] += int(sample.value)
    return OperatorReading(
        calls=calls,
        conflicts=totals["corral_api_conflicts_total"],
        cpu=totals["process_cpu_seconds_total"],
        resident=totals["process_resident_memory_bytes"],
        started=totals["process_start_time_seconds"],
        errors=totals["corral_reconcile_errors_total"],
    )


def server_reading(text: str) -> ServerReading:
    """Reads the API server's metrics page."""
    # Of its megabytes only these lines: the parser would take seconds for all.
    wanted = (
        "apiserver_request_total{",
        "apiserver_request_duration_seconds_sum{",
        "process_cpu_seconds_total ",
    )
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    cpu, writes, seconds = 0.0, 0, 0.0
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == "process_cpu_seconds_total":
                cpu = sample.value
            elif _STATUS_WRITE.items() <= sample.labels.items():
                if sample.name == "apiserver_request_total":
                    writes += int(sample.value)
                else:
                    seconds += sample.value
    return ServerReading(cpu, writes, seconds)
