"""When a step may start, by what became of the steps it depends on.

Each dependency is one of: *open* (not final), *done* (Succeeded, Skipped, or a failure that its
step allows) and *lost* (Failed, Omitted, Cancelled). A failure counts as failed for AnyFailed
whether it is allowed or not.

=============  ==========================  =================================
Rule           holds as soon as            can't hold any more once
=============  ==========================  =================================
AllSucceeded   all are done                one is lost
AllDone        none is open                (never)
AnyFailed      one is Failed               none is open and none is Failed
AnySucceeded   one is Succeeded            none is open and none Succeeded
=============  ==========================  =================================

So a step without dependencies starts at once, but for AnyFailed and AnySucceeded, which it can't
have.

An approval that was Skipped does not count as done unless it says ``onSkip: Proceed``; the
caller passes such a dependency as Omitted.
"""

from collections.abc import Sequence
from enum import Enum

from corral.api.workflow import FINAL_STEP_PHASES, StepPhase, TriggerRule


class Trigger(Enum):
    """What a trigger rule says now."""

    HOLDS = "holds"
    MAY_HOLD = "may hold later"
    CANNOT_HOLD = "can't hold any more"


def evaluate(rule: TriggerRule, dependencies: Sequence[tuple[StepPhase, bool]]) -> Trigger:
    """What ``rule`` says of dependencies given as (phase, whether a failure is allowed)."""
    phases = [phase for phase, _ in dependencies]
    any_open = any(phase not in FINAL_STEP_PHASES for phase in phases)
    if rule is TriggerRule.ALL_SUCCEEDED:
        done = [
            phase in (StepPhase.SUCCEEDED, StepPhase.SKIPPED)
            or (phase is StepPhase.FAILED and allowed)
            for phase, allowed in dependencies
        ]
        if all(done):
            return Trigger.HOLDS
        lost = any(
            phase in FINAL_STEP_PHASES and not ok for phase, ok in zip(phases, done, strict=True)
        )
        return Trigger.CANNOT_HOLD if lost else Trigger.MAY_HOLD
    if rule is TriggerRule.ALL_DONE:
        return Trigger.MAY_HOLD if any_open else Trigger.HOLDS
    needed = StepPhase.FAILED if rule is TriggerRule.ANY_FAILED else StepPhase.SUCCEEDED
    if needed in phases:
        return Trigger.HOLDS
    return Trigger.MAY_HOLD if any_open else Trigger.CANNOT_HOLD
