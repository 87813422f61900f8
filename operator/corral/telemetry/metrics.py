"""The operator's metrics. Labels are bounded: objects that are configured, never names of runs.

Counters and histograms are of this process; who leads counts what it commits. Gauges of a leader
come back with the next: they follow from what it sees.
"""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# A series more for every counter, which nothing asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_CALL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_STORE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STEP = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1800, 3600)
_RUN = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)

# Runs and steps.

WORKFLOWS = Gauge("corral_workflows", "Workflows that there are.", ["namespace", "phase"])
WORKFLOW_TRANSITIONS = Counter(
    "corral_workflow_phase_transitions_total",
    "Workflows that entered a phase.",
    ["namespace", "phase"],
)
WORKFLOWS_FINISHED = Counter(
    "corral_workflows_finished_total",
    "Workflows that ended, by their template (empty for those without) and the reason of their "
    "condition Finished.",
    ["namespace", "template", "phase", "reason"],
)
WORKFLOW_SECONDS = Histogram(
    "corral_workflow_duration_seconds",
    "From a run's start to its end.",
    ["namespace", "template", "phase"],
    buckets=_RUN,
)
WORKFLOW_STILL = Gauge(
    "corral_workflow_still_seconds",
    "For how long nothing has changed in the unfinished run that has stood still the longest, by "
    "what it waits for: the reason of its condition, or Waiting where all that has begun waits.",
    ["namespace", "waits_for"],
)
WORKFLOW_BUDGET = Gauge(
    "corral_workflow_budget_used_ratio",
    "Of the unfinished run that has spent the most of its budget, the share; 1 is all of it.",
    ["namespace"],
)
STEPS = Gauge(
    "corral_steps",
    "Steps, or items of a fan-out, of unfinished runs that have not ended, by why they wait.",
    ["namespace", "agent", "phase", "reason"],
)
STEPS_FINISHED = Counter(
    "corral_steps_finished_total",
    "Steps that ended; the reason is empty for those that succeeded.",
    ["namespace", "agent", "phase", "reason"],
)
STEP_SECONDS = Histogram(
    "corral_step_duration_seconds",
    "From the start of a step's first attempt to the step's end.",
    ["namespace", "agent", "phase"],
    buckets=_STEP,
)
STEP_QUEUE_SECONDS = Histogram(
    "corral_step_queue_duration_seconds",
    "From when a step, or an item of a fan-out, could start to the start of its first attempt.",
    ["namespace", "agent"],
    buckets=_STEP,
)
STEP_QUEUE_AGE = Gauge(
    "corral_step_queue_age_seconds",
    "For how long the step that has been queued the longest has seen nothing of it start.",
    ["namespace", "agent"],
)
ATTEMPTS = Counter(
    "corral_attempts_total",
    "Attempts that ended, by error class; Succeeded where there was none.",
    ["namespace", "agent", "outcome"],
)
ATTEMPT_SECONDS = Histogram(
    "corral_attempt_duration_seconds",
    "How long workers worked on attempts.",
    ["namespace", "agent"],
    buckets=_STEP,
)
DISPATCH_SECONDS = Histogram(
    "corral_dispatch_duration_seconds",
    "From sending an attempt to having its result, less the time for which the worker worked.",
    buckets=_CALL,
)
CRON_MISSED = Counter(
    "corral_cron_missed_total",
    "Scheduled times at which no Workflow was made.",
    ["namespace", "cron"],
)

# Money.

MODEL_REQUESTS = Counter(
    "corral_model_requests_total", "Model calls.", ["namespace", "agent", "model"]
)
TOKENS = Counter(
    "corral_tokens_total",
    "Tokens of model calls: input, output.",
    ["namespace", "agent", "model", "type"],
)
COST = Counter(
    "corral_cost_usd_total",
    "Known cost of model calls, in US dollars.",
    ["namespace", "agent", "model"],
)
UNPRICED = Counter(
    "corral_unpriced_requests_total",
    "Real model calls whose cost is unknown: there is no price, or no answer came.",
    ["namespace", "agent", "model"],
)
AGENT_BUDGET = Gauge(
    "corral_agent_budget_used_ratio",
    "The share of an Agent's budget that is spent in this period; 1 is all of it.",
    ["namespace", "agent"],
)

# Pools.

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
POOL_FAILING = Gauge(
    "corral_pool_failing", "1 while a worker of a pool can't start, else 0.", ["namespace", "pool"]
)
POOL_WORKERS_ENDED = Counter(
    "corral_pool_workers_ended_total",
    "Workers that ended without being asked to.",
    ["namespace", "pool"],
)
POOL_REACTION = Histogram(
    "corral_pool_reaction_seconds",
    "From a pass that found no place for steps to the first pod that was made for them.",
    ["namespace"],
    buckets=_CALL,
)

# Models.

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

# The operator itself.

LEADER = Gauge("corral_leader", "1 while this process leads.")
EPOCH = Gauge("corral_lease_epoch", "The leader's epoch (the Lease's leaseTransitions).")
PASSES = Histogram(
    "corral_reconcile_duration_seconds",
    "Passes, by what they were over.",
    ["queue"],
    buckets=_CALL,
)
PASS_RETRIES = Counter(
    "corral_reconcile_retries_total",
    "Passes that could not be finished, as something did not answer or refused for now.",
    ["queue"],
)
PASS_ERRORS = Counter(
    "corral_reconcile_errors_total", "Passes that ended in an unexpected exception.", ["queue"]
)
QUEUE_DEPTH = Gauge("corral_queue_depth", "Keys that wait for a pass.", ["queue"])
API_WRITES = Counter(
    "corral_api_writes_total",
    "Calls to the API server that change something, by HTTP verb and resource.",
    ["verb", "resource"],
)
API_CONFLICTS = Counter(
    "corral_api_conflicts_total", "Writes that met somebody else's write.", ["resource"]
)
API_ERRORS = Counter(
    "corral_api_errors_total",
    "Calls to the API server that were refused, by HTTP status; 0: there was no answer.",
    ["verb", "status"],
)
API_SECONDS = Histogram(
    "corral_api_request_duration_seconds",
    "How long calls to the API server took, watches aside.",
    ["verb"],
    buckets=_CALL,
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
    buckets=_STORE,
)
ARTIFACT_STORE_USABLE = Gauge(
    "corral_artifact_store_usable", "0 while the artifact store rests after failures, else 1."
)

# The ledger.

LEDGER_ROWS = Counter("corral_ledger_rows_total", "Rows that were written to the ledger.")
LEDGER_REFUSED = Counter(
    "corral_ledger_refused_rows_total", "Rows that the ledger's database will never take."
)
LEDGER_HELD = Gauge("corral_ledger_held_attempts", "Attempts whose rows wait to be written.")
LEDGER_UP = Gauge("corral_ledger_up", "1 while rows can be written to the ledger, by the leader.")

# Traces.

SPANS_EXPORTED = Counter("corral_spans_exported_total", "Spans that a collector took.")
SPANS_FAILED = Counter(
    "corral_spans_failed_total", "Spans that a collector refused for good, or part of a batch."
)
SPANS_DROPPED = Counter(
    "corral_spans_dropped_total", "Spans that waited too long for a collector, or were too many."
)
SPANS_WAITING = Gauge(
    "corral_spans_waiting", "Spans that wait to be exported, as the leader saw them last."
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
    for metric in (POOL_REPLICAS, POOL_STEPS, POOL_FAILING, POOL_WORKERS_ENDED):
        metric.remove_by_labels({"namespace": namespace, "pool": pool})


def observe_usage(
    namespace: str,
    agent: str,
    model: str,
    requests: int,
    input_tokens: int,
    output_tokens: int,
    cost_usd: float | None,
    unpriced_requests: int,
) -> None:
    """Counts what an attempt used of a Model."""
    labels = (namespace, agent, model)
    MODEL_REQUESTS.labels(*labels).inc(requests)
    TOKENS.labels(*labels, "input").inc(input_tokens)
    TOKENS.labels(*labels, "output").inc(output_tokens)
    UNPRICED.labels(*labels).inc(unpriced_requests)
    if cost_usd is not None:
        COST.labels(*labels).inc(cost_usd)
