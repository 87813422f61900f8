"""When CronWorkflows make Workflows: the planner run against a clock in memory."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.cron import CronSpec, CronStatus
from corral.api.errors import ConditionType
from corral.api.workflow import WorkflowPhase
from corral.plan.conditions import find, is_true
from corral.plan.cron import Child, Cron, CronPlan, cron_problems, plan_cron, times
from corral.plan.names import cron_child_name
from corral.plan.times import parse

NOON = parse("2026-06-01T12:00:00Z")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
WORK = {"steps": [{"name": "a", "transform": "x"}]}


def spec(schedule: str = "* * * * *", zone: str = "UTC", **fields: Any) -> CronSpec:
    return CronSpec.model_validate(
        {"schedule": schedule, "timeZone": zone, "workflowSpec": WORK, **fields}
    )


@dataclass
class Clockwork:
    """A CronWorkflow, its Workflows, and a clock. Every pass does all that it planned."""

    spec: CronSpec
    now: float = NOON + 30
    status: CronStatus = field(default_factory=CronStatus)
    children: dict[str, Child] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    created: float = NOON + 30
    generation: int = 1
    made: list[float] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    most: int = 0

    def look(self) -> CronPlan:
        """Plans, and does nothing."""
        cron = Cron(
            *("c", self.generation, self.created, self.spec, self.status),
            *(list(self.children.values()), self.taken),
        )
        return plan_cron(cron, self.now)

    def turn(self, *, dies_before_status: bool = False) -> CronPlan:
        """One pass, which may end before the status is written."""
        plan = self.look()
        for child in plan.stop:
            self.stopped.append(child.name)
            self.children[child.name] = replace(child, stopping=True)
        if plan.create is not None:
            name = cron_child_name("c", plan.create)
            assert name not in self.children, "made twice"
            assert plan.create not in self.made, "made twice"
            self.made.append(plan.create)
            self.children[name] = Child(name, f"uid-{name}", self.now)
            self.most = max(self.most, len(self.running))
        if dies_before_status:
            return plan
        self.status = plan.status
        self.warnings += [reason for reason, _ in plan.warnings]
        for child in plan.delete:
            self.deleted.append(child.name)
            del self.children[child.name]
        return plan

    def run_until(self, end: float) -> None:
        """Passes whenever one is asked for."""
        while (wake := self.turn().wake) is not None and wake <= end:
            assert wake > self.now, "asked for a pass at once, again"
            self.now = wake
        self.now = end

    def change(self, **fields: Any) -> None:
        self.spec = spec(**{**self.spec.to_json(), **fields})
        self.generation += 1

    def end(self, name: str = "", phase: str = "Succeeded") -> None:
        """Ends a Workflow, or the oldest that runs."""
        child = self.children[name] if name else self.running[0]
        ended = replace(child, phase=WorkflowPhase(phase), finished_at=self.now)
        self.children[child.name] = ended

    @property
    def running(self) -> list[Child]:
        return [child for child in self.children.values() if child.finished_at is None]

    @property
    def made_at(self) -> list[float]:
        """Minutes after noon."""
        return [(moment - NOON) / MINUTE for moment in self.made]


def test_a_workflow_is_made_at_every_scheduled_minute_and_named_after_it() -> None:
    cron = Clockwork(spec())
    cron.run_until(NOON + 3 * MINUTE)
    assert cron.made_at == [1, 2, 3]
    assert list(cron.children) == [f"c-{int(NOON // 60) + n}" for n in (1, 2, 3)]
    assert cron.status.last_schedule_time == "2026-06-01T12:03:00Z"
    assert cron.status.next_schedule_time == "2026-06-01T12:04:00Z"
    assert cron.status.active == list(cron.children)
    assert cron.status.missed == 0
    assert is_true(cron.status.conditions, ConditionType.READY)


def test_nothing_changes_between_two_scheduled_times() -> None:
    cron = Clockwork(spec("@hourly"))
    cron.turn()
    before = cron.status.to_json()
    for _ in range(5):
        cron.now += MINUTE
        cron.turn()
    assert cron.status.to_json() == before


def test_a_pass_that_died_before_its_status_makes_nothing_twice() -> None:
    cron = Clockwork(spec(), now=NOON + MINUTE)
    cron.turn(dies_before_status=True)
    assert cron.status.last_schedule_time is None
    cron.turn()
    assert cron.made_at == [1]
    assert cron.status.last_schedule_time == "2026-06-01T12:01:00Z"
    assert cron.status.missed == 0


def test_of_the_times_while_the_operator_was_away_the_latest_is_made_up_for() -> None:
    cron = Clockwork(spec())
    cron.run_until(NOON + MINUTE)
    cron.now = NOON + 6.5 * MINUTE
    cron.turn()
    assert cron.made_at == [1, 6]
    assert cron.status.missed == 4
    assert cron.warnings == ["MissedSchedule"]


def test_a_time_that_is_later_than_the_starting_deadline_is_missed_once() -> None:
    cron = Clockwork(spec("@hourly", startingDeadline="1m"))
    cron.turn()
    cron.now = NOON + 3 * HOUR + 61
    for _ in range(3):
        cron.turn()
    assert cron.made == []
    assert cron.status.missed == 3
    assert cron.warnings == ["MissedSchedule"]
    cron.run_until(NOON + 4 * HOUR)
    assert cron.made_at == [240]


def test_a_time_within_the_starting_deadline_is_made_up_for() -> None:
    cron = Clockwork(spec("@hourly", startingDeadline="1m"))
    cron.turn()
    cron.now = NOON + HOUR + 59
    cron.turn()
    assert cron.made_at == [60]
    assert cron.status.missed == 0


def test_years_of_missed_minutes_are_not_counted_one_by_one() -> None:
    cron = Clockwork(spec())
    cron.turn()
    cron.now = NOON + 1000 * DAY + 30
    cron.turn()
    assert cron.made == [NOON + 1000 * DAY]
    assert cron.status.missed == 1000


@pytest.mark.parametrize("schedule", ["* * * * *", "*/7 3 * * *", "* 0 1 1 *", "0 0 29 2 *"])
def test_the_latest_of_very_many_is_the_latest(schedule: str) -> None:
    cron = Clockwork(spec(schedule))
    cron.turn()
    cron.now = NOON + 1000 * 366 * DAY
    cron.turn()
    [made] = cron.made
    assert next(times(cron.spec, made)) > cron.now


def test_forbid_waits_for_the_end_of_the_one_that_runs_and_makes_the_latest() -> None:
    cron = Clockwork(spec(concurrencyPolicy="Forbid"))
    cron.run_until(NOON + 4.5 * MINUTE)
    assert cron.made_at == [1]
    assert cron.warnings == ["AlreadyActive"] * 3
    cron.end()
    cron.turn()
    assert cron.made_at == [1, 4]
    assert cron.status.missed == 2
    assert cron.most == 1


def test_forbid_gives_up_what_waited_longer_than_the_starting_deadline() -> None:
    cron = Clockwork(spec("@hourly", concurrencyPolicy="Forbid", startingDeadline="10m"))
    cron.run_until(NOON + 2 * HOUR + 5 * MINUTE)
    assert (cron.made_at, cron.status.missed) == ([60], 0)
    cron.run_until(NOON + 2 * HOUR + 20 * MINUTE)
    assert (cron.made_at, cron.status.missed) == ([60], 1)
    cron.end()
    cron.turn()
    assert cron.made_at == [60]


def test_replace_asks_the_one_that_runs_to_stop_once_and_makes_the_next() -> None:
    cron = Clockwork(spec(concurrencyPolicy="Replace"))
    cron.run_until(NOON + 3 * MINUTE)
    assert cron.made_at == [1, 2, 3]
    assert cron.stopped == list(cron.children)[:2]


def test_allow_lets_them_run_side_by_side() -> None:
    cron = Clockwork(spec())
    cron.run_until(NOON + 3 * MINUTE)
    assert cron.stopped == []
    assert len(cron.running) == 3


def test_what_falls_into_a_suspension_is_neither_made_nor_missed() -> None:
    cron = Clockwork(spec())
    cron.run_until(NOON + MINUTE)
    cron.change(suspend=True)
    cron.run_until(NOON + 10 * MINUTE + 30)
    assert cron.status.next_schedule_time is None
    assert is_true(cron.status.conditions, ConditionType.SUSPENDED)
    cron.change(suspend=None)
    cron.run_until(NOON + 12 * MINUTE)
    assert cron.made_at == [1, 11, 12]
    assert cron.status.missed == 0


def test_a_new_schedule_holds_from_now_on() -> None:
    cron = Clockwork(spec("0 13 * * *"))
    cron.run_until(NOON + 3 * HOUR)
    assert cron.made_at == [60]
    cron.change(schedule="0 14 * * *")
    cron.turn()
    assert cron.made_at == [60], "14:00 was before anybody said so"
    assert cron.status.next_schedule_time == "2026-06-02T14:00:00Z"


def test_a_cron_made_while_the_operator_was_away_counts_from_its_making() -> None:
    cron = Clockwork(spec(), now=NOON + 5 * MINUTE)
    cron.turn()
    assert cron.made_at == [5]
    assert cron.status.missed == 4


def test_a_clock_that_is_set_back_makes_nothing_twice() -> None:
    cron = Clockwork(spec())
    cron.run_until(NOON + 3 * MINUTE)
    cron.now = NOON + 30
    for _ in range(3):
        cron.turn()
    cron.run_until(NOON + 5 * MINUTE)
    assert cron.made_at == [1, 2, 3, 4, 5]


def test_history_keeps_the_youngest_of_each_kind() -> None:
    cron = Clockwork(spec(historyLimits={"succeeded": 2, "failed": 1}))
    for phase in ("Succeeded", "Failed", "Succeeded", "Stopped", "Succeeded"):
        cron.run_until(cron.now // MINUTE * MINUTE + MINUTE)
        cron.end(phase=phase)
        cron.now += 1
    cron.turn()
    minute = int(NOON // 60)
    assert sorted(cron.deleted) == [f"c-{minute + 1}", f"c-{minute + 2}"]
    assert cron.status.last_successful_time == "2026-06-01T12:05:00Z"


def test_a_history_of_none_keeps_what_runs() -> None:
    cron = Clockwork(spec(historyLimits={"succeeded": 0, "failed": 0}))
    cron.run_until(NOON + 2 * MINUTE)
    cron.end()
    cron.turn()
    assert len(cron.children) == 1
    assert cron.running


def test_a_name_that_somebody_elses_workflow_has_is_missed_and_said() -> None:
    name = cron_child_name("c", NOON + MINUTE)
    cron = Clockwork(spec(), taken=frozenset({name}))
    cron.run_until(NOON + 2 * MINUTE)
    assert cron.made_at == [2]
    assert cron.status.missed == 1
    assert cron.warnings == ["NameTaken"]


WRONG = {
    "a minute that there isn't": ("61 * * * *", "UTC", "spec.schedule: "),
    "a range that goes backwards": ("5-1 * * * *", "UTC", "spec.schedule: "),
    "a field of seconds": ("0 0 * * * *", "UTC", "spec.schedule: "),
    "a day that never comes": ("0 0 30 2 *", "UTC", "spec.schedule: "),
    "a zone that there isn't": ("@daily", "Europe/Atlantis", "spec.timeZone: there is no"),
    "a zone that is a folder": ("@daily", "Europe", "spec.timeZone: there is no"),
    "a zone above the others": ("@daily", "../../etc/passwd", "spec.timeZone: there is no"),
}


@pytest.mark.parametrize("what", WRONG)
def test_stalls_on(what: str) -> None:
    schedule, zone, message = WRONG[what]
    valid = spec()
    cron = Clockwork(valid.model_copy(update={"schedule": schedule, "time_zone": zone}))
    plan = cron.turn()
    stalled = find(cron.status.conditions, ConditionType.STALLED)
    assert stalled is not None
    assert stalled.status == "True"
    assert message in stalled.message
    assert plan.wake is None
    cron.now += DAY
    cron.change(schedule="* * * * *", timeZone="UTC")
    cron.turn()
    assert cron.made == [], "what was wrong is not made up for"
    assert is_true(cron.status.conditions, ConditionType.READY)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    both = spec().model_copy(update={"schedule": "x * * * *", "time_zone": "No/Where"})
    assert [problem.field for problem in cron_problems(both, NOON)] == [
        "spec.timeZone",
        "spec.schedule",
    ]


def local(zone: str, text: str, fold: int = 0) -> float:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return moment.timestamp()


CLOCK_CHANGES: dict[str, tuple[str, str, str, list[tuple[str, int]]]] = {
    "a time that is skipped comes right after the gap": (
        "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00",
        [("2026-03-29T03:00", 0), ("2026-03-30T02:30", 0)],
    ),
    "a time that comes twice is taken once": (
        "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00",
        [("2026-10-25T02:30", 0), ("2026-10-26T02:30", 0)],
    ),
    "every so many minutes goes by elapsed time": (
        "*/30 * * * *", "Europe/Berlin", "2026-10-25T01:45",
        [("2026-10-25T02:00", 0), ("2026-10-25T02:30", 0), ("2026-10-25T02:00", 1),
         ("2026-10-25T02:30", 1), ("2026-10-25T03:00", 0)],
    ),
    "midnight that is skipped": (
        "@daily", "America/Santiago", "2026-09-05T12:00",
        [("2026-09-06T01:00", 0), ("2026-09-07T00:00", 0)],
    ),
    "a macro goes by the zone": (
        "@monthly", "Asia/Kolkata", "2026-01-15T00:00",
        [("2026-02-01T00:00", 0), ("2026-03-01T00:00", 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CLOCK_CHANGES)
def test_where_clocks_change(what: str) -> None:
    schedule, zone, start, expected = CLOCK_CHANGES[what]
    found = list(islice(times(spec(schedule, zone), local(zone, start)), len(expected)))
    assert found == [local(zone, text, fold) for text, fold in expected]


def test_within_an_hour_that_comes_twice_nothing_is_taken_again() -> None:
    zone = "Europe/Berlin"
    again = local(zone, "2026-10-25T02:10", fold=1)
    assert next(times(spec("30 2 * * *", zone), again)) == local(zone, "2026-10-26T02:30")


SCHEDULES = ["* * * * *", "*/5 * * * *", "@hourly", "30 1,2 * * *", "0 */6 * * 1-5", "15 2 * * *"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
STARTS = [parse(f"2026-{day}T00:00:00Z") for day in ("03-07", "03-28", "04-04", "10-24", "11-01")]


@given(st.sampled_from(SCHEDULES), st.sampled_from(ZONES), st.sampled_from(STARTS), st.data())
@settings(deadline=None, max_examples=15)
def test_the_same_times_come_from_wherever_one_begins(
    schedule: str, zone: str, start: float, data: st.DataObject
) -> None:
    wanted = spec(schedule, zone)
    end = start + 1.5 * DAY
    whole = [moment for moment in islice(times(wanted, start), 5000) if moment <= end]
    assert whole == sorted(set(whole))
    begin = start + data.draw(st.floats(0, 1.5 * DAY))
    later = [moment for moment in islice(times(wanted, begin), 5000) if moment <= end]
    assert later == [moment for moment in whole if moment > begin]


STEPS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.1, 400)),
    st.tuples(st.just("dies"), st.floats(0.1, 400)),
    st.tuples(st.just("away"), st.floats(60, 5000)),
    st.tuples(st.just("back"), st.floats(0, 300)),
    st.tuples(st.just("end"), st.sampled_from([0.0, 1.0])),
)


@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "@hourly"]),
    st.sampled_from(["Allow", "Forbid", "Replace"]),
    st.sampled_from([None, "30s", "5m"]),
    st.lists(STEPS, max_size=40),
)
@settings(deadline=None, max_examples=25)
def test_every_scheduled_time_is_made_once_or_missed_once(
    schedule: str, policy: str, deadline: str | None, story: list[tuple[str, float]]
) -> None:
    fields: dict[str, Any] = {"historyLimits": {"succeeded": 1, "failed": 0}}
    if deadline:
        fields["startingDeadline"] = deadline
    cron = Clockwork(spec(schedule, concurrencyPolicy=policy, **fields))
    missed = 0
    for what, amount in story:
        if what == "end":
            if cron.running:
                cron.end(phase="Succeeded" if amount else "Failed")
        else:
            cron.now += -amount if what == "back" else amount
        cron.turn(dies_before_status=what == "dies")
        assert cron.status.missed >= missed
        missed = cron.status.missed
    cron.now += 6000
    cron.turn()
    cron.turn()
    assert cron.look().create is None, "a pass without news makes nothing"
    assert cron.made == sorted(set(cron.made))
    assert policy != "Forbid" or cron.most <= 1
    until = parse(cron.status.scheduled_until or "")
    over = [t for t in islice(times(cron.spec, cron.created), 20_000) if t <= until]
    assert set(cron.made) <= set(over)
    assert len(cron.made) + cron.status.missed == len(over)
