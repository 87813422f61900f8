"""Attempts and their Models: with which they begin, where they go on, and why they wait."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from corral.api.errors import ErrorClass, Reason
from corral.plan.holdings import models_asked
from corral.plan.limits import Load
from corral.plan.observed import AgentView, Grant, ModelCalls, ModelView, Rates, Result, Slot, Want
from corral.plan.state import Consumption, Worker, from_journal
from corral.plan.status import status_of
from corral.plan.workflow import plan
from tests.unit.plan.driver import Simulation

RATES = Rates(call_output_tokens=100, turns=1, structured_turns=4)
TEXT, STRUCTURED = Load(1, 1, 100), Load(1, 4, 1000)
DOWN, LIMITED = ErrorClass.MODEL_UNAVAILABLE, ErrorClass.RATE_LIMITED
STEP = "steps: [{name: a, agentRef: {name: x}, input: four}]"


def model(name: str, *on_errors: ErrorClass, may_follow: bool = True) -> ModelView:
    return ModelView(name, frozenset(on_errors), RATES, TEXT, STRUCTURED, may_follow)


def agent(*models: ModelView) -> AgentView:
    return AgentView("x", "r1", 300.0, rates=RATES, models=models)


class Told(Simulation):
    """Slots come with the Model that a gate would choose, and results with what was called."""

    def __init__(self, text: str, *models: ModelView, begins: str | None = None) -> None:
        super().__init__(text, agents=[agent(*models)])
        self.begins = begins
        self.wanted: list[Want] = []
        self.weighed: list[tuple[str, str, Load]] = []
        self.lets_start = True

    def go(self, results: Sequence[Result] = ()) -> list[str | None]:
        """One pass; the Models that attempts were told to begin with."""
        p = self.new_pass(results)
        p.weigh = lambda *what: self.weighed.append(what) or self.lets_start

        def claim(wants: Sequence[Want]) -> dict[str, Slot]:
            self.wanted = list(wants) or self.wanted
            worker = Worker(pod="w", uid="w", url="http://w")
            slots = {}
            for want in wants:
                first = want.models[0].name if want.models else None
                slots[want.attempt_id] = Slot(worker, "r1", self.begins or first)
            return slots

        payloads = plan(p, claim)
        self.status = status_of(p, self.status, 1)
        self.payloads = list(payloads.values())
        return [payload.model_ref for payload in self.payloads]

    def failed(self, error: ErrorClass, *asked: str) -> Result:
        [sent] = self.payloads
        calls = tuple(ModelCalls(name, 1) for name in asked)
        return Result(sent.attempt_id, "w", Consumption(), None, error, "no", calls=calls)


def test_an_attempt_is_wanted_with_all_models_that_it_may_begin_with() -> None:
    run = Told(STEP, model("m"), model("n", DOWN))
    assert run.go() == [None]
    assert [view.name for view in run.wanted[0].models] == ["m", "n"]
    assert run.payloads[0].fallbacks == ("n",)


def test_an_attempt_is_told_to_begin_with_the_model_that_the_gate_chose() -> None:
    run = Told(STEP, model("m"), model("n", DOWN), model("o", DOWN, may_follow=False), begins="n")
    assert run.go() == ["n"]
    assert run.payloads[0].fallbacks == ()
    [node] = from_journal(run.status.journal or "").steps["a"].nodes
    assert node.model == "n"


def test_the_next_leader_knows_which_model_each_attempt_asks() -> None:
    for begins, told in (("n", "n"), (None, None)):
        run = Told(STEP, model("m"), model("n", DOWN), begins=begins)
        run.go()
        [sent] = run.payloads
        assert models_asked(run.spec, run.run_state) == {sent.attempt_id: ("x", told)}


def test_what_an_attempt_needs_is_weighed_once_its_input_is_known() -> None:
    run = Told(STEP, model("m"))
    run.go()
    [(_, name, load)] = run.weighed
    assert (name, load) == ("m", Load(1, 1, len("four") + 100))


def test_what_its_model_has_too_little_left_for_stays_queued_and_does_not_loop() -> None:
    run = Told(STEP, model("m"))
    run.lets_start = False
    assert run.go() == []
    [row] = run.status.steps
    assert row.phase == "Queued"
    assert len(run.weighed) == 2


def test_after_an_error_the_next_attempt_begins_with_a_fallback_that_could_not_follow() -> None:
    run = Told(STEP, model("m"), model("n", LIMITED), model("o", DOWN, may_follow=False))
    run.go()
    assert run.go([run.failed(DOWN, "m")]) == ["o"]
    assert [view.name for view in run.wanted[0].models] == ["o"]
    [node] = from_journal(run.status.journal or "").steps["a"].nodes
    assert (node.retries, node.losses, node.next_model) == (0, 0, None)
    assert run.go([run.failed(DOWN, "o")]) == []
    assert run.status.phase == "Failed"


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (DOWN, ("m", "n")),  # the worker went on by itself, and that failed as well
        (LIMITED, ("m",)),
        (ErrorClass.TIMEOUT, ("m",)),
        (ErrorClass.TOOL_FAILED, ()),
    ],
)
def test_what_a_fallback_is_not_meant_for_or_has_tried_fails_as_the_step_says(
    error: ErrorClass, asked: tuple[str, ...]
) -> None:
    run = Told(STEP, model("m"), model("n", DOWN, ErrorClass.TIMEOUT))
    run.go()
    assert run.go([run.failed(error, *asked)]) == []
    assert run.status.phase == ("Running" if error is LIMITED else "Failed")


def test_a_retry_begins_with_the_agents_own_model_again() -> None:
    run = Told(
        f"steps: [{{{STEP[9:-2]}, retryStrategy: {{limit: 1}}}}]", model("m"), model("n", DOWN)
    )
    run.begins = "n"
    assert run.go() == ["n"]
    run.begins = None
    run.go([run.failed(ErrorClass.INVALID_OUTPUT, "n")])
    run.now += 60
    assert run.go() == [None]


def test_a_spent_budget_is_charged_for_what_a_circuit_moved_and_not_for_its_own_fallback() -> None:
    rates = Rates(Decimal(1), Decimal(1), call_input_tokens=1, call_output_tokens=1)
    for grant, model_ref, held in ((Grant.GRANTED, "n", 2), (Grant.EXCEEDED, "cheap", None)):
        run = Told(STEP, begins="n")
        run.agents["x"] = AgentView(
            "x",
            "r1",
            300.0,
            rates=rates,
            models=(model("m"), ModelView("n", frozenset(), rates, TEXT, STRUCTURED)),
            fallback=("cheap", rates),
            limits_cost=True,
            budget_action="Fallback",
        )
        run.grant = lambda *_, grant=grant: grant
        assert run.go() == [model_ref]
        [node] = from_journal(run.status.journal or "").steps["a"].nodes
        assert node.reserved == held


def test_the_status_says_what_is_held_back_and_why_on_the_row_too() -> None:
    run = Told(STEP, model("m"))
    run.lets_start = False
    run.go()
    p = run.new_pass()
    p.held_back = {"x": (Reason.MODEL_LIMITED, "Model 'm' is at its limit")}
    status = status_of(p, run.status, 1)
    assert status.message == status.steps[0].message == "Model 'm' is at its limit"
    assert status.steps[0].reason == "ModelLimited"
    [reconciling] = [c for c in status.conditions or [] if c.type == "Reconciling"]
    assert (reconciling.reason, reconciling.message) == ("ModelLimited", status.message)
