"""How much of everything: the whole benchmark, or a quick look."""

from dataclasses import dataclass, field
from typing import Any


def _size(value: float, words: str) -> Any:
    return field(default=value, metadata={"help": words})


@dataclass(frozen=True)
class Sizes:
    """How large the parts are; each is an option of the command line."""

    chains: int = _size(50, "chains at once")
    chain_steps: int = _size(5, "steps of a chain")
    width: int = _size(1000, "items of the fan-out")
    latency_workflows: int = _size(10, "chains, one after another, of which latency is taken")
    latency_steps: int = _size(21, "steps of each of those")
    overload: float = _size(15.0, "seconds for which too much is submitted")
    crowd: int = _size(5000, "Workflows of the crowd")
    waiting: int = _size(500, "of those that stand, how many are suspended")
    running: int = _size(50, "of those that stand, how many have a step with a worker")
    rounds: int = _size(6, "times that observability measures each of its settings")
    observed: int = _size(200, "chains of each of those measurements")
    idle: float = _size(60.0, "seconds of idleness")
    workers: int = _size(1, "workers of each pool")
    concurrency: int = _size(64, "steps that a worker has at once")
    latency: int = _size(50, "milliseconds that the simulated model takes")
    timeout: float = _size(900.0, "seconds that anything may take before it counts as failed")


WHOLE = Sizes()
QUICK = Sizes(
    chains=20,
    width=200,
    latency_workflows=3,
    overload=5.0,
    crowd=300,
    waiting=30,
    running=10,
    rounds=2,
    observed=40,
    idle=15.0,
)
