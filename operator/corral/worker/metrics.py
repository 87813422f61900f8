"""The worker's metrics. Labels are bounded: never a run, a workflow or an attempt."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest

from corral.worker.attempt import Attempt
from corral.worker.outcome import ModelCall, ToolCall

# A series more for every counter, which nothing asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Those of OpenTelemetry's conventions for calls of models and tools."""
_TOKENS = tuple(4**power for power in range(11))
"""The same for tokens, up to a million: a window of more is not sold."""
_ATTEMPT_SECONDS = (*_SECONDS, 163.84, 327.68, 655.36, 1310.72)


class WorkerMetrics:
    """Counts ends of attempts and model calls; `watch` adds gauges of the table."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._attempts = Counter(
            "corral_worker_attempts",
            "Attempts that ended, by state and error class.",
            ["state", "error_class"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "corral_worker_attempt_duration_seconds",
            "How long attempts worked.",
            buckets=_ATTEMPT_SECONDS,
            registry=self.registry,
        )
        self._calls = Histogram(
            "corral_worker_model_call_duration_seconds",
            "How long model calls took; error_class is empty for those that were answered.",
            ["model", "provider", "error_class"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tools = Histogram(
            "corral_worker_tool_call_duration_seconds",
            "How long tool calls took, by the Agent's entry (empty: a step's own) and outcome.",
            ["tool", "outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._servers = Gauge(
            "corral_worker_tool_server_usable",
            "0 while a tool server is left alone after failures, else 1.",
            ["server"],
            registry=self.registry,
        )
        self._sizes = Histogram(
            "corral_worker_model_call_tokens",
            "Tokens of an answered model call, by direction (input, output).",
            ["model", "provider", "direction"],
            buckets=_TOKENS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "corral_worker_model_tokens",
            "Tokens that models counted, by direction (input, output) and whether simulated.",
            ["model", "provider", "direction", "simulated"],
            registry=self.registry,
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked when it is scraped."""
        gauge = Gauge(f"corral_worker_{name}", text, registry=self.registry)
        gauge.set_function(value)

    def attempt_ended(self, attempt: Attempt) -> None:
        """Counts an attempt."""
        error = attempt.outcome.error if attempt.outcome else None
        self._attempts.labels(attempt.state.value, error.error_class if error else "").inc()
        if attempt.ended_at is not None:
            self._seconds.observe(attempt.elapsed(attempt.ended_at))

    def call_ended(self, call: ModelCall) -> None:
        """Counts a model call."""
        self._calls.labels(call.model_ref, call.provider, call.error_class or "").observe(
            call.seconds
        )
        simulated = str(call.simulated).lower()
        for direction, count in (("input", call.input_tokens), ("output", call.output_tokens)):
            labels = self._tokens.labels(call.model_ref, call.provider, direction, simulated)
            labels.inc(count)
            if call.error_class is None and not call.unanswered:
                self._sizes.labels(call.model_ref, call.provider, direction).observe(count)

    def tool_ended(self, call: ToolCall) -> None:
        """Counts a tool call."""
        self._tools.labels(call.entry, call.outcome).observe(call.seconds)

    def tool_server(self, host: str, usable: bool) -> None:
        """Shows whether a tool server is usable."""
        self._servers.labels(host).set(usable)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
