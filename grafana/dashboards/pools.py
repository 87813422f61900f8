"""Are there workers enough, do they start, and what do they use?"""

from grafana.panels import Board, Query, Row, bars, graph
from grafana.queries import NAMESPACE, POOL, rate, rise

_WORKERS = f"and on (instance) corral_worker_attempts_running{{{POOL}}}"
_REACTION = "corral_pool_reaction_seconds_bucket"


def _replicas(state: str) -> str:
    return f'sum by (pool) (corral_pool_replicas{{{POOL}, state="{state}"}})'


BOARD = Board(
    "pools",
    "Pools and autoscaling",
    "Are there workers enough, do they start, and what do they use?",
    ["namespace", "pool"],
    [
        Row(
            "Workers and work",
            "CorralQueueDeep",
            [
                graph(
                    "Workers wanted, by pool",
                    "What `autoscaling` or `replicas` asks for. At `maxReplicas`, with a queue: "
                    "raise it.",
                    Query(_replicas("desired"), "{{pool}}"),
                ),
                graph(
                    "Workers ready, by pool",
                    "Below what is wanted for longer than a start takes: see Starting.",
                    Query(_replicas("ready"), "{{pool}}"),
                ),
                graph(
                    "Share of workers at work, by pool",
                    "Busy of ready. Always 1: too few workers; always near 0: too many.",
                    Query(f"{_replicas('busy')} / ({_replicas('ready')} > 0)", "{{pool}}"),
                    unit="percentunit",
                ),
                graph(
                    "Attempts of each pool",
                    "Running, and its part of those that are queued for its Agent.",
                    Query(
                        f"sum by (pool, state) (corral_pool_steps{{{POOL}}})", "{{pool}} {{state}}"
                    ),
                    stacked=True,
                ),
            ],
        ),
        Row(
            "Starting",
            "CorralPoolCannotStart",
            [
                graph(
                    "Pools whose workers can't start",
                    "1 while a worker can't; the pool's condition Ready says why.",
                    Query(f"max by (pool) (corral_pool_failing{{{POOL}}})", "{{pool}}"),
                    most=1,
                    limit=1,
                ),
                bars(
                    "Reaction to too few workers, by namespace",
                    "From a pass that found no place for steps to the first pod made for them: 95 "
                    "of 100 in the time shown. A pod's own start comes after it.",
                    Query(
                        f"histogram_quantile(0.95, {rise(_REACTION, NAMESPACE, 'namespace, le')})",
                        "{{namespace}}",
                    ),
                    unit="s",
                    limit=1,
                ),
                graph(
                    "Workers that ended by themselves",
                    "In a minute. Out of memory, evicted, crashed: Events of the pool say so.",
                    Query(
                        f"60 * {rate('corral_pool_workers_ended_total', POOL, 'pool')}"
                        f" or 0 * {_replicas('desired')}",
                        "{{pool}}",
                    ),
                    unit="opm",
                ),
                graph(
                    "Results that wait to be recorded",
                    "Kept by workers until the operator has them. They rise when it is away.",
                    Query(f"sum by (pool) (corral_worker_attempts_unacked{{{POOL}}})", "{{pool}}"),
                    stacked=True,
                ),
            ],
        ),
        Row(
            "What workers use",
            "CorralWorkersCrash",
            [
                graph(
                    "Memory of the largest worker, by pool",
                    "Against the limit in `template.resources`: above it a worker is killed.",
                    Query(f"max by (pool) (process_resident_memory_bytes {_WORKERS})", "{{pool}}"),
                    unit="bytes",
                ),
                graph(
                    "CPU of the busiest worker, by pool",
                    "Cores. Workers mostly wait for models: much of it is unusual.",
                    Query(
                        "max by (pool) (rate(process_cpu_seconds_total[$__rate_interval])"
                        f" {_WORKERS})",
                        "{{pool}}",
                    ),
                ),
                graph(
                    "Attempts on workers",
                    "As workers tell it themselves: at work, and waiting for their turn there.",
                    Query(f"sum(corral_worker_attempts_running{{{POOL}}})", "at work"),
                    Query(f"sum(corral_worker_attempts_waiting{{{POOL}}})", "waiting"),
                ),
                graph(
                    "Attempts that end on workers, by class of error",
                    "Without a class: they succeeded. Agents has the operator's count; this one "
                    "has those that it never saw, too.",
                    Query(
                        rate("corral_worker_attempts_total", POOL, "pool, error_class"),
                        "{{pool}} {{error_class}}",
                    ),
                    unit="ops",
                    stacked=True,
                ),
            ],
        ),
    ],
)
