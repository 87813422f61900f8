"""``memoize``: an earlier result is taken instead of asking again."""

from dataclasses import replace
from typing import Any

import pytest

from corral.plan.facts import Memo
from corral.plan.memo import memo_key
from corral.plan.observed import AgentView
from corral.plan.state import Node, Step
from tests.unit.plan.driver import T0, Simulation, fails, ok, run


def one(extra: str = "", key: str = "$(arguments.t)", name: str = "a", kind: str = "") -> str:
    kind = kind or "agentRef: {name: x}, input: hi"
    memoize = f"memoize: {{key: '{key}'{extra}}}"
    return f"""
arguments: {{t: tea, list: [1]}}
steps: [{{name: {name}, {kind}, {memoize}}}]
output: $(steps.{name}.output)
"""


def fan(extra: str = "", key: str = "$(item)", items: str = "[k, k, l]") -> str:
    return f"""
steps:
- name: f
  agentRef: {{name: x}}
  input: $(index)
  forEach: {{items: {items}{extra}}}
  memoize: {{key: "{key}"}}
"""


def earlier(text: str, answers: Any = None) -> dict[str, Memo]:
    """What a run leaves for others."""
    memos: dict[str, Memo] = {}
    run(text, answers, memos=memos)
    return memos


def test_a_hit_costs_nothing_and_says_so() -> None:
    memos: dict[str, Memo] = {}
    first = run(one(), {"a": ok("made")}, memos=memos)
    assert first.row("a").memoized is None
    second = run(one(), {"a": ok("other")}, memos=memos)
    row = second.row("a")
    assert (second.started, second.now, second.status.output) == ([], 0, "made")
    assert (row.phase, row.memoized, row.attempts, row.cost_usd) == ("Succeeded", True, None, None)
    assert (row.reason, row.message) == ("Memoized", "the result of 2027-01-15T08:00:01Z is taken")
    assert row.started_at == row.finished_at == "2027-01-15T08:00:00.000Z"
    assert second.status.usage is None


@pytest.mark.parametrize(
    ("extra", "now", "hit"),
    [
        ("", 1e8, True),
        (", maxAge: 1h", 3600.0, True),
        (", maxAge: 1h", 3601.0, False),
    ],
)
def test_a_result_may_be_too_old(extra: str, now: float, hit: bool) -> None:
    memos = earlier(one(extra))  # made after a second
    sim = Simulation(one(extra), memos=memos)
    sim.now = now
    sim.end()
    assert (sim.started == []) is hit
    assert bool(sim.row("a").memoized) is hit
    (memo,) = memos.values()
    assert memo.at == T0 + (1 if hit else now + 1)


OTHER = AgentView("x", "r2", 300.0)
TOOL = "tool: {{mcp: {{url: http://t}}, name: t, arguments: {{q: {}}}}}"


@pytest.mark.parametrize(
    ("first", "second", "agents", "hit"),
    [
        pytest.param(one(), one(), [], True, id="all is the same"),
        pytest.param(one(), one(kind="agentRef: {name: x}, input: you"), [], True, id="the input"),
        pytest.param(one(key="tea"), one(), [], True, id="how the key is written"),
        pytest.param(one(), one(key="coffee"), [], False, id="the key"),
        pytest.param(one(), one(name="b"), [], False, id="the step"),
        pytest.param(one(), one(), [OTHER], False, id="the Agent's revision"),
        pytest.param(one(), one(kind="agentRef: {name: y}"), [], False, id="the Agent"),
        pytest.param(
            one(kind=TOOL.format(1)), one(kind=TOOL.format(1)), [], True, id="no tool argument"
        ),
        pytest.param(
            one(kind=TOOL.format(1)), one(kind=TOOL.format(2)), [], False, id="a tool's argument"
        ),
    ],
)
def test_what_may_differ(first: str, second: str, agents: list[AgentView], hit: bool) -> None:
    sim = run(second, memos=earlier(first), agents=agents)
    assert (sim.started == []) is hit


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "other"}, False),
        ({"namespace": "other"}, False),
        ({"memo_scope": "report"}, True),
        ({"memo_scope": "template"}, False),
        ({"memo_scope": "report", "name": "other"}, True),
    ],
)
def test_a_result_belongs_to_the_template_or_the_workflow(
    change: dict[str, str], same: bool
) -> None:
    p = Simulation(one()).new_pass()
    step = Step(nodes=[Node()])
    spec = p.frames.main.specs["a"]
    keys = {memo_key(each, p.frames.main, spec, step, 0) for each in (p, replace(p, **change))}
    assert len(keys) == (1 if same else 2)
    assert {len(key) for key in keys} == {40}


def test_of_items_with_the_same_key_one_is_asked_and_the_others_wait() -> None:
    sim = Simulation(fan(), {"f[0]": ok("zero", takes=5), "f[2]": ok("two")}).to(4)
    assert sim.starts == [("f[0]", 0), ("f[2]", 0)]
    assert (sim.row("f").phase, sim.row("f").items.queued) == ("Running", 1)  # type: ignore[union-attr]
    sim.end()
    assert (sim.now, len(sim.started), sim.row("f").cost_usd) == (5, 2, "0.02")
    assert [node.output for node in sim.run_state.steps["f"].nodes] == ["zero", "zero", "two"]
    assert sim.row("f").memoized is True
    assert sim.status.usage is not None
    assert sim.status.usage.requests == 2


def test_where_one_fails_the_next_works_it_out() -> None:
    text = fan(", tolerateFailures: 1", items="[k, k, k]")
    sim = run(text, {"f[0]": fails(), "f[1]": ok("one")})
    assert sim.starts == [("f[0]", 0), ("f[1]", 1)]
    assert [node.output for node in sim.run_state.steps["f"].nodes] == [None, "one", "one"]
    assert sim.row("f").cost_usd == "0.02"


def test_who_is_tried_again_keeps_its_turn() -> None:
    text = fan(items="[k, k]").replace("  input", "  retryStrategy: {limit: 1}\n  input")
    sim = run(text, {"f[0]#1": fails(), "f[0]#2": ok("late")})
    assert [(s.index, s.attempt) for s in sim.started] == [(0, 1), (0, 2)]


@pytest.mark.parametrize("theirs", [True, False], ids=["succeeds", "gives none"])
def test_what_another_run_works_out_is_waited_for(theirs: bool) -> None:
    (key,) = earlier(one())
    sim = Simulation(one(), {"a": ok("mine")})
    sim.flights[key] = "run-2.a.0"
    sim.to(50)
    assert (sim.started, sim.phases) == ([], {"a": "Queued"})
    del sim.flights[key]
    if theirs:
        sim.memos[key] = Memo("theirs", T0 + 49)
    sim.tick()
    sim.end()
    assert sim.status.output == ("theirs" if theirs else "mine")
    assert len(sim.started) == (0 if theirs else 1)
    assert sim.flights == {}


def test_a_failure_is_not_kept() -> None:
    assert earlier(one(), {"a": fails()}) == {}


def test_a_key_that_cannot_be_rendered_fails_the_step() -> None:
    sim = run(one(key="$(arguments.list[7])"))
    row = sim.row("a")
    assert (row.phase, row.reason, sim.started) == ("Failed", "InvalidExpression", [])
    assert (row.message or "").startswith("memoize.key: ")


def test_a_key_that_cannot_be_rendered_fails_its_item_only() -> None:
    sim = run(fan(", tolerateFailures: 1", key="$([1, 2][index])"))
    assert [s.index for s in sim.started] == [0, 1]
    assert sim.phases == {"f": "Succeeded"}


def test_a_loop_is_memoized_as_a_whole() -> None:
    text = one(kind="agentRef: {name: x}, loop: {until: iteration == 3, maxIterations: 3}")
    script = {f"a@{i}": ok(f"draft {i}") for i in (1, 2, 3)}
    memos = earlier(text, script)
    assert [memo.output for memo in memos.values()] == ["draft 3"]
    sim = run(text, memos=memos)
    assert (sim.started, sim.status.output, sim.row("a").iteration) == ([], "draft 3", 1)


def test_the_best_of_a_loop_is_what_is_kept() -> None:
    loop = "loop: {until: 'false', maxIterations: 2, onExhausted: AcceptBest, best: output.n}"
    memos = earlier(
        one(kind=f"agentRef: {{name: x}}, {loop}"), {"a@1": ok({"n": 2}), "a@2": ok({"n": 1})}
    )
    assert [memo.output for memo in memos.values()] == [{"n": 2}]


def test_nothing_is_looked_up_while_suspended() -> None:
    sim = Simulation(fan(items="[k, k]"), {"f[0]": ok("zero", takes=2)})
    sim.at(1, suspend=True).at(9, suspend=None).to(8)
    assert (sim.row("f").items.queued, sim.row("f").memoized) == (1, None)  # type: ignore[union-attr]
    sim.end()
    assert (sim.now, len(sim.started), sim.row("f").memoized) == (9, 1, True)


def test_an_attempt_that_was_lost_is_made_again_and_not_looked_up() -> None:
    sim = Simulation(one(), {"a#1": fails("WorkerLost"), "a#2": ok("mine")}).to(0)
    (key,) = sim.flights
    sim.memos[key] = Memo("theirs", T0)
    sim.end()
    assert (sim.status.output, len(sim.started)) == ("mine", 2)
    assert sim.memos[key].output == "mine"


def test_a_large_result_is_stored_for_the_run_that_takes_it() -> None:
    large = "l" * 5000
    memos = earlier(one(), {"a": ok(large)})
    sim = run(one(), memos=memos)
    (stored,) = sim.facts.values()
    assert stored == large
    assert sim.row("a").output == sim.status.output
    assert sim.status.output["size"] == 5002


def test_steps_of_one_name_in_two_graphs_have_results_of_their_own() -> None:
    inner = "steps: [{name: i, agentRef: {name: x}, memoize: {key: k}}]"
    text = f"steps: [{{name: a, {inner}}}, {{name: b, {inner}}}]"
    memos = earlier(text)
    assert len(memos) == 2
    assert run(text, memos=memos).started == []
