"""A retry of a run: what it takes over from the one before."""

from typing import Any

import pytest

from corral.api.workflow import ItemCounts
from corral.plan.facts import ArtifactNeed
from corral.plan.state import Run, to_journal
from corral.plan.takeover import stored_in, take_over, takeover_problems
from tests.unit.plan.driver import T0, Script, Simulation, fails, ok, run, spec_of

LATER = 1000.0


def again(old: Simulation, text: str | None = None, answers: Script | None = None) -> Simulation:
    """A new run, with the same spec or another, that begins with what it takes over."""
    new = Simulation(text or yaml_of(old), answers)
    new.now = LATER
    taken = Run(run_id="run-2")
    take_over(taken, new.spec, old.run_state, old.spec, T0 + LATER)
    new.facts |= {
        ArtifactNeed("run-2", need.sha256, need.size): value
        for need, value in old.facts.items()
        if isinstance(need, ArtifactNeed)
    }
    new.status.journal = to_journal(taken)
    return new.end()


def yaml_of(sim: Simulation) -> str:
    return sim.spec.model_dump_json(by_alias=True, exclude_none=True)


def done_again(sim: Simulation) -> list[str]:
    return [s.step for s in sim.started]


CHAIN = """
arguments: {n: 1}
failFast: false
steps:
- {name: a, agentRef: {name: x}, input: $(arguments.n)}
- {name: b, dependsOn: [a], agentRef: {name: x}, input: $(steps.a.output)}
- {name: c, dependsOn: [b], agentRef: {name: x}, input: $(steps.b.output)}
- {name: side, agentRef: {name: x}}
output: $(steps.c.output)
"""


@pytest.mark.parametrize(
    ("failed", "redone"),
    [("a", ["a", "b", "c"]), ("b", ["b", "c"]), ("c", ["c"]), ("side", ["side"])],
)
def test_what_succeeded_is_not_done_again(failed: str, redone: list[str]) -> None:
    old = run(CHAIN, {"a": ok("A"), "b": ok("B"), "c": ok("C"), failed: fails()})
    new = again(old, answers={"a": ok("A2"), "b": ok("B2"), "c": ok("C2")})
    assert done_again(new) == redone
    assert new.status.phase == "Succeeded"
    assert new.status.output == ("C2" if "c" in redone else "C")
    if failed in "bc":
        before = {"b": "A", "c": "B"}[failed]
        assert new.started[0].payload.input == before
    assert all(s.payload.attempt_id == f"run-2.{s.step}.0.1.1" for s in new.started)


def test_what_it_cost_stays_with_the_run_that_paid_it() -> None:
    old = run(CHAIN, {"a": ok(cost="0.50"), "c": fails()})
    new = again(old)
    assert (new.row("a").cost_usd, new.row("c").cost_usd) == (None, "0.01")
    assert new.run_state.used().requests == 1
    assert old.row("a").cost_usd == "0.5"


def test_the_state_of_the_run_before_is_not_touched() -> None:
    old = run(CHAIN, {"a": ok("x" * 5000), "c": fails()})
    state = old.run_state
    take_over(Run(run_id="run-2"), old.spec, state, old.spec, T0)
    assert state == old.run_state


@pytest.mark.parametrize(
    ("before", "after", "redone"),
    [
        ("input: $(steps.a.output)", "input: $(steps.a.output)", ["c"]),
        ("input: $(steps.a.output)", "input: Say $(steps.a.output)", ["b", "c"]),
        ("dependsOn: [a], agentRef: {name: x}", "dependsOn: [a], agentRef: {name: y}", ["b", "c"]),
        ("{name: a, agentRef: {name: x}", "{name: a, timeout: 9s, agentRef: {name: x}",
         ["a", "b", "c"]),
        ("{name: c,", "{name: c, timeout: 9s,", ["c"]),
        ("output: $(steps.c.output)", "output: $(steps.b.output)", ["c"]),
        ("failFast: false", "parallelism: 1", ["c"]),
    ],
)  # fmt: skip
def test_only_what_is_written_as_it_was_is_taken_over(
    before: str, after: str, redone: list[str]
) -> None:
    old = run(CHAIN, {"c": fails()})
    assert done_again(again(old, CHAIN.replace(before, after))) == redone


def test_steps_may_come_and_go() -> None:
    old = run(CHAIN, {"c": fails()})
    new = again(old, CHAIN.replace("name: side", "name: new"))
    assert sorted(done_again(new)) == ["c", "new"]
    assert new.phases == dict.fromkeys(["a", "b", "c", "new"], "Succeeded")


@pytest.mark.parametrize(
    ("step", "answer", "redone"),
    [
        pytest.param("when: 'false'", ok(), ["z"], id="skipped"),
        pytest.param("allowFailure: true", fails(), ["m", "n", "z"], id="allowed to fail"),
        pytest.param("timeout: 9s", ok(), ["z"], id="succeeded"),
    ],
)
def test_what_depends_on_something_that_is_done_again_is_too(
    step: str, answer: Any, redone: list[str]
) -> None:
    old = run(
        f"""
failFast: false
steps:
- {{name: m, agentRef: {{name: x}}, {step}}}
- {{name: n, dependsOn: [m], agentRef: {{name: x}}}}
- {{name: z, agentRef: {{name: x}}}}
""",
        {"m": answer, "z": fails()},
    )
    assert sorted(done_again(again(old))) == redone


@pytest.mark.parametrize("rule", ["AnyFailed", "AllDone"])
def test_what_ran_because_of_a_failure_is_done_as_its_rule_says_now(rule: str) -> None:
    old = run(
        f"""
steps:
- {{name: a, agentRef: {{name: x}}}}
- {{name: b, dependsOn: [a], triggerRule: {rule}, agentRef: {{name: x}}}}
""",
        {"a": fails()},
    )
    assert old.phases["b"] == "Succeeded"
    new = again(old)
    assert new.phases == {"a": "Succeeded", "b": "Omitted" if rule == "AnyFailed" else "Succeeded"}
    assert done_again(new) == (["a"] if rule == "AnyFailed" else ["a", "b"])


def test_on_exit_runs_each_time() -> None:
    old = run(
        "steps: [{name: a, agentRef: {name: x}}]\n"
        "onExit: [{name: e, agentRef: {name: x}, input: $(workflow.runID)}]"
    )
    new = again(old)
    assert [(s.step, s.payload.input) for s in new.started] == [("e", "run-2")]


FAN = """
failFast: false
steps:
- name: f
  agentRef: {name: x}
  forEach: {items: [a, b, c]}
  input: $(item)
- {name: g, dependsOn: [f], transform: $(steps.f.outputs)}
output: $(steps.g.output)
"""


def test_of_a_fan_out_only_the_items_that_did_not_succeed_are_done_again() -> None:
    old = run(FAN, {"f[0]": ok("A"), "f[1]": fails(), "f[2]": ok("C")})
    new = again(old, answers={"f": ok("B")})
    assert [(s.index, s.payload.input, s.at) for s in new.started] == [(1, "b", LATER)]
    row = new.row("f")
    assert (row.phase, row.reason, row.message) == ("Succeeded", None, None)
    assert (row.items, row.cost_usd) == (ItemCounts(total=3, succeeded=3), "0.01")
    assert new.status.output == ["A", "B", "C"]
    assert not new.has_condition("Degraded")


def test_a_fan_out_that_may_lack_items_is_done() -> None:
    old = run(FAN.replace("b, c]", "b, c], tolerateFailures: 1"), {"f[1]": fails()})
    new = again(old)
    assert done_again(new) == []
    assert new.condition("Degraded").message == "step f: 1 of 3 items failed, which is tolerated"


def test_a_fan_out_of_which_nothing_succeeded_begins_anew() -> None:
    text = FAN.replace("items: [a, b, c]", "itemsFrom: '$(steps.p.output)'").replace(
        "- name: f", "- {name: p, agentRef: {name: x}}\n- name: f\n  dependsOn: [p]"
    )
    old = run(text, {"p": ok(["a", "b"]), "f": fails()})
    assert done_again(again(old)) == ["f", "f"]
    halfway = run(text, {"p": ok(["a", "b"]), "f[0]": fails()})
    assert [s.index for s in again(halfway).started] == [0]
    changed = text.replace("name: p, agentRef: {name: x}", "name: p, agentRef: {name: y}")
    assert done_again(again(halfway, changed, {"p": ok(["a", "b"])})) == ["p", "f", "f"]


def test_a_step_deadline_begins_anew_for_the_rest_of_a_fan_out() -> None:
    text = FAN.replace("input: $(item)", "deadline: 5s")
    old = run(text, {"f[0]": ok(takes=1), "f": ok(takes=None)})
    assert old.row("f").reason == "Timeout"
    assert [s.index for s in again(old).started] == [1, 2]


def test_items_whose_extract_fails_are_not_done_again_and_it_fails_again() -> None:
    text = FAN.replace("input: $(item)", "extract: {n: 'output[7]'}")
    old = run(text)
    new = again(old)
    assert (done_again(new), new.row("f").reason) == ([], "InvalidExpression")


def test_large_outputs_are_named_to_be_copied_and_are_this_runs_then() -> None:
    big = "x" * 5000
    old = run(CHAIN, {"a": ok(big), "b": ok("B"), "c": fails()})
    taken = Run(run_id="run-2")
    take_over(taken, old.spec, old.run_state, old.spec, T0)
    (stored,) = stored_in(taken)
    assert (stored.run_id, stored.size) == (None, 5002)
    old = run(CHAIN, {"a": ok(big), "b": fails()})
    assert again(old).input_of("b") == big


def test_large_items_of_a_fan_out_go_along() -> None:
    long = ["x" * 50_000, "y" * 50_000]
    text = FAN.replace("[a, b, c]", f"[{', '.join(long)}]")
    old = run(text, {"f[1]": fails()})
    assert old.run_state.steps["f"].items_stored is not None
    new = again(old)
    assert [s.payload.input for s in new.started] == ["y" * 50_000]


def test_nested_steps_are_taken_over_as_a_whole_by_item() -> None:
    old = run(
        """
steps:
- name: o
  forEach: {items: [a, b]}
  steps:
  - {name: i, agentRef: {name: x}}
  - {name: j, dependsOn: [i], agentRef: {name: x}}
  output: $(steps.j.output)
output: $(steps.o.outputs)
""",
        {"o~0~1~j": ok("A"), "o~1~1~j": fails()},
    )
    new = again(old, answers={"j": ok("B")})
    assert done_again(new) == ["o~1~1~i", "o~1~1~j"]
    assert (new.status.output, new.row("o").cost_usd) == (["A", "B"], "0.02")


def test_an_approval_is_given_once_and_a_rejected_one_is_asked_for_again() -> None:
    text = """
steps:
- {name: r, approval: {prompt: Go, approvers: [{kind: User, name: ann}]}}
- {name: a, dependsOn: [r], agentRef: {name: x}}
"""
    for verdict, asked in (("Approve", 0), ("Reject", 1)):
        old = Simulation(text, {"a": fails()}).to(0)
        old.decide("r", verdict)
        old.end()
        new = Simulation(text)
        taken = Run(run_id="run-2")
        take_over(taken, new.spec, old.run_state, old.spec, T0)
        new.status.journal = to_journal(taken)
        assert len(new.to(0).asked) == asked


def test_a_retry_of_a_retry_takes_over_what_both_did() -> None:
    first = run(CHAIN, {"a": ok("A"), "b": fails()})
    second = again(first, answers={"b": ok("B"), "c": fails()})
    assert done_again(second) == ["b", "c"]
    third = Simulation(CHAIN)
    taken = Run(run_id="run-3")
    take_over(taken, third.spec, second.run_state, second.spec, T0)
    third.status.journal = to_journal(taken)
    assert done_again(third.end()) == ["c"]


@pytest.mark.parametrize(
    ("new", "old", "same"),
    [
        ("{n: 1}", "{n: 1}", True),
        ("{n: 1, m: [2]}", "{m: [2], n: 1}", True),
        ("{}", None, True),
        ("{n: 2}", "{n: 1}", False),
        ("{n: 1, m: 2}", "{n: 1}", False),
        (None, "{n: 1}", False),
    ],
)
def test_other_arguments_are_refused(new: str | None, old: str | None, same: bool) -> None:
    def spec(arguments: str | None) -> Any:
        given = f"arguments: {arguments}\n" if arguments else ""
        return spec_of(given + "steps: [{name: a, transform: x}]")

    found = [str(problem) for problem in takeover_problems(spec(new), spec(old), "first")]
    why = "spec.arguments: differ from those of Workflow 'first', which this is a retry of"
    assert found == ([] if same else [why])
