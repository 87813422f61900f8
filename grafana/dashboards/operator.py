"""Does the operator lead, keep up, and get on with the API server?"""

from grafana.panels import Board, Query, Row, graph, number, quantiles
from grafana.queries import or_none, quantile, rate, rise

_OURS = "and on (instance) corral_leader"
_DISPATCH = "corral_dispatch_duration_seconds"

BOARD = Board(
    "operator",
    "Operator internals",
    "Does the operator lead, keep up, and get on with the API server?",
    [],
    traces='{resource.service.name="corral-operator"}',
    rows=[
        Row(
            "Leadership",
            "CorralNobodyLeads",
            [
                number(
                    "Operators",
                    "Processes that can be scraped; one leads, others stand by.",
                    or_none("count(corral_leader)"),
                    limit=1,
                    low=True,
                ),
                number(
                    "Epoch",
                    "It rises by one with every change of leaders.",
                    or_none("max(corral_lease_epoch)"),
                ),
                number(
                    "Unexpected errors",
                    "Passes of the time shown that ended in an exception. The log has it.",
                    or_none(rise("corral_reconcile_errors_total")),
                    limit=1,
                ),
                number(
                    "Keys that wait",
                    "For a pass, in all queues. It should be near 0 again within seconds.",
                    or_none("sum(corral_queue_depth)"),
                    limit=1000,
                ),
                number(
                    "Dispatch, p95",
                    "What corral itself adds to an attempt, in the time shown.",
                    or_none(
                        f"histogram_quantile(0.95, {rise(f'{_DISPATCH}_bucket', by='le')}) >= 0"
                    ),
                    unit="s",
                    limit=1,
                ),
                number(
                    "Artifact store",
                    "Whether large outputs can be read and written.",
                    "min(corral_artifact_store_usable and on (instance) corral_leader == 1)",
                    words={"0": "rests", "1": "usable"},
                    limit=1,
                    low=True,
                ),
            ],
        ),
        Row(
            "Passes",
            "CorralPassesFail",
            [
                graph(
                    "Passes, by queue",
                    "How often the operator looks at something, in a second.",
                    Query(
                        rate("corral_reconcile_duration_seconds_count", "", "queue"), "{{queue}}"
                    ),
                    unit="ops",
                ),
                graph(
                    "How long passes take",
                    "A slow one holds up only its own object.",
                    *quantiles("corral_reconcile_duration_seconds", "", "queue"),
                    unit="s",
                ),
                graph(
                    "Keys that wait, by queue",
                    "A queue that only grows: the operator is slower than what happens.",
                    Query("sum by (queue) (corral_queue_depth)", "{{queue}}"),
                ),
                graph(
                    "Passes that were not finished, by queue",
                    "In a second. Retried: something did not answer. Errors: report them, with the "
                    "log's lines.",
                    Query(
                        or_none(rate("corral_reconcile_retries_total", "", "queue"), "queue"),
                        "retried: {{queue}}",
                    ),
                    Query(
                        or_none(rate("corral_reconcile_errors_total", "", "queue"), "queue"),
                        "errors: {{queue}}",
                    ),
                    unit="ops",
                ),
            ],
        ),
        Row(
            "API server",
            "CorralApiErrors",
            [
                graph(
                    "Writes, by resource",
                    "In a second. `workflows/status` is one for each wave of results.",
                    Query(
                        rate("corral_api_writes_total", "", "verb, resource"),
                        "{{verb}} {{resource}}",
                    ),
                    unit="reqps",
                    stacked=True,
                ),
                graph(
                    "How long calls take, by verb",
                    "Watches aside. Much more than usual: the API server or etcd is slow.",
                    *quantiles("corral_api_request_duration_seconds", "", "verb"),
                    unit="s",
                ),
                graph(
                    "Conflicts, by resource",
                    "Writes in a second that met somebody else's. Many: find who writes what the "
                    "operator owns.",
                    Query(
                        or_none(rate("corral_api_conflicts_total", "", "resource"), "resource"),
                        "{{resource}}",
                    ),
                    unit="ops",
                ),
                graph(
                    "Calls that were refused, by status",
                    "In a second. 404 and 409 are part of life; 0 is no answer, 429 too many "
                    "calls, 5xx the server's own errors.",
                    Query(
                        or_none(rate("corral_api_errors_total", "", "verb, status"), "status"),
                        "{{verb}} {{status}}",
                    ),
                    unit="ops",
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Attempts and artifacts",
            "CorralArtifactStoreDown",
            [
                graph(
                    "Dispatch",
                    "From sending an attempt to having its result, less the worker's own time.",
                    *(
                        Query(quantile(share, _DISPATCH), f"p{share * 100:g}")
                        for share in (0.5, 0.95, 0.99)
                    ),
                    unit="s",
                ),
                graph(
                    "Calls to the artifact store, by outcome",
                    "In a second. Errors: runs with large outputs wait.",
                    Query(
                        rate("corral_artifact_store_calls_total", "", "operation, outcome"),
                        "{{operation}} {{outcome}}",
                    ),
                    unit="ops",
                ),
                graph(
                    "How long the artifact store takes, by call",
                    "All tries together.",
                    *quantiles("corral_artifact_store_duration_seconds", "", "operation"),
                    unit="s",
                    width=24,
                ),
            ],
        ),
        Row(
            "Traces",
            "CorralTracesBehind",
            [
                graph(
                    "Spans exported",
                    "In a second. None while runs end: no collector is named, it is away, or their "
                    "callers sampled them out.",
                    Query(rate("corral_spans_exported_total"), "exported"),
                    unit="ops",
                    width=8,
                ),
                graph(
                    "Spans that wait",
                    "In the ledger's database. They rise while the collector does not answer; "
                    "nothing else waits for it.",
                    Query("sum(corral_spans_waiting)", "waiting"),
                    width=8,
                ),
                graph(
                    "Spans that are lost",
                    "In a minute. Refused: the collector says no, the log says why. Dropped: it "
                    "was away for too long.",
                    Query(f"60 * {rate('corral_spans_failed_total')}", "refused"),
                    Query(f"60 * {rate('corral_spans_dropped_total')}", "dropped"),
                    unit="opm",
                    width=8,
                ),
            ],
        ),
        Row(
            "Process",
            "CorralOperatorDown",
            [
                graph(
                    "Memory, by pod",
                    "Against the limit of the Deployment. It grows with Workflows that are kept: "
                    "`ttlAfterFinished`.",
                    Query(f"max by (pod) (process_resident_memory_bytes {_OURS})", "{{pod}}"),
                    unit="bytes",
                ),
                graph(
                    "CPU, by pod",
                    "Cores. At 1 it can do no more: passes are late.",
                    Query(
                        f"max by (pod) (rate(process_cpu_seconds_total[$__rate_interval]) {_OURS})",
                        "{{pod}}",
                    ),
                    limit=0.9,
                ),
            ],
        ),
    ],
)
