"""``CronWorkflow``: Workflows that are made by the clock."""

from typing import Annotated, Literal

from pydantic import Field

from corral.api.types import Condition, Duration, Resource, Timestamp
from corral.api.workflow import RunSpec

MACROS = ("yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly")
_FIELD = "[0-9A-Za-z*/,#-]+"
SCHEDULE = rf"^(@({'|'.join(MACROS)})|{_FIELD}( +{_FIELD}){{4}})$"


class HistoryLimits(Resource):
    """How many finished Workflows are kept; older ones are deleted."""

    succeeded: Annotated[int, Field(ge=0, le=1000)] = 3
    """Workflows that succeeded."""
    failed: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workflows that failed or were stopped."""


class CronSpec(Resource):
    """What is run, and when."""

    schedule: Annotated[str, Field(min_length=6, max_length=128, pattern=SCHEDULE)]
    """Minute, hour, day of the month, month and day of the week, as cron has them (30 7 * * 1-5);
    or @hourly, @daily, @weekly, @monthly, @yearly."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")] = (
        "UTC"
    )
    """The zone of the schedule, by its IANA name, for example Europe/Berlin."""
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = "Allow"
    """What happens when it is time and an earlier Workflow still runs: both run, the new one
    waits for the end of the old one (until startingDeadline), or the old one is stopped."""
    starting_deadline: Duration | None = None
    """How late a Workflow may be made, if it couldn't be in time; absent: however late. Of several
    that were missed, only the latest is made."""
    suspend: bool | None = None
    """While true, no Workflow is made, and what would have been is not made up for. What runs
    goes on."""
    history_limits: HistoryLimits = Field(default_factory=HistoryLimits)
    """How many finished Workflows are kept."""
    workflow_spec: RunSpec
    """What every Workflow does."""


class CronStatus(Resource):
    """Which Workflows were made. Only the operator writes it."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    schedule: Annotated[str, Field(max_length=256)] | None = None
    """The schedule and time zone in force; absent while suspended or invalid."""
    scheduled_until: Timestamp | None = None
    """Of all times up to this one the Workflow was made, or never will be."""
    last_schedule_time: Timestamp | None = None
    """The scheduled time of the Workflow that was made last."""
    next_schedule_time: Timestamp | None = None
    """When the next Workflow is made; absent while suspended or invalid."""
    last_successful_time: Timestamp | None = None
    """When a Workflow last succeeded."""
    active: Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=1000)] | None = (
        None
    )
    """Workflows that have not ended, by name."""
    missed: int = 0
    """Scheduled times at which no Workflow was made: the operator was away for too long, or an
    earlier Workflow ran for too long."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Ready, Suspended, Reconciling and Stalled."""
