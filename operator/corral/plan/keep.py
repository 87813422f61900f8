"""How values are kept: small ones in the journal, the others in the artifact store by their hash.

The journal of a run has to fit into etcd, so the wider a fan-out is, the less of each output it
holds.
"""

import hashlib
from typing import Any

from corral.plan.data import unfit
from corral.plan.expressions import compact_json, whole_numbers
from corral.plan.facts import ArtifactNeed
from corral.plan.observed import Pass
from corral.plan.state import Kept, Stored

INLINE = 1024
"""Bytes of a value that the journal holds itself."""
INLINE_OF_ALL = 96 * 1024
"""Bytes that the outputs of a fan-out may have in the journal together."""
INLINE_LEAST = 96
"""About what the place of a stored value takes: nothing is won below that."""
MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes of one output."""
MAX_ITEMS = 16 * 1024
"""Bytes of a fan-out's list that the journal holds itself."""


class UnfitError(ValueError):
    """A value that can't be kept, in words that follow "the output"."""


def keep(p: Pass, value: Any, siblings: int = 1, inline: int = INLINE) -> Kept:
    """A value as the journal keeps it; a large one is left in ``p.to_store``.

    Args:
        siblings: how many values of this kind the journal may hold.

    Raises:
        UnfitError: it is no JSON that can be read again, or too large.
    """
    if problem := unfit(value):
        raise UnfitError(problem)
    value = whole_numbers(value)
    content = compact_json(value).encode()
    if len(content) > MAX_OUTPUT:
        raise UnfitError(f"of {len(content)} bytes is over {MAX_OUTPUT}")
    if len(content) <= min(inline, max(INLINE_LEAST, INLINE_OF_ALL // max(1, siblings))):
        return Kept(value=value)
    stored = Stored(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    p.to_store[stored.sha256] = content
    p.facts.known[ArtifactNeed(p.run.run_id, stored.sha256, stored.size)] = value
    return Kept(stored=stored)
