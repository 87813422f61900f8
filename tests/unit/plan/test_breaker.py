"""The circuit of a Model: it opens, lets one probe through, and closes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.api.model import CircuitBreaker, ModelSpec
from corral.plan.breaker import Circuit, breaker_of

BREAKER = CircuitBreaker(failure_threshold=3, reset_after="30s")


def opened(now: float = 100.0) -> Circuit:
    circuit = Circuit(BREAKER)
    circuit.end("a", now, answered=False, failures=3)
    assert circuit.state == "Open"
    return circuit


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ([(False, 1), (False, 1)], "Closed"),
        ([(False, 1), (False, 1), (False, 1)], "Open"),
        ([(False, 2), (True, 0), (False, 2)], "Closed"),
        ([(False, 2), (True, 2), (False, 1)], "Open"),
        ([(True, 3)], "Open"),
        ([(False, 2), (False, 0), (False, 1)], "Open"),
    ],
)
def test_so_many_failures_in_a_row_open_it_and_an_answer_begins_anew(
    ends: list[tuple[bool, int]], state: str
) -> None:
    circuit = Circuit(BREAKER)
    for answered, failures in ends:
        circuit.end("a", 100.0, answered=answered, failures=failures)
    assert circuit.state == state


def test_an_open_circuit_lets_one_probe_through_when_its_rest_is_over() -> None:
    circuit = opened()
    assert not circuit.lets_start(129.9)
    assert circuit.lets_start(130.0)
    circuit.begin("probe")
    assert circuit.state == "HalfOpen"
    assert not circuit.lets_start(500.0)


@pytest.mark.parametrize(
    ("answered", "failures", "state", "lets_start"),
    [(True, 0, "Closed", True), (False, 1, "Open", False), (False, 0, "Open", True)],
)
def test_the_probe_decides_and_one_that_tells_nothing_is_followed_by_another(
    answered: bool, failures: int, state: str, lets_start: bool
) -> None:
    circuit = opened()
    circuit.begin("probe")
    circuit.end("somebody else", 131.0, answered=True, failures=0)
    circuit.end("somebody else", 131.0, answered=False, failures=9)
    assert circuit.state == "HalfOpen"
    circuit.end("probe", 132.0, answered=answered, failures=failures)
    assert (circuit.state, circuit.lets_start(132.0)) == (state, lets_start)
    assert circuit.lets_start(162.0)


def test_a_provider_that_asks_to_wait_is_left_alone_without_opening_the_circuit() -> None:
    circuit = Circuit(BREAKER)
    circuit.hold(160.0)
    circuit.hold(140.0)
    assert (circuit.state, circuit.lets_start(159.0)) == ("Closed", False)
    assert circuit.lets_start(160.0)


def test_an_open_circuit_waits_for_as_long_as_the_provider_asks_if_that_is_longer() -> None:
    circuit = opened()
    circuit.hold(200.0)
    assert not circuit.lets_start(199.0)
    assert circuit.lets_start(200.0)


def test_every_model_has_a_breaker_but_one_that_only_simulates_failures() -> None:
    real = ModelSpec.model_validate({"provider": "openai", "name": "m"})
    simulated = ModelSpec.model_validate({"provider": "simulated"})
    named = ModelSpec.model_validate({"provider": "simulated", "circuitBreaker": {}})
    assert breaker_of(real) == breaker_of(named) == CircuitBreaker()
    assert breaker_of(simulated) is None


@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.booleans(), st.booleans(), st.integers(0, 4)), max_size=60
    )
)
def test_there_are_never_two_probes_and_one_open_for_its_rest_always_lets_one_start(
    moves: list[tuple[float, bool, bool, int]],
) -> None:
    circuit, now, count = Circuit(BREAKER), 0.0, 0
    flying: list[str] = []
    for wait, starts, answered, failures in moves:
        now += wait
        if starts and circuit.lets_start(now):
            count += 1
            circuit.begin(str(count))
            flying.append(str(count))
        elif flying:
            circuit.end(flying.pop(0), now, answered=answered, failures=failures)
        assert len(circuit.probes) <= 1
        assert circuit.probes <= set(flying)
        assert circuit.probes or circuit.lets_start(now + 30)
