"""When a CronWorkflow makes, stops and deletes Workflows.

A scheduled time is dealt with once: ``scheduledUntil`` in the status is the last one that was, and
a Workflow's name says which one it is of, so that a pass that is made again makes nothing twice.

    it is time and ...                       then
    nothing of it runs, or Allow             the Workflow is made
    one runs, Forbid                         it waits, until startingDeadline or the next time
    one runs, Replace                        that one is asked to stop, the new one is made
    it was time more than once               the latest is made, the others are missed
    it was time before startingDeadline      it is missed
    the schedule is new, or was suspended    what was before now is neither made nor missed
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

# cronsim follows Debian's cron where clocks change, and is typed; croniter, the better known one,
# makes a time that comes twice two times.
from cronsim import CronSim, CronSimError

from corral.api.cron import CronSpec, CronStatus
from corral.api.errors import ConditionType, Reason
from corral.api.types import seconds
from corral.api.workflow import WorkflowPhase
from corral.plan.agent import Readiness
from corral.plan.conditions import condition, merge
from corral.plan.names import cron_child_name
from corral.plan.times import parse, rfc3339
from corral.plan.validate import Problem

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
SKEW = 600.0
"""Seconds by which the clock may have gone back."""
MOST_COUNTED = 1000
"""More missed times than these are not counted one by one."""
_WINDOWS = tuple(3600.0 * hours for hours in (1, 24, 32 * 24, 367 * 24, 10 * 367 * 24))


@dataclass(frozen=True)
class Child:
    """A Workflow that the CronWorkflow owns."""

    name: str
    uid: str
    created: float
    phase: WorkflowPhase | None = None
    finished_at: float | None = None
    stopping: bool = False
    """Whether it was asked to stop."""


@dataclass(frozen=True)
class Cron:
    """What a pass over a CronWorkflow sees."""

    name: str
    generation: int
    created: float
    spec: CronSpec
    status: CronStatus
    children: Sequence[Child] = ()
    taken: frozenset[str] = frozenset()
    """Names of Workflows that are not its own."""


@dataclass
class CronPlan:
    """What should be done, in this order, and what to say of it."""

    status: CronStatus
    stop: list[Child] = field(default_factory=list)
    create: float | None = None
    """The scheduled time of the Workflow to make; the status is for when that has been done."""
    delete: list[Child] = field(default_factory=list)
    """Only once the status was written: it remembers what these were."""
    wake: float | None = None
    """When to plan again, in seconds since the epoch."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(reason, sentence)."""


def zone(name: str) -> tzinfo:
    """The time zone of an IANA name.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def times(spec: CronSpec, after: float) -> Iterator[float]:
    """The scheduled times after a moment, in order, in seconds since the epoch.

    Where clocks change: a time that is skipped comes right after the gap, a time that comes twice
    is taken once, and schedules whose minutes or hours begin with ``*`` go by elapsed time.

    Raises:
        ValueError: the schedule or the time zone can't be read.
    """
    text = MACROS.get(spec.schedule, spec.schedule)
    start = datetime.fromtimestamp(after, zone(spec.time_zone))
    if len(text.split()) != 5:
        raise ValueError(f"{text!r} is no schedule of five fields, such as 30 7 * * 1-5")
    try:
        moments = CronSim(text, start)
    except CronSimError as error:
        raise ValueError(f"{text!r} is no schedule: {error}") from error
    return _growing(moments, after)


def _growing(moments: Iterator[datetime], after: float) -> Iterator[float]:
    # cronsim counts by the wall clock: from within an hour that comes twice, back into the first.
    last = after
    for moment in moments:
        found = moment.timestamp()
        if found > last:
            yield found
            last = found


def cron_problems(spec: CronSpec, now: float) -> list[Problem]:
    """What keeps the clock from making any Workflow."""
    problems = []
    try:
        zone(spec.time_zone)
    except ValueError as error:
        problems.append(Problem("spec.timeZone", str(error)))
        spec = spec.model_copy(update={"time_zone": "UTC"})
    try:
        if next(times(spec, now), None) is None:
            problems.append(Problem("spec.schedule", f"{spec.schedule!r} is never"))
    except ValueError as error:
        problems.append(Problem("spec.schedule", str(error)))
    return problems


def plan_cron(cron: Cron, now: float) -> CronPlan:
    """What a CronWorkflow should do at ``now``."""
    spec, before = cron.spec, cron.status
    problems = cron_problems(spec, now)
    goes = not problems and not spec.suspend
    in_force = f"{spec.schedule} {spec.time_zone}" if goes else None
    until = parse(before.scheduled_until) if before.scheduled_until else cron.created
    seen = before.observed_generation is not None and before.observed_generation > 0
    if seen and in_force != before.schedule:
        until = max(until, float(int(now)))
    plan = CronPlan(
        before.model_copy(
            update={
                "observed_generation": cron.generation,
                "schedule": in_force,
                "scheduled_until": rfc3339(until),
                "next_schedule_time": None,
            }
        )
    )
    if goes:
        # A Workflow that was made proves that its time has come, should the clock have gone back;
        # but not by much, as anybody may give one a name.
        made = [_scheduled(cron.name, child.name) for child in cron.children]
        _take_due(plan, cron, until, max([now, *(time for time in made if time <= now + SKEW)]))
        coming = next(times(spec, now), None)
        if coming is not None:
            plan.status.next_schedule_time = rfc3339(coming)
            plan.wake = coming if plan.wake is None else min(plan.wake, coming)
    _keep_history(plan, cron)
    _tell(plan, cron, problems, now)
    return plan


def _take_due(plan: CronPlan, cron: Cron, until: float, now: float) -> None:
    """Makes, has wait, or gives up what it is time for."""
    spec, status = cron.spec, plan.status
    due = _due(spec, until, now)
    if not due:
        return
    latest = due[-1]
    name = cron_child_name(cron.name, latest)
    # Made by a pass that ended before it could say so.
    known = {child.name for child in cron.children}
    made = [moment for moment in due if cron_child_name(cron.name, moment) in known]
    earlier = len(due) - 1 - sum(moment != latest for moment in made)
    running = [child for child in cron.children if child.finished_at is None]
    limit = seconds(spec.starting_deadline) if spec.starting_deadline else None
    status.scheduled_until = rfc3339(latest)
    status.missed += earlier
    if latest in made:
        pass
    elif name in cron.taken:
        status.missed += 1
        sentence = f"Workflow {name} was not made: another one has that name"
        plan.warnings.append(("NameTaken", sentence))
    elif limit is not None and now - latest > limit:
        status.missed += 1
        sentence = f"Workflow {name} was not made: startingDeadline was over"
        plan.warnings.append(("MissedSchedule", sentence))
    elif spec.concurrency_policy == "Forbid" and running:
        status.scheduled_until = rfc3339(latest - 1)
        if status.scheduled_until != cron.status.scheduled_until:
            sentence = f"Workflow {name} waits: {running[0].name} still runs"
            plan.warnings.append(("AlreadyActive", sentence))
        plan.wake = latest + limit + 1 if limit is not None else None
    else:
        made.append(latest)
        plan.create = latest
        if spec.concurrency_policy == "Replace":
            plan.stop = [child for child in running if not child.stopping]
        if earlier:
            sentence = f"{_number(earlier)} missed before that of Workflow {name}"
            plan.warnings.append(("MissedSchedule", sentence))
    if made:
        status.last_schedule_time = rfc3339(made[-1])


def _scheduled(cron: str, child: str) -> float:
    """The time that a Workflow was made for, as its name says; 0 for another's name."""
    minute = child.removeprefix(f"{cron}-")
    found = float(minute) * 60 if minute.isdecimal() else 0.0
    return found if cron_child_name(cron, found) == child else 0.0


def _number(count: int) -> str:
    if count == 1:
        return "1 scheduled time was"
    return ("very many" if count >= MOST_COUNTED else str(count)) + " scheduled times were"


def _due(spec: CronSpec, until: float, now: float) -> list[float]:
    """The scheduled times after ``until`` and not after ``now``; of very many the first ones and
    the latest."""
    first = list(islice(takewhile(now.__ge__, times(spec, until)), MOST_COUNTED))
    if len(first) < MOST_COUNTED:
        return first
    for window in _WINDOWS:
        latest = list(takewhile(now.__ge__, times(spec, max(first[-1], now - window))))
        if latest:
            return [*first, latest[-1]]
    return first


def _keep_history(plan: CronPlan, cron: Cron) -> None:
    limits = cron.spec.history_limits
    ended = sorted(
        (child for child in cron.children if child.finished_at is not None),
        key=lambda child: (child.created, child.name),
        reverse=True,
    )
    good = [child for child in ended if child.phase is WorkflowPhase.SUCCEEDED]
    bad = [child for child in ended if child.phase is not WorkflowPhase.SUCCEEDED]
    plan.delete = [*reversed(good[limits.succeeded :]), *reversed(bad[limits.failed :])]


def _tell(plan: CronPlan, cron: Cron, problems: list[Problem], now: float) -> None:
    """What the status says of the children, and the conditions."""
    active = [child for child in cron.children if child.finished_at is None]
    names = [child.name for child in sorted(active, key=lambda child: (child.created, child.name))]
    if plan.create is not None:
        names.append(cron_child_name(cron.name, plan.create))
    plan.status.active = names[:1000] or None
    successes = [
        child.finished_at
        for child in cron.children
        if child.finished_at is not None and child.phase is WorkflowPhase.SUCCEEDED
    ]
    if successes:
        latest = rfc3339(max(successes))
        plan.status.last_successful_time = max(latest, plan.status.last_successful_time or latest)
    suspended = bool(cron.spec.suspend)
    plan.status.conditions = merge(
        cron.status.conditions,
        [
            *Readiness.of(problems).conditions(),
            condition(
                ConditionType.SUSPENDED,
                suspended,
                Reason.SUSPENDED if suspended else Reason.PROGRESSING,
                "spec.suspend is true" if suspended else "",
            ),
        ],
        cron.generation,
        now,
    )
