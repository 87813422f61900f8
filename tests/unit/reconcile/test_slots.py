"""The slot table: nothing is given twice, nothing is lost, nobody starves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.model import ModelSpec
from corral.plan.limits import Load
from corral.plan.observed import ModelView, Rates, Want
from corral.plan.state import Worker
from corral.reconcile.slots import TURN, Slots

AGENT = ("ns", "agent")


def worker(name: str) -> Worker:
    return Worker(pod=name, uid=name, url=f"http://{name}")


def key(name: str) -> tuple[str, str]:
    return ("ns", name)


def wants(workflow: str, *numbers: int) -> list[Want]:
    return [Want(f"{workflow}.s.{number}.1.1", "agent") for number in numbers]


def table(*capacities: int, clock: list[float] | None = None) -> Slots:
    slots = Slots((lambda: clock[0]) if clock else (lambda: 0.0))
    for number, capacity in enumerate(capacities):
        slots.offer(worker(f"w{number}"), AGENT, "r1", capacity, True)
    return slots


def claim(slots: Slots, workflow: str, *numbers: int) -> list[int]:
    granted = slots.claim(key(workflow), "ns", wants(workflow, *numbers))
    return sorted(int(attempt.split(".")[2]) for attempt in granted)


def test_the_least_busy_worker_is_given_first() -> None:
    slots = table(4, 4)
    granted = slots.claim(key("a"), "ns", wants("a", 1, 2, 3, 4))
    assert sorted(slot.worker.uid for slot in granted.values()) == ["w0", "w0", "w1", "w1"]


def test_a_worker_that_is_being_replaced_gets_what_the_new_ones_have_no_place_for() -> None:
    slots = Slots(lambda: 0.0)
    slots.offer(worker("new"), AGENT, "r2", 2, True)
    slots.offer(worker("old"), AGENT, "r1", 2, True, updated=False)
    granted = slots.claim(key("a"), "ns", wants("a", 1, 2, 3))
    assert [(slot.worker.uid, slot.agent_revision) for slot in granted.values()] == [
        ("new", "r2"),
        ("new", "r2"),
        ("old", "r1"),
    ]


def test_it_is_told_once_since_when_more_wait() -> None:
    clock = [10.0]
    slots = table(1, clock=clock)
    claim(slots, "a", 1)
    assert slots.risen_at(AGENT) is None
    claim(slots, "b", 1, 2)
    clock[0] = 12.0
    claim(slots, "c", 1)
    assert (slots.risen_at(AGENT), slots.risen_at(AGENT)) == (10.0, None)
    claim(slots, "c", 1)
    assert slots.risen_at(AGENT) is None, "no more than before"
    claim(slots, "c", 1, 2)
    assert slots.risen_at(AGENT) == 12.0


def test_what_is_full_draining_or_gone_is_not_given() -> None:
    slots = table(1, 1, 1)
    slots.offer(worker("w0"), AGENT, "r1", 1, False)
    slots.withdraw("w1")
    assert claim(slots, "a", 1, 2, 3) == [1]
    slots.close("w2")
    assert claim(slots, "b", 1) == []


def test_a_slot_that_was_granted_in_the_same_pass_is_granted_again_and_not_twice() -> None:
    slots = table(2)
    first = slots.claim(key("a"), "ns", wants("a", 1))
    again = slots.claim(key("a"), "ns", wants("a", 1, 2))
    assert again["a.s.1.1.1"] == first["a.s.1.1.1"]
    assert slots.held_on("w0") == 2


def test_what_ran_before_a_restart_holds_its_slot_before_its_worker_is_known() -> None:
    slots = Slots()
    slots.keep_only(key("a"), {"a.s.1.1.1": worker("w0")})
    assert slots.workers_of(key("a")) == {"a.s.1.1.1": worker("w0")}
    assert slots.held_on("w0") == 1
    slots.offer(worker("w0"), AGENT, "r1", 2, True)
    assert slots.held_on("w0") == 1
    assert claim(slots, "b", 1, 2) == [1]


def test_freed_slots_name_their_agent_and_who_waits_for_it_in_order() -> None:
    slots = table(1)
    assert claim(slots, "a", 1) == [1]
    assert claim(slots, "b", 1) == claim(slots, "c", 1) == []
    assert slots.keep_only(key("a"), {}) == {AGENT}
    assert slots.waiting_for({AGENT}) == [key("b")]  # one slot, so one is woken
    assert slots.queued(AGENT) == 2
    assert slots.forget(key("b")) == {AGENT}
    assert slots.waiting_for({AGENT}) == [key("c")]


def test_a_wide_fan_out_leaves_its_neighbour_its_share() -> None:
    slots = table(4)
    assert claim(slots, "wide", *range(100)) == [0, 1, 2, 3]
    assert claim(slots, "narrow", 0) == []
    # One item ends: the wide one holds 3 of a share of 2, so the freed slot is the other's.
    slots.keep_only(key("wide"), {f"wide.s.{n}.1.1": worker("w0") for n in (0, 1, 2)})
    assert claim(slots, "wide", 4, 5) == []
    assert claim(slots, "narrow", 0) == [0]


def test_a_chain_goes_on_with_its_slot_for_a_turn_and_then_lets_others_begin() -> None:
    clock = [100.0]
    slots = table(1, clock=clock)
    assert claim(slots, "a", 1) == [1]
    assert claim(slots, "b", 1) == []
    slots.keep_only(key("a"), {})
    assert claim(slots, "a", 2) == [2]
    clock[0] += TURN + 1
    slots.keep_only(key("a"), {})
    assert claim(slots, "a", 3) == []
    assert claim(slots, "b", 1) == [1]
    clock[0] += TURN + 1
    slots.keep_only(key("b"), {})
    assert claim(slots, "b", 2) == []
    assert claim(slots, "a", 3) == [3]


def test_what_nobody_takes_of_his_share_is_told_of() -> None:
    slots = table(4)
    assert claim(slots, "a", *range(9)) == [0, 1, 2, 3]
    assert claim(slots, "b", 0) == []
    slots.keep_only(key("a"), {})
    assert claim(slots, "a", *range(9)) == [0, 1, 2]
    assert slots.left_over({AGENT}) == {AGENT}
    assert claim(slots, "b", 0) == [0]
    assert slots.left_over({AGENT}) == set()


def limited(slots: Slots, most: int) -> Slots:
    """The table, before a Model with a limit."""
    spec = {"provider": "openai", "name": "m", "limits": {"maxInFlight": most}}
    models = {"m": ModelSpec.model_validate(spec)}
    slots.gates.specs = lambda _: models
    return slots


def asking(attempt: str, agent: str = "agent") -> Want:
    one = Load(1, 1)
    return Want(attempt, agent, (ModelView("m", frozenset(), Rates(), one, one),))


def test_what_a_model_holds_back_waits_for_no_slot_and_asks_for_no_worker() -> None:
    slots = limited(table(8), 2)
    granted = slots.claim(key("a"), "ns", [asking(f"a.{number}") for number in range(20)])
    assert len(granted) == slots.running(AGENT) == 2
    assert {slot.model for slot in granted.values()} == {"m"}
    assert slots.queued(AGENT) == 0


def test_who_has_no_worker_is_not_called_by_its_model_again_and_again() -> None:
    slots = limited(table(), 2)
    called: list[tuple[str, str]] = []
    slots.gates.wake_workflow = lambda one, _: called.append(one)
    assert slots.claim(key("a"), "ns", [asking(f"a.{number}") for number in range(9)]) == {}
    assert called == []
    assert slots.queued(AGENT) == 2, "as many workers as its Model lets work"
    slots.offer(worker("w"), AGENT, "r1", 8, True)
    assert slots.waiting_for({AGENT}) == [key("a")]


def test_an_agent_without_workers_leaves_their_model_to_another_of_the_same_run() -> None:
    slots = limited(table(), 2)
    slots.offer(worker("other"), ("ns", "other"), "r1", 4, True)
    wanted = [asking("a.1"), asking("a.2"), asking("a.3", "other"), asking("a.4", "other")]
    granted = slots.claim(key("a"), "ns", wanted)
    assert granted.keys() == {"a.3", "a.4"}
    assert slots.queued(AGENT) == 2


def test_what_has_no_slot_leaves_its_model_to_others() -> None:
    slots = limited(table(1), 2)
    assert len(slots.claim(key("a"), "ns", [asking("a.1"), asking("a.2")])) == 1
    assert slots.queued(AGENT) == 1
    slots.offer(worker("other"), ("ns", "other"), "r1", 4, True)
    others = [asking("b.1", "other"), asking("b.2", "other")]
    assert len(slots.claim(key("b"), "ns", others)) == 1


@settings(max_examples=150, deadline=None)
@given(
    capacities=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    moves=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.integers(0, 6)), max_size=40
    ),
    ticks=st.floats(0, 3),
)
def test_slots_are_never_over_given_and_somebody_always_gets_on(
    capacities: list[int], moves: list[tuple[str, int, int]], ticks: float
) -> None:
    clock = [0.0]
    slots = table(*capacities, clock=clock)
    running: dict[str, dict[str, Worker]] = {name: {} for name in "abcd"}
    count = 0
    for name, ended, wanted in moves:
        clock[0] += ticks
        running[name] = dict(list(running[name].items())[ended:])
        slots.keep_only(key(name), running[name])
        numbers = range(count, count + wanted)
        count += wanted
        granted = slots.claim(key(name), "ns", wants(name, *numbers))
        running[name] |= {attempt: slot.worker for attempt, slot in granted.items()}
        for number, capacity in enumerate(capacities):
            here = sum(at.uid == f"w{number}" for of in running.values() for at in of.values())
            assert slots.held_on(f"w{number}") == here <= capacity
        assert slots.running(AGENT) == sum(len(of) for of in running.values())
    # Whoever waits gets on while there are free slots, if all who wait are asked a few times.
    for _ in range(40):
        for one in slots.waiting_for({AGENT}):
            granted = slots.claim(one, "ns", wants(one[1], *range(count, count + 20)))
            count += 20
            running[one[1]] |= {attempt: slot.worker for attempt, slot in granted.items()}
    if slots.waiting_for({AGENT}):
        assert sum(len(of) for of in running.values()) == sum(capacities)


def test_a_higher_priority_takes_free_slots_first_whoever_waits_longer() -> None:
    slots = table(2)
    slots.prioritise(key("urgent"), 1000)
    assert claim(slots, "low", 1, 2, 3, 4) == [1, 2]
    assert claim(slots, "urgent", 1) == []
    slots.keep_only(key("low"), {"low.s.2.1.1": worker("w0")})
    assert slots.waiting_for([AGENT]) == [key("urgent")]
    assert claim(slots, "low", 3, 4) == []
    assert claim(slots, "urgent", 1) == [1]


def test_what_a_higher_priority_leaves_goes_to_the_others() -> None:
    slots = table(3)
    slots.prioritise(key("urgent"), 1)
    assert claim(slots, "other", 1, 2, 3) == [1, 2, 3]
    assert claim(slots, "urgent", 1, 2) == []
    slots.keep_only(key("other"), {})
    assert claim(slots, "other", 4, 5, 6) == [4]
    assert claim(slots, "urgent", 1, 2) == [1, 2]


def test_a_negative_priority_comes_last_and_a_class_that_is_taken_back_counts_no_more() -> None:
    slots = table(1)
    slots.prioritise(key("batch"), -5)
    assert claim(slots, "usual", 1) == [1]
    assert claim(slots, "batch", 1) == []
    assert claim(slots, "usual", 1, 2) == [1]
    slots.keep_only(key("usual"), {})
    assert claim(slots, "batch", 1) == []
    slots.prioritise(key("batch"), 0)
    assert claim(slots, "batch", 1) == [1]


def test_a_worker_of_an_old_revision_serves_runs_that_began_before_the_change() -> None:
    slots = Slots()
    slots.offer(worker("old"), AGENT, "r1", 2, True, now=1)

    def claimed(run: str, began: float, now: float, revision: str = "r2") -> list[str]:
        want = Want(f"{run}.1", "agent", revision=revision, began=began)
        return list(slots.claim(key(run), "ns", [want], now))

    assert claimed("after", 20, 20) == []
    assert claimed("earlier", 6, 21) == ["earlier.1"]
    assert slots.left_over([AGENT]) == set()  # else the one that waits would be woken for ever
    slots.offer(worker("new"), AGENT, "r2", 1, True)
    assert claimed("after", 20, 22) == ["after.1"]


def test_after_a_restart_nothing_starts_in_a_revision_that_was_replaced_before() -> None:
    slots = Slots()
    slots.offer(worker("old"), AGENT, "r1", 2, True, updated=False)
    want = Want("a.1", "agent", revision="r2", began=5)
    assert slots.claim(key("a"), "ns", [want], 20) == {}
