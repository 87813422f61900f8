"""Conditions, as ``metav1.Condition`` wants them."""

from collections.abc import Sequence

from corral.api.errors import ConditionType, Reason
from corral.api.types import Condition
from corral.plan.times import rfc3339


def condition(
    kind: ConditionType, holds: bool | None, reason: Reason | str, message: str = ""
) -> Condition:
    """A condition without its times; ``holds=None`` is Unknown."""
    status = "Unknown" if holds is None else str(holds)
    return Condition(
        type=kind.value,
        status=status,
        last_transition_time="",
        reason=str(reason),
        message=message[:4096],
    )


def merge(
    previous: Sequence[Condition], current: Sequence[Condition], generation: int, now: float
) -> list[Condition]:
    """The current conditions, each with the time at which its status last changed.

    Conditions of other types stay as they are: somebody else may own them.
    """
    before = {c.type: c for c in previous}
    merged = []
    for c in current:
        old = before.pop(c.type, None)
        kept = old is not None and old.status == c.status
        since = old.last_transition_time if kept and old else rfc3339(now)
        merged.append(
            c.model_copy(update={"last_transition_time": since, "observed_generation": generation})
        )
    return [*merged, *before.values()]


def find(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((c for c in conditions if c.type == kind.value), None)


def is_true(conditions: Sequence[Condition], kind: ConditionType) -> bool:
    """Whether the condition is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"
