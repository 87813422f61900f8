"""The operator's metrics. Labels are bounded: no names of runs."""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

WORKFLOW_TRANSITIONS = Counter(
    "corral_workflow_phase_transitions_total",
    "Workflows that entered a phase.",
    ["namespace", "phase"],
)
ATTEMPTS = Counter(
    "corral_attempts_total",
    "Attempts that ended, by error class; Succeeded where there was none.",
    ["namespace", "outcome"],
)
COST = Counter("corral_cost_usd_total", "Known cost of model calls, in US dollars.", ["namespace"])
TOKENS = Counter("corral_tokens_total", "Tokens of model calls.", ["namespace", "type"])
UNPRICED = Counter(
    "corral_unpriced_requests_total", "Model calls for which no price is known.", ["namespace"]
)
PASSES = Histogram(
    "corral_reconcile_duration_seconds",
    "Passes, by what they were over.",
    ["queue"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
CONFLICTS = Counter("corral_api_conflicts_total", "Status writes that met somebody else's write.")
API_WRITES = Counter(
    "corral_api_writes_total",
    "Calls to the API server that change something, by HTTP verb and resource.",
    ["verb", "resource"],
)
QUEUE_DEPTH = Gauge("corral_queue_depth", "Keys that wait for a pass.", ["queue"])
PASS_ERRORS = Gauge(
    "corral_reconcile_errors", "Passes that ended in an unexpected exception.", ["queue"]
)
LEADER = Gauge("corral_leader", "1 while this process leads.")
EPOCH = Gauge("corral_lease_epoch", "The leader's epoch (the Lease's leaseTransitions).")
LEDGER_ROWS = Counter("corral_ledger_rows_total", "Rows that were written to the ledger.")
LEDGER_REFUSED = Counter(
    "corral_ledger_refused_rows_total", "Rows that the ledger's database will never take."
)
LEDGER_HELD = Gauge("corral_ledger_held_attempts", "Attempts whose rows wait to be written.")
LEDGER_UP = Gauge("corral_ledger_up", "1 while rows can be written to the ledger, by the leader.")
POOL_REPLICAS = Gauge(
    "corral_pool_replicas",
    "Workers of a pool: desired, ready, busy.",
    ["namespace", "pool", "state"],
)
POOL_STEPS = Gauge(
    "corral_pool_steps",
    "Attempts of a pool: running, and its part of those that are queued for its Agent.",
    ["namespace", "pool", "state"],
)
POOL_REACTION = Histogram(
    "corral_pool_reaction_seconds",
    "From a pass that found no place for steps to the first pod that was made for them.",
    ["namespace"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
ARTIFACT_CALLS = Counter(
    "corral_artifact_store_calls_total",
    "Calls to the artifact store: ok, missing (no such artifact), error (after all tries).",
    ["operation", "outcome"],
)
ARTIFACT_SECONDS = Histogram(
    "corral_artifact_store_duration_seconds",
    "How long calls to the artifact store took, all tries together.",
    ["operation"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ARTIFACT_STORE_USABLE = Gauge(
    "corral_artifact_store_usable", "0 while the artifact store rests after failures, else 1."
)


MODEL_CIRCUIT = Gauge(
    "corral_circuit_state",
    "Circuit of a Model: 0 closed, 0.5 half open (a probe is under way), 1 open.",
    ["namespace", "model"],
)
MODEL_IN_FLIGHT = Gauge(
    "corral_model_attempts_in_flight", "Attempts at work that ask a Model.", ["namespace", "model"]
)
MODEL_HELD_BACK = Gauge(
    "corral_model_attempts_held_back",
    "Attempts that wait for a Model: maxInFlight, requestsPerMinute, tokensPerMinute (its limits), "
    "circuitBreaker, retryAfter.",
    ["namespace", "model", "obstacle"],
)
_CIRCUITS = {"Closed": 0.0, "HalfOpen": 0.5, "Open": 1.0}


def observe_model(
    namespace: str, model: str, circuit: str, in_flight: int, held_back: Mapping[str, int]
) -> None:
    """Shows what stands before a Model.

    Args:
        held_back: attempts by what they wait for, 0 where none does any more.
    """
    MODEL_CIRCUIT.labels(namespace, model).set(_CIRCUITS[circuit])
    MODEL_IN_FLIGHT.labels(namespace, model).set(in_flight)
    for obstacle, count in held_back.items():
        MODEL_HELD_BACK.labels(namespace, model, obstacle).set(count)


def forget_model(namespace: str, model: str) -> None:
    """Drops the series of a Model that is gone."""
    for gauge in (MODEL_CIRCUIT, MODEL_IN_FLIGHT, MODEL_HELD_BACK):
        gauge.remove_by_labels({"namespace": namespace, "model": model})


def forget_pool(namespace: str, pool: str) -> None:
    """Drops the series of a pool that is gone."""
    for gauge in (POOL_REPLICAS, POOL_STEPS):
        gauge.remove_by_labels({"namespace": namespace, "pool": pool})


def observe_attempt(
    namespace: str,
    outcome: str,
    input_tokens: int,
    output_tokens: int,
    cost_usd: float | None,
    unpriced_requests: int,
) -> None:
    """Counts an attempt whose result was recorded."""
    ATTEMPTS.labels(namespace, outcome).inc()
    TOKENS.labels(namespace, "input").inc(input_tokens)
    TOKENS.labels(namespace, "output").inc(output_tokens)
    UNPRICED.labels(namespace).inc(unpriced_requests)
    if cost_usd is not None:
        COST.labels(namespace).inc(cost_usd)
