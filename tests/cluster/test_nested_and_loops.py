"""Nested steps and loops on a real cluster: what they come to, and that each call is made once,
whoever is killed in the middle."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition, phases, rows, why
from tests.cluster.lab import Lab, agent, each, kill_operator, step, workflow

TOKENS = {"inputTokens": 1000, "outputTokens": 1000}
"""Of each call, so that it costs 0.002 USD."""
RULES = {
    "latency": "20ms",
    "rules": [
        {"match": "^broken", "fault": "Quota"},
        {"match": "^slow", "latency": "600ms", **TOKENS},
        {"match": "^long", "latency": "1500ms", **TOKENS},
        {"match": "score 1$", "json": {"score": 1}, **TOKENS},
        {"match": "score 2$", "json": {"score": 3}, **TOKENS},
        {"match": "score 3$", "json": {"score": 2}, **TOKENS},
        TOKENS,
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker", replicas=2, concurrency=16))
        yield made


@dataclass(frozen=True)
class Case:
    """Steps, and what must become of them."""

    steps: list[Json]
    output: Any = None
    """Of the run, whose output is ``returns``."""
    returns: str = "$(steps.outer.output)"
    calls: tuple[str, ...] = ()
    """What the model was asked, in any order."""
    phase: str = "Succeeded"
    message: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the row of the last step."""
    attention: str = ""
    """The name of an item that a person may want to see."""
    degraded: str = ""


def compute(name: str, to: str, *after: str, **more: Any) -> Json:
    made: Json = {"name": name, "transform": to, **more}
    return made | ({"dependsOn": list(after)} if after else {})


def outer(*inner: Json, **more: Any) -> Json:
    return {"name": "outer", "steps": list(inner), **more}


def said(text: str) -> str:
    return f"A simulated answer to: {text}"


SCORES = {"type": "object", "required": ["score"]}
SCORED = {"agentRef": {"name": "worker"}, "input": "$(iteration) score $(iteration)"}


def scored(**loop: Any) -> Json:
    return {"name": "outer", **SCORED, "outputSchema": SCORES, "loop": loop}


CASES = {
    "inner names come first": Case(
        [
            compute("a", "outside"),
            compute("b", "also outside"),
            outer(
                step("a", input="inner a"),
                compute("c", "$(steps.a.output) and $(steps.b.output)", "a"),
                dependsOn=["a", "b"],
                output="$(steps.c.output); $(steps.a.phase)",
            ),
        ],
        f"{said('inner a')} and also outside; Succeeded",
        calls=("inner a",),
    ),
    "a graph for each item": Case(
        [
            outer(
                step("draft", input="draft $(it) as $(index)"),
                step("check", "draft", input="check $(it)"),
                output="$(it)",
                **each("x", "y", **{"as": "it"}),
            )
        ],
        ["x", "y"],
        "$(steps.outer.outputs)",
        ("draft x as 0", "check x", "draft y as 1", "check y"),
        row={"items": {"total": 2, "succeeded": 2}, "costUSD": "0.008"},
    ),
    "a fan-out in each item": Case(
        [
            outer(
                compute("inner", "$(item * 10 + m)", **each(1, 2, **{"as": "m"})),
                compute("all", "$(sum(steps.inner.outputs))", "inner"),
                output="$(steps.all.output)",
                **each(1, 2),
            )
        ],
        [23, 43],
        "$(steps.outer.outputs)",
    ),
    "an inner failure within what is tolerated": Case(
        [
            outer(
                step("try", input="$(item)"),
                compute("after", "$(steps.try.output)", "try"),
                output="$(steps.after.output)",
                **each("good one", "broken one", tolerateFailures=1),
            )
        ],
        [said("good one")],
        "$(steps.outer.outputs)",
        ("good one", "broken one"),
        row={"items": {"total": 2, "succeeded": 1, "failed": 1}},
        attention="outer[1].try",
        degraded="1 of 2 items failed",
    ),
    "an inner failure that is allowed": Case(
        [
            outer(
                step("try", input="broken two", allowFailure=True),
                compute("after", "went on", "try"),
                output="$(steps.after.output)",
            )
        ],
        "went on",
        calls=("broken two",),
        degraded="step outer: ",
    ),
    "an inner failure fails the step": Case(
        [outer(step("try", input="broken three"), compute("after", "never", "try"))],
        returns="none",
        calls=("broken three",),
        phase="Failed",
        message="step outer failed",
    ),
    "what is skipped in some items": Case(
        [
            outer(
                compute("big", "$(item)", when="item > 1"),
                output="$(steps.big.?output.orValue('small'))",
                **each(1, 2),
            )
        ],
        ["small", 2],
        "$(steps.outer.outputs)",
    ),
    "a step that is skipped with all that is in it": Case(
        [outer(step("never"), when="false"), compute("after", "$(steps.outer.phase)", "outer")],
        "Skipped",
        "$(steps.after.output)",
    ),
    "a loop until its output is good": Case(
        [scored(until="output.score >= 3", maxIterations=5)],
        {"score": 3},
        calls=("1 score 1", "2 score 2"),
        row={"iteration": 2, "costUSD": "0.004"},
    ),
    "a loop that is exhausted": Case(
        [scored(until="output.score > 3", maxIterations=2)],
        returns="none",
        calls=("1 score 1", "2 score 2"),
        phase="Failed",
        message="step outer failed",
        row={"iteration": 2},
    ),
    "a loop that takes the last": Case(
        [scored(until="output.score > 3", maxIterations=3, onExhausted="AcceptLast")],
        {"score": 2},
        calls=("1 score 1", "2 score 2", "3 score 3"),
    ),
    "a loop that takes the best": Case(
        [
            scored(
                until="output.score > 3",
                maxIterations=3,
                onExhausted="AcceptBest",
                best="output.score",
            )
        ],
        {"score": 3},
        calls=("1 score 1", "2 score 2", "3 score 3"),
    ),
    "what was before": Case(
        [
            compute(
                "outer",
                "$(previous == null ? 1 : previous * 2)",
                loop={"until": "output > 9", "maxIterations": 9},
            )
        ],
        16,
    ),
    "a loop over nested steps": Case(
        [
            outer(
                step("draft", input="$(iteration): $(previous)"),
                compute("sum", "$(iteration * 5)", "draft"),
                output="$(steps.sum.output)",
                loop={"until": "output >= 10", "maxIterations": 4},
            )
        ],
        10,
        calls=("1: null", "2: 5"),
        row={"iteration": 2},
    ),
    "loops of items, each of its own length": Case(
        [
            compute(
                "outer",
                "$(iteration)",
                **each(3, 1, 2),
                loop={"until": "output == item", "maxIterations": 5},
            )
        ],
        [3, 1, 2],
        "$(steps.outer.outputs)",
    ),
    "a loop in an item's graph": Case(
        [
            outer(
                compute(
                    "grow",
                    "$(item + iteration)",
                    loop={"until": "output >= 12", "maxIterations": 4},
                ),
                output="$(steps.grow.output)",
                **each(10, 11),
            )
        ],
        [12, 12],
        "$(steps.outer.outputs)",
    ),
}


def name_of(case: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in case.lower())


@pytest.fixture(scope="module")
def ended(lab: Lab) -> dict[str, Json]:
    """All of the cases, run at once."""
    lab.make(*(workflow(name_of(name), *c.steps, output=c.returns) for name, c in CASES.items()))
    found = lab.cluster.all_finished(*map(name_of, CASES))
    return {case: found[name_of(case)] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_nested_steps_and_loops_come_to_what_they_should(
    case: str, lab: Lab, ended: dict[str, Json]
) -> None:
    wanted, found = CASES[case], ended[case]
    status = found["status"]
    assert status["phase"] == wanted.phase, status.get("message")
    assert wanted.message in status.get("message", "")
    assert status.get("output") == wanted.output
    calls = lab.calls(found["metadata"]["uid"])
    assert Counter(call["lastUser"] for call in calls) == Counter(wanted.calls)
    answered = sum(call["outcome"] == "Answered" for call in calls)
    if answered:
        assert float(status["usage"]["costUSD"]) == pytest.approx(answered * 0.002)
    row = rows(found)["outer"]
    for key, value in wanted.row.items():
        shown = row.get(key)
        assert shown.items() >= value.items() if isinstance(value, dict) else shown == value, (
            f"{key}: {shown}"
        )
    assert wanted.attention in [one["name"] for one in status.get("attention", [])] + [""]
    assert condition(found, "Degraded") == ("True" if wanted.degraded else None)
    assert wanted.degraded in why(found, "Degraded")
    assert len(status["steps"]) == len(wanted.steps), "inner steps have no rows of their own"


def slow_loops(name: str, items: int = 6, iterations: int = 3) -> Json:
    """Graphs with a loop in each; the inputs tell all calls apart."""
    inner = step(
        "turn",
        input="slow $(item) turn $(iteration)",
        loop={"until": f"iteration == {iterations}", "maxIterations": iterations},
    )
    last = step("last", "turn", input="slow $(item) last")
    every = {"output": "$(item)", **each(*range(items))}
    return workflow(name, outer(inner, last, **every), output="$(steps.outer.outputs)")


def slow_inputs(items: int = 6, iterations: int = 3) -> set[str]:
    turns = {f"slow {n} turn {i}" for n in range(items) for i in range(1, iterations + 1)}
    return turns | {f"slow {n} last" for n in range(items)}


@pytest.mark.alone
def test_a_killed_operator_goes_on_in_the_middle_of_nested_loops(lab: Lab) -> None:
    run = lab.start(slow_loops("killed"))
    for count in (4, 12, 19):
        lab.until_called(run, count)
        kill_operator()
    done = lab.cluster.finished("killed")
    assert done["status"]["output"] == list(range(6))
    lab.called_once_each(run, slow_inputs())
    assert done["status"]["usage"]["requests"] == len(slow_inputs()) == 24


def test_only_what_ran_on_a_killed_worker_is_done_again(lab: Lab) -> None:
    run = lab.start(slow_loops("bereft"))
    lab.until_called(run, 9)
    victim = lab.workers()[0]
    processes.kill(processes.of_pod(victim))
    done = lab.cluster.finished("bereft")
    assert done["status"]["phase"] == "Succeeded", done["status"].get("message")
    assert done["status"]["output"] == list(range(6))
    calls = lab.calls(run)
    assert len({call["attemptID"] for call in calls}) == len(calls)
    twice = [text for text, n in Counter(c["lastUser"] for c in calls).items() if n > 1]
    assert {call["lastUser"] for call in calls} == slow_inputs()
    assert len(twice) <= 6, "one call of each item could be under way"
    assert len(calls) == len(slow_inputs()) + len(twice)
    # A repeated call has the key of the first: who honours it does the effect once.
    for text in twice:
        assert len({call["effectKey"] for call in calls if call["lastUser"] == text}) == 1
    lab.ready("worker", 2)


def test_a_stopped_run_cancels_its_nested_steps_and_a_suspended_one_starts_none(lab: Lab) -> None:
    inner = [step("one", input="long $(item) one"), step("two", "one", input="long $(item) two")]
    both = [outer(*inner, **each(1, 2, 3)), step("after", "outer")]
    runs = lab.make(workflow("stopped", *both), workflow("paused", *both))
    for uid in runs.values():
        lab.until_called(uid, 3)
    lab.cluster.patch("workflow", "stopped", {"spec": {"shutdown": "Stop"}})
    lab.cluster.patch("workflow", "paused", {"spec": {"suspend": True}})
    found = lab.cluster.finished("stopped")
    assert found["status"]["phase"] == "Stopped"
    assert phases(found) == {"outer": "Cancelled", "after": "Omitted"}
    lab.cluster.wait(
        "workflow", "paused", lambda w: w["status"].get("phase") == "Suspended", "suspended"
    )
    time.sleep(2.5)
    assert {len(lab.calls(uid)) for uid in runs.values()} == {3}
    lab.cluster.patch("workflow", "paused", {"spec": {"suspend": None}})
    done = lab.cluster.finished("paused")
    assert set(phases(done).values()) == {"Succeeded"}
    texts = {f"long {n} {which}" for n in (1, 2, 3) for which in ("one", "two")}
    lab.called_once_each(runs["paused"], texts | {"after: go"})
