"""Whether a failed attempt is tried again, and when.

Auth, Quota and Budget are never tried again. Infrastructure losses (WorkerLost, NoCapacity,
RateLimited) are, up to ``MAX_LOSSES`` times and without touching ``retryStrategy.limit``: they
are not the step's fault. Everything else is tried again as ``retryStrategy`` says.

The wait before the k-th retry is ``duration * factor^(k-1)``, moved by at most ``jitterPercent``
either way, and never more than ``maxDuration``; the jitter is drawn from the attempt id, so that a
plan made twice is the same plan.
"""

import hashlib

from corral.api.errors import INFRASTRUCTURE, NEVER_RETRIED, ErrorClass
from corral.api.types import seconds
from corral.api.workflow import Backoff, RetryStrategy
from corral.plan.state import Node

MAX_LOSSES = 10
LONGEST_BACKOFF = 24 * 3600.0
"""Seconds between two retries where there is no ``maxDuration``."""
_LOSS_BACKOFF = Backoff(duration="500ms", factor=2, max_duration="30s", jitter_percent=20)


def backoff_seconds(backoff: Backoff, retry: int, key: str) -> float:
    """The wait before the ``retry``-th retry (from 1) of the attempt ``key``, in seconds."""
    longest = seconds(backoff.max_duration) if backoff.max_duration else LONGEST_BACKOFF
    wait = longest
    if retry < 64:  # beyond that the power is larger than any duration
        wait = min(seconds(backoff.duration) * backoff.factor ** (retry - 1), longest)
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
    return min(wait * (1 + (2 * draw - 1) * backoff.jitter_percent / 100), longest)


def wait_before_retry(
    node: Node, error: ErrorClass, strategy: RetryStrategy | None, key: str
) -> float | None:
    """Seconds until the node is tried again, counted in the node; None if it has failed."""
    if error in NEVER_RETRIED:
        return None
    if error in INFRASTRUCTURE:
        node.losses += 1
        if node.losses > MAX_LOSSES:
            return None
        if error is ErrorClass.RATE_LIMITED:
            return backoff_seconds(_LOSS_BACKOFF, node.losses, key)
        # A worker that is gone is no reason to wait, unless it keeps happening.
        return 0.0 if node.losses == 1 else backoff_seconds(_LOSS_BACKOFF, node.losses - 1, key)
    if strategy is None or node.retries >= strategy.limit:
        return None
    if strategy.on_errors is not None and error not in strategy.on_errors:
        return None
    node.retries += 1
    return backoff_seconds(strategy.backoff, node.retries, key)
