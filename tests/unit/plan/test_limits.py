"""A Model's limits: never passed in any 60 s, and everybody who waits gets his turn."""

import heapq
import itertools
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.model import Limits, ModelSpec
from corral.plan.gate import Gate
from corral.plan.limits import WINDOW, Load, Meter

RUN = ("ns", "run")
ONE = Load(1, 1, 0)


def run(name: str) -> tuple[str, str]:
    return ("ns", name)


def model(**limits: int) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "provider": "openai",
            "name": "m",
            "limits": limits,
            "circuitBreaker": {"failureThreshold": 2, "resetAfter": "30s"},
        }
    )


def gate(**limits: int) -> Gate:
    made = Gate()
    made.adopt(model(**limits))
    return made


def meter(**limits: int) -> Meter:
    return Meter(Limits.model_validate(limits))


def test_what_is_in_flight_counts_until_it_has_ended() -> None:
    full = meter(maxInFlight=2)
    full.reserve("a", RUN, ONE)
    assert full.refuses(ONE, 0) is None
    full.reserve("b", RUN, ONE)
    assert full.refuses(ONE, 0) == "maxInFlight"
    assert full.fits_at(ONE, 0) is None
    full.end("a", 1, Load(0, 1))
    assert full.refuses(ONE, 1) is None


def test_a_request_counts_for_sixty_seconds_after_its_attempt_has_ended() -> None:
    full = meter(requestsPerMinute=2)
    full.reserve("a", RUN, ONE)
    full.reserve("b", RUN, ONE)
    assert full.fits_at(ONE, 500) is None
    full.end("a", 1000, Load(0, 1))
    assert full.refuses(ONE, 1059.9) == "requestsPerMinute"
    free = full.fits_at(ONE, 1000)
    assert free is not None
    assert 1060 < free <= 1060.25
    assert full.refuses(ONE, free) is None


def test_what_was_used_takes_the_place_of_what_was_reserved_if_it_is_known() -> None:
    full = meter(requestsPerMinute=10, tokensPerMinute=100)
    full.reserve("a", RUN, Load(1, 8, 80))
    assert full.refuses(Load(1, 3), 0) == "requestsPerMinute"
    assert full.refuses(Load(1, 1, 30), 0) == "tokensPerMinute"
    full.end("a", 1, Load(0, 2, 10))
    assert full.refuses(Load(1, 8, 90), 1) is None
    full.reserve("b", RUN, Load(1, 8, 90))
    full.end("b", 2, None)
    assert full.refuses(ONE, 3) == "requestsPerMinute"


def test_an_attempt_that_needs_more_than_the_limit_starts_where_nothing_else_counts() -> None:
    full = meter(requestsPerMinute=5)
    large = full.clamped(Load(1, 50))
    full.reserve("a", RUN, ONE)
    assert full.refuses(large, 0) == "requestsPerMinute"
    full.drop("a")
    assert full.refuses(large, 0) is None
    full.reserve("b", RUN, large)
    full.end("b", 10, Load(0, 7))  # the two beyond the limit are what may be passed
    assert full.refuses(ONE, 60) == "requestsPerMinute"


def test_after_a_restart_the_window_frees_itself_evenly() -> None:
    full = Meter(Limits(requests_per_minute=60), used_up_at=1000.0)
    assert full.refuses(ONE, 1000) == "requestsPerMinute"
    for seconds in (1, 10, 59):
        assert full.refuses(Load(0, seconds), 1000.01 + seconds) is None
        assert full.refuses(Load(0, seconds + 1), 1000 + seconds) == "requestsPerMinute"
        assert full.fits_at(Load(0, seconds), 1000) == pytest.approx(1000 + seconds, abs=0.01)
    assert full.refuses(Load(0, 60), 1060) is None


def test_what_a_former_leader_left_in_flight_counts_beside_that() -> None:
    full = Meter(Limits(requests_per_minute=60), used_up_at=1000.0)
    full.reserve("old", RUN, Load(1, 30))
    assert full.refuses(Load(1, 30), 1059) == "requestsPerMinute"
    assert full.refuses(Load(1, 30), 1060) is None


def test_one_that_came_second_leaves_room_for_the_one_before_it() -> None:
    shared = gate(maxInFlight=3)
    assert shared.admit(run("a"), "a0", ONE, 0) is None
    assert shared.admit(run("a"), "a1", ONE, 0) is None
    assert shared.admit(run("a"), "a2", ONE, 0) is None
    shared.wait(run("a"), ONE, 9, "maxInFlight", 0)
    assert shared.admit(run("b"), "b0", ONE, 1) == "maxInFlight"
    shared.wait(run("b"), ONE, 5, "maxInFlight", 1)
    shared.meter.end("a0", 2, Load())
    # The wide one waits longer, but has more than its share: it is its turn for one, no more.
    assert shared.call(2) == [run("a")]
    assert shared.admit(run("a"), "a3", ONE, 2) is None
    shared.wait(run("a"), ONE, 8, "maxInFlight", 2)
    shared.meter.end("a1", 3, Load())
    assert shared.call(3) == [run("b")]
    assert shared.admit(run("a"), "a4", ONE, 3) == "maxInFlight"
    assert shared.admit(run("b"), "b0", ONE, 3) is None


def test_a_run_of_a_higher_priority_goes_first_with_all_that_it_wants() -> None:
    shared = gate(maxInFlight=2)
    shared.wait(run("low"), ONE, 5, "maxInFlight", 0)
    shared.wait(run("high"), ONE, 2, "maxInFlight", 1, 10)
    assert shared.call(2) == [run("high")]
    assert shared.admit(run("low"), "l0", ONE, 2) == "maxInFlight"
    assert shared.admit(run("high"), "h0", ONE, 2, 10) is None


def test_no_room_is_kept_for_ever_for_one_that_was_called_and_does_not_ask() -> None:
    shared = gate(maxInFlight=1)
    shared.wait(run("silent"), ONE, 1, "maxInFlight", 0)
    assert shared.call(0) == [run("silent")]
    assert shared.admit(run("b"), "b0", ONE, 5) == "maxInFlight"
    assert shared.admit(run("b"), "b0", ONE, 16) is None


def test_of_all_that_wait_for_an_open_circuit_one_is_called_when_it_is_time() -> None:
    shared = gate()
    shared.circuit.end("x", 100, answered=False, failures=2)
    for name in "abc":
        assert shared.admit(run(name), name, ONE, 101) == "circuitBreaker"
        shared.wait(run(name), ONE, 1, "circuitBreaker", 101)
    assert shared.call(101) == []
    assert shared.next_call(101) == 130
    assert shared.call(130) == [run("a")]
    assert shared.admit(run("b"), "b", ONE, 130) == "circuitBreaker"
    assert shared.admit(run("a"), "a", ONE, 130) is None
    assert (shared.call(500), shared.next_call(500)) == ([], None)
    shared.leave(run("a"))
    shared.circuit.end("a", 501, answered=True, failures=0)
    assert shared.call(501) == [run("b"), run("c")]


@dataclass
class _Run:
    loads: list[Load]
    chains: bool
    """Whether each attempt is wanted when the one before it has ended, as in a chain of steps."""
    flying: int = 0
    served: list[float] = field(default_factory=list)

    @property
    def wanted(self) -> list[Load]:
        if self.chains:
            return self.loads[:1] if not self.flying else []
        return self.loads


class _World:
    """Runs that ask one Model, and look again only when they are called or something of theirs
    has ended."""

    def __init__(self, luck: Random, limits: dict[str, int], runs: list[_Run]) -> None:
        self.luck, self.limits = luck, limits
        self.gate = gate(**limits)
        self.runs = {run(str(number)): one for number, one in enumerate(runs)}
        self.now = 0.0
        self.events: list[tuple[float, int, str, object]] = []
        self.count = itertools.count()
        self.requests: list[float] = []
        self.tokens: list[tuple[float, int]] = []
        self.spans: list[tuple[float, float]] = []
        self.failing_until = luck.choice([0.0, 0.0, 70.0])
        self.probes: list[float] = []

    def at(self, moment: float, what: str, about: object) -> None:
        heapq.heappush(self.events, (moment, next(self.count), what, about))

    def go(self) -> None:
        for name in self.runs:
            self.at(self.luck.uniform(0, 2), "pass", name)
        passes = 0
        while self.events:
            self.now, _, what, about = heapq.heappop(self.events)
            passes += 1
            assert passes < 20_000, "it never ends"
            if what == "pass":
                self.look(about)  # type: ignore[arg-type]
            elif what == "end":
                self.end(*about)  # type: ignore[misc]
            self.call()

    def look(self, name: tuple[str, str]) -> None:
        one, refused = self.runs[name], None
        for load in list(one.wanted):
            attempt = f"{name[1]}-{next(self.count)}"
            probing = self.gate.circuit.opened
            refused = self.gate.admit(name, attempt, load, self.now)
            if refused is not None:
                break
            if probing:
                self.probes.append(self.now)
            one.loads.remove(load)
            one.flying += 1
            one.served.append(self.now)
            self.at(
                self.now + self.luck.choice([0.1, 1, 5, 70]), "end", (name, attempt, load, self.now)
            )
        if refused is None:
            self.gate.leave(name)
        else:
            count = len(one.wanted)
            self.gate.wait(name, one.wanted[0], count, refused, self.now)

    def end(self, name: tuple[str, str], attempt: str, load: Load, began: float) -> None:
        one = self.runs[name]
        one.flying -= 1
        failed = self.now < self.failing_until
        used = Load(0, self.luck.randint(1, load.requests), self.luck.randint(0, load.tokens))
        self.spans.append((began, self.now))
        for _ in range(used.requests):
            moment = self.luck.uniform(began, self.now)
            self.requests.append(moment)
            self.tokens.append((moment, used.tokens // used.requests))
        self.gate.meter.end(attempt, self.now, used)
        self.gate.circuit.end(attempt, self.now, answered=not failed, failures=int(failed))
        if failed:
            one.loads.append(load)
        self.at(self.now + self.luck.uniform(0, 0.2), "pass", name)

    def call(self) -> None:
        for name in self.gate.call(self.now):
            self.at(self.now + self.luck.uniform(0, 0.2), "pass", name)
        due = self.gate.next_call(self.now)
        if due is not None and due > self.now:
            self.at(due, "time", None)


def most_in_a_minute(moments: list[tuple[float, int]]) -> int:
    """The largest sum of amounts in any 60 s."""
    moments = sorted(moments)
    most = total = first = 0
    for moment, amount in moments:
        total += amount
        while moments[first][0] <= moment - WINDOW:
            total -= moments[first][1]
            first += 1
        most = max(most, total)
    return most


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limits=st.fixed_dictionaries(
        {},
        optional={
            "maxInFlight": st.integers(1, 6),
            "requestsPerMinute": st.integers(5, 30),
            "tokensPerMinute": st.integers(50, 300),
        },
    ),
    runs=st.lists(
        st.tuples(
            st.lists(
                st.builds(Load, st.just(1), st.integers(1, 5), st.integers(0, 50)),
                min_size=1,
                max_size=12,
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_no_limit_is_passed_nothing_is_lost_and_nobody_waits_for_ever(
    seed: int, limits: dict[str, int], runs: list[tuple[list[Load], bool]]
) -> None:
    world = _World(Random(seed), limits, [_Run(loads, chains) for loads, chains in runs])
    world.go()
    assert all(not one.loads and not one.flying for one in world.runs.values())
    if "requestsPerMinute" in limits:
        made = most_in_a_minute([(moment, 1) for moment in world.requests])
        assert made <= limits["requestsPerMinute"]
    if "tokensPerMinute" in limits:
        assert most_in_a_minute(world.tokens) <= limits["tokensPerMinute"]
    if "maxInFlight" in limits:
        for began, _ in world.spans:
            assert sum(a <= began < b for a, b in world.spans) <= limits["maxInFlight"]
    assert all(b - a >= 30 for a, b in itertools.pairwise(world.probes))


@pytest.mark.parametrize("limits", [{"maxInFlight": 4}, {"requestsPerMinute": 40}])
def test_a_wide_run_does_not_starve_a_chain(limits: dict[str, int]) -> None:
    wide, chain = _Run([ONE] * 200, False), _Run([ONE] * 3, True)
    world = _World(Random(1), limits, [wide, chain])
    world.failing_until = 0
    world.luck.choice = lambda options: 1.0  # type: ignore[method-assign, assignment]
    world.go()
    assert max(b - a for a, b in itertools.pairwise([0.0, *chain.served])) < WINDOW + 3
    assert chain.served[-1] < wide.served[-1]
