"""How much of everything: the whole benchmark, or a quick look."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How large the parts are. Seconds where nothing else is said."""

    chains: int = 50
    """Chains at once."""
    chain_steps: int = 5
    width: int = 1000
    """Items of the fan-out."""
    latency_workflows: int = 10
    """Chains, one after another, whose steps' distances are taken."""
    latency_steps: int = 21
    crowd: int = 5000
    """Workflows applied at once."""
    waiting: int = 500
    """Of the crowd, those that are suspended when the operator is restarted."""
    running: int = 50
    """Of the crowd, those whose step is with a worker when the operator is restarted."""
    overload: float = 15.0
    """How long twice as much is submitted as the workers can do."""
    idle: float = 60.0
    workers: int = 1
    """Workers of each pool."""
    concurrency: int = 64
    """Steps that a worker has at once."""
    latency: int = 50
    """Milliseconds that the simulated model takes."""
    timeout: float = 600.0
    """How long anything may take before it counts as failed."""


WHOLE = Sizes()
QUICK = Sizes(
    chains=20,
    width=200,
    latency_workflows=3,
    crowd=300,
    waiting=30,
    running=10,
    overload=5.0,
    idle=15.0,
)
