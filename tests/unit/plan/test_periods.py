"""The periods of Agents' budgets: time zones, and days of 23 and 25 hours."""

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest

from corral.plan.budget import period
from corral.plan.times import parse

NOON = parse("2026-11-23T12:00:00Z")  # a Monday
DAY = 86400.0


def at(zone: str, text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


BERLIN, KOLKATA, SYDNEY = "Europe/Berlin", "Asia/Kolkata", "Australia/Sydney"


@pytest.mark.parametrize(
    ("name", "zone", "now", "begins", "ends"),
    [
        ("Hourly", "UTC", "2026-11-23T12:34:56.5", "2026-11-23T12:00", "2026-11-23T13:00"),
        ("Hourly", KOLKATA, "2026-11-23T12:34", "2026-11-23T12:00", "2026-11-23T13:00"),
        ("Daily", "UTC", "2026-11-23T12:34", "2026-11-23T00:00", "2026-11-24T00:00"),
        ("Daily", "UTC", "2026-11-23T00:00", "2026-11-23T00:00", "2026-11-24T00:00"),
        ("Daily", "UTC", "2026-11-22T23:59:59", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("Daily", KOLKATA, "2026-11-23T03:00", "2026-11-23T00:00", "2026-11-24T00:00"),
        ("Daily", BERLIN, "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00"),
        ("Daily", BERLIN, "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("Weekly", "UTC", "2026-11-23T00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("Weekly", "UTC", "2026-11-22T23:59", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("Weekly", SYDNEY, "2026-10-06T09:00", "2026-10-05T00:00", "2026-10-12T00:00"),
        ("Weekly", BERLIN, "2026-10-25T09:00", "2026-10-19T00:00", "2026-10-26T00:00"),
        ("Monthly", "UTC", "2026-11-23T12:00", "2026-11-01T00:00", "2026-12-01T00:00"),
        ("Monthly", "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("Monthly", "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("Monthly", BERLIN, "2026-10-31T12:00", "2026-10-01T00:00", "2026-11-01T00:00"),
    ],
)
def test_a_period_is_by_the_clock_on_the_wall(
    name: str, zone: str, now: str, begins: str, ends: str
) -> None:
    assert period(name, zone, at(zone, now)) == (at(zone, begins), at(zone, ends))


@pytest.mark.parametrize(
    ("name", "zone", "now", "hours"),
    [
        ("Daily", BERLIN, "2026-03-29T01:30", 23),
        ("Daily", BERLIN, "2026-03-29T23:30", 23),
        ("Daily", BERLIN, "2026-10-25T01:30", 25),
        ("Daily", BERLIN, "2026-10-25T23:30", 25),
        ("Daily", BERLIN, "2026-10-26T00:30", 24),
        ("Weekly", BERLIN, "2026-03-29T12:00", 167),
        ("Monthly", BERLIN, "2026-03-01T12:00", 31 * 24 - 1),
    ],
)
def test_clocks_that_change_make_a_period_longer_or_shorter(
    name: str, zone: str, now: str, hours: int
) -> None:
    begins, ends = period(name, zone, at(zone, now))
    assert (ends - begins) / 3600 == hours


def test_an_hour_that_comes_twice_is_two_periods() -> None:
    first = at(BERLIN, "2026-10-25T02:30")
    assert period("Hourly", BERLIN, first) == (first - 1800, first + 1800)
    assert period("Hourly", BERLIN, first + 3600) == (first + 1800, first + 5400)


def test_every_moment_of_a_year_is_in_one_period_and_periods_join() -> None:
    for name in ("Hourly", "Daily", "Weekly", "Monthly"):
        for zone in (BERLIN, SYDNEY, KOLKATA):
            now, end = NOON, NOON + (7 if name == "Hourly" else 366) * DAY
            while now < end:
                begins, ends = period(name, zone, now)
                assert begins <= now < ends
                assert period(name, zone, ends - 1) == (begins, ends)
                now = ends


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(ZoneInfoNotFoundError, match="Mars/Base"):
        period("Daily", "Mars/Base", NOON)
