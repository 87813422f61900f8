"""Templates on a real cluster: runs that are made from them, and children that runs make."""

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition, phases, reason, rows, why
from tests.cluster.lab import (
    Lab,
    agent,
    each,
    from_template,
    kill_operator,
    step,
    template,
    workflow,
)

TOKENS = {"inputTokens": 1000, "outputTokens": 1000}
"""Of each call, so that it costs 0.002 USD."""
RULES: Json = {
    "latency": "30ms",
    "rules": [
        {"match": "^broken", "fault": "Quota"},
        {"match": "^slow", "latency": "800ms", **TOKENS},
        {"match": "^long", "latency": "3s", **TOKENS},
        TOKENS,
    ],
}
PARAMETERS: Json = {
    "type": "object",
    "properties": {
        "topic": {"type": "string"},
        "times": {"type": "integer", "default": 2},
        "style": {"type": "object", "properties": {"tone": {"type": "string"}}},
    },
    "required": ["topic"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker", more={"limits": {"maxCostUSD": "0.002"}}))
        yield made


def compute(name: str, to: str, *after: str, **more: Any) -> Json:
    made: Json = {"name": name, "transform": to, **more}
    return made | ({"dependsOn": list(after)} if after else {})


def child(name: str, of: str, *after: str, arguments: Json | None = None, **more: Any) -> Json:
    """A step that runs a template."""
    call: Json = {"templateRef": {"name": of}, **({"arguments": arguments} if arguments else {})}
    made: Json = {"name": name, "workflow": call, **more}
    return made | ({"dependsOn": list(after)} if after else {})


def test_arguments_are_checked_and_get_their_defaults(lab: Lab) -> None:
    greet = compute("greet", "$(arguments.topic) x $(arguments.times)")
    lab.make(
        template("greeting", greet, parameters=PARAMETERS, output="$(steps.greet.output)"),
        template("free", compute("a", "$(arguments.?any.orValue('none'))")),
        template("typo", compute("a", "$(arguments.topik)"), parameters=PARAMETERS),
    )
    wrong: dict[str, tuple[Json, str]] = {
        "no-topic": ({}, "'topic' is a required property"),
        "bad-type": ({"topic": "t", "times": "many"}, "arguments.times"),
        "deep": ({"topic": "t", "style": {"tone": 3}}, "arguments.style.tone"),
        "unknown": ({"topic": "t", "topik": "t"}, "topik"),
    }
    lab.make(
        from_template("defaulted", "greeting", arguments={"topic": "tea"}),
        from_template("given", "greeting", arguments={"topic": "tea", "times": 3}),
        from_template("anything", "free", arguments={"any": [1, {"a": None}]}),
        from_template("nothing", "free"),
        *(from_template(name, "greeting", arguments=given) for name, (given, _) in wrong.items()),
        from_template("bad-template", "typo", arguments={"topic": "t"}),
    )
    found = lab.cluster.all_finished("defaulted", "given", "anything", "nothing")
    assert found["defaulted"]["status"]["output"] == "tea x 2"
    assert found["given"]["status"]["output"] == "tea x 3"
    assert found["defaulted"]["spec"]["arguments"] == {"topic": "tea"}, "the spec is its author's"
    assert rows(found["nothing"])["a"]["output"] == "none"
    lab.cluster.kubectl(
        "wait", "--for=condition=Stalled", "--timeout=20s", "workflow", *wrong, "bad-template"
    )
    for name, (_, message) in wrong.items():
        stalled = lab.cluster.get("workflow", name)
        assert message in why(stalled, "Stalled"), name
        assert "startedAt" not in stalled["status"]
        assert condition(stalled, "Finished") == "False"
    bad = why(lab.cluster.get("workflow", "bad-template"), "Stalled")
    assert "typo" in bad
    assert "there is no argument 'topik'" in bad


def test_a_missing_template_is_named_within_ten_seconds_and_waited_for(lab: Lab) -> None:
    lab.make(
        from_template("early", "coming"),
        workflow("early-parent", child("call", "coming-too")),
    )
    made = time.monotonic()
    for name, missing in (("early", "coming"), ("early-parent", "coming-too")):
        found = lab.cluster.wait(
            "workflow",
            name,
            lambda w: reason(w, "Reconciling") == "TemplateNotFound",
            "told what is missing",
            10,
        )
        assert f"there is no WorkflowTemplate '{missing}'" in why(found, "Reconciling")
        assert condition(found, "Stalled") == "False"
    assert time.monotonic() - made < 10
    lab.make(template("coming", compute("a", "here")), template("coming-too", compute("a", "here")))
    for found in lab.cluster.all_finished("early", "early-parent").values():
        assert found["status"]["phase"] == "Succeeded"


def test_a_run_keeps_the_template_that_it_began_with(lab: Lab) -> None:
    lab.make(template("edited", step("a", input="long first"), compute("b", "first", "a")))
    lab.make(from_template("before", "edited"))
    lab.cluster.wait("workflow", "before", lambda w: phases(w).get("a") == "Running", "running")
    steps = [step("a", input="second"), compute("b", "second", "a"), compute("c", "more", "b")]
    lab.cluster.patch("workflowtemplate", "edited", {"spec": {"steps": steps}})
    lab.make(from_template("after", "edited"))
    after = lab.cluster.finished("after")
    lab.cluster.kubectl("delete", "workflowtemplate", "edited")
    before = lab.cluster.finished("before")
    assert before["status"]["finishedAt"] >= after["status"]["startedAt"]
    assert rows(before)["b"]["output"] == "first"
    assert list(phases(before)) == ["a", "b"]
    assert rows(after)["b"]["output"] == "second"
    assert list(phases(after)) == ["a", "b", "c"]


def test_children_do_steps_and_their_books_are_the_parents(lab: Lab) -> None:
    one = step("one", input="$(arguments.who) one")
    two = step("two", "one", input="$(arguments.who) two")
    lab.make(
        template("pair", one, two, output="$(steps.two.output)"),
        template("flaky", step("try", input="broken $(arguments.who)")),
        workflow(
            "family",
            child(
                "pairs", "pair", arguments={"who": "$(it)"}, **each("p", "q", "r", **{"as": "it"})
            ),
            child("bad", "flaky", arguments={"who": "x"}, allowFailure=True),
            step("last", "pairs", "bad", input="last: $(size(steps.pairs.outputs))"),
            output="$(steps.pairs.outputs)",
        ),
        workflow("alone", child("only", "pair", arguments={"who": "solo"})),
    )
    found = lab.cluster.all_finished("family", "alone")
    family = found["family"]
    assert family["status"]["phase"] == "Succeeded", family["status"].get("message")
    assert family["status"]["output"] == [f"A simulated answer to: {it} two" for it in "pqr"]
    assert phases(family) == {"pairs": "Succeeded", "bad": "Failed", "last": "Succeeded"}
    assert "ended Failed" in rows(family)["bad"]["message"]
    assert rows(family)["bad"]["reason"] == "Quota"
    calls = lab.family_calls("family")
    texts = [call["lastUser"] for call in calls if call["outcome"] == "Answered"]
    assert sorted(texts) == sorted(
        [f"{it} {n}" for it in "pqr" for n in ("one", "two")] + ["last: 3"]
    )
    assert Decimal(family["status"]["usage"]["costUSD"]) == Decimal("0.002") * 7
    assert Decimal(rows(family)["pairs"]["costUSD"]) == Decimal("0.002") * 6
    name = rows(found["alone"])["only"]["child"]
    made = lab.cluster.get("workflow", name)
    assert made["metadata"]["labels"]["corral.dev/workflow"] == "alone"
    assert made["spec"]["arguments"] == {"who": "solo"}
    # Who deletes the parent deletes its children.
    lab.cluster.kubectl("delete", "workflow", "alone")
    end = time.monotonic() + 20
    while lab.cluster.kubectl("get", "workflow", name, check=False).returncode == 0:
        assert time.monotonic() < end, "the child outlives its parent"
        time.sleep(0.2)


def test_templates_that_reach_themselves_or_too_deep_are_told(lab: Lab) -> None:
    lab.make(
        template("self", child("again", "self")),
        template("ping", child("go", "pong")),
        template("pong", child("go", "ping")),
        *(template(f"deep{n}", child("go", f"deep{n + 1}")) for n in range(1, 7)),
        template("deep7", compute("a", "deep down")),
        *(template(f"ok{n}", child("go", f"ok{n + 1}")) for n in range(1, 4)),
        template("ok4", compute("a", "deep down"), output="$(steps.a.output)"),
    )
    lab.make(
        from_template("run-self", "self"),
        workflow("run-ping", child("go", "ping")),
        workflow("run-deep", child("go", "deep1")),
        workflow("run-ok", child("go", "ok1")),
    )
    for name, named in (("run-self", "self"), ("run-ping", "ping")):
        found = lab.cluster.wait(
            "workflow", name, lambda w: condition(w, "Stalled") == "True", "stalled", 20
        )
        assert named in why(found, "Stalled")
        assert "startedAt" not in found["status"]
    found = lab.cluster.finished("run-ok")
    assert found["status"]["phase"] == "Succeeded", found["status"].get("message")
    end = time.monotonic() + 30
    while True:  # it is told before it starts, or the fifth Workflow below another fails
        found = lab.cluster.get("workflow", "run-deep")
        if "True" in (condition(found, "Stalled"), condition(found, "Finished")):
            break
        assert time.monotonic() < end, "it goes ever deeper"
        time.sleep(0.2)
    assert "5 deep" in found["status"]["message"]
    assert len(lab.family("run-deep")) <= 6


def test_children_spend_no_more_than_their_parent_has(lab: Lab) -> None:
    many = step("many", input="$(arguments.who) $(item)", **each(*range(20), maxConcurrent=5))
    lab.make(
        template("spender", many, output="$(size(steps.many.outputs))"),
        template("thrifty", many, budget={"maxCostUSD": "0.006", "onExceeded": "Conclude"}),
    )
    lab.make(
        workflow(
            "poor",
            child("kid", "spender", arguments={"who": "kid"}),
            step("last", "kid"),
            budget={"maxCostUSD": "0.02", "onExceeded": "Conclude"},
        ),
        workflow(
            "poor-fails",
            child("kid", "spender", arguments={"who": "kid"}),
            budget={"maxCostUSD": "0.02", "onExceeded": "Fail"},
        ),
        workflow(
            "rich",
            child("kid", "thrifty", arguments={"who": "kid"}),
            step("last", "kid"),
            budget={"maxCostUSD": "1"},
        ),
    )
    found = lab.cluster.all_finished("poor", "poor-fails", "rich")
    for name, calls in (("poor", 10), ("poor-fails", 10), ("rich", 4)):
        asked = lab.family_calls(name)
        assert len(asked) == calls, name
        usage, budget = found[name]["status"]["usage"], found[name]["status"]["budget"]
        assert Decimal(usage["costUSD"]) == Decimal("0.002") * calls
        assert Decimal(budget["spentCostUSD"]) == Decimal(usage["costUSD"])
        assert Decimal(budget["reservedCostUSD"]) == 0
    assert reason(found["poor"], "Finished") == "BudgetExceeded"
    assert found["poor"]["status"]["phase"] == "Succeeded"
    assert found["poor-fails"]["status"]["phase"] == "Failed"
    assert found["rich"]["status"]["phase"] == "Succeeded"


def test_what_happens_to_a_parent_happens_to_its_children(lab: Lab) -> None:
    chain = [step("a", input="long a"), step("b", "a", input="long b"), step("c", "b")]
    lab.make(template("chain", *chain))
    names = ("stopped", "suspended", "orphaned", "robbed")
    lab.make(*(workflow(name, child("kid", "chain"), step("last", "kid")) for name in names))

    def kid(name: str) -> str:
        found = lab.cluster.wait(
            "workflow", name, lambda w: rows(w).get("kid", {}).get("child"), "a parent"
        )
        return str(rows(found)["kid"]["child"])

    kids = {name: kid(name) for name in names}
    for name in kids.values():
        lab.cluster.wait("workflow", name, lambda w: phases(w).get("a") == "Running", "running")
    lab.cluster.patch("workflow", "stopped", {"spec": {"shutdown": "Stop"}})
    lab.cluster.patch("workflow", "suspended", {"spec": {"suspend": True}})
    lab.cluster.kubectl("delete", "workflow", kids["robbed"])
    lab.cluster.kubectl("delete", "workflow", "orphaned")
    stopped = lab.cluster.finished("stopped")
    assert phases(stopped) == {"kid": "Cancelled", "last": "Omitted"}
    assert lab.cluster.finished(kids["stopped"])["status"]["phase"] == "Stopped"
    robbed = lab.cluster.finished("robbed")
    assert robbed["status"]["phase"] == "Failed"
    assert "the child Workflow was deleted" in rows(robbed)["kid"]["message"]
    paused = lab.cluster.wait(
        "workflow", kids["suspended"], lambda w: condition(w, "Suspended") == "True", "suspended"
    )
    time.sleep(1.5)
    assert phases(lab.cluster.get("workflow", kids["suspended"]))["c"] == "Pending"
    lab.cluster.patch("workflow", "suspended", {"spec": {"suspend": None}})
    assert lab.cluster.finished("suspended")["status"]["phase"] == "Succeeded"
    lab.called_once_each(paused["metadata"]["uid"], {"long a", "long b", "c: go"})
    done = lab.cluster.kubectl("get", "workflow", kids["orphaned"], check=False)
    assert done.returncode != 0, "the child of a parent that is gone"


def test_a_child_in_a_loop_and_one_that_is_retried(lab: Lab) -> None:
    lab.make(
        template(
            "counting",
            step("a", input="count $(arguments.n)"),
            compute("b", "$(arguments.n)", "a"),
            output="$(steps.b.output)",
        ),
        template("hopeless", step("try", input="broken again")),
        workflow(
            "looping",
            child(
                "kid",
                "counting",
                arguments={"n": "$(iteration * 2)"},
                loop={"until": "output >= 6", "maxIterations": 5},
            ),
            output="$(steps.kid.output)",
        ),
        workflow(
            "retrying",
            child(
                "kid",
                "hopeless",
                retryStrategy={"limit": 1, "backoff": {"duration": "100ms"}},
            ),
        ),
    )
    found = lab.cluster.all_finished("looping", "retrying")
    assert found["looping"]["status"]["output"] == 6
    texts = sorted(call["lastUser"] for call in lab.family_calls("looping"))
    assert texts == ["count 2", "count 4", "count 6"]
    assert found["retrying"]["status"]["phase"] == "Failed"
    # Quota is never retried, whoever met it.
    assert len(lab.family_calls("retrying")) == 1


@pytest.mark.alone
def test_a_killed_operator_makes_no_child_twice(lab: Lab) -> None:
    one = step("one", input="slow $(arguments.n) one")
    two = step("two", "one", input="slow $(arguments.n) two")
    lab.make(template("steady", one, two))
    lab.make(
        workflow(
            "killed",
            child("kids", "steady", arguments={"n": "$(item)"}, **each(*range(6), maxConcurrent=3)),
            step("last", "kids"),
        )
    )
    for count in (1, 4, 8):
        end = time.monotonic() + 30
        while len(lab.family_calls("killed")) < count:
            assert time.monotonic() < end, "the children do not get on"
            time.sleep(0.1)
        kill_operator()
    done = lab.cluster.finished("killed")
    assert done["status"]["phase"] == "Succeeded"
    assert len(lab.family("killed")) == 7
    texts = sorted(call["lastUser"] for call in lab.family_calls("killed"))
    assert texts == sorted(
        [f"slow {n} {which}" for n in range(6) for which in ("one", "two")] + ["last: go"]
    )
    assert done["status"]["usage"]["requests"] == len(texts) == 13
