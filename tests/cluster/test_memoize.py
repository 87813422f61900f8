"""Earlier results on a real cluster: who takes one, who may not, and what it costs."""

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, rows
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
RULES: Json = {
    "latency": "30ms",
    "rules": [
        {"match": "^broken", "fault": "Quota"},
        {"match": "^slow handed", "latency": "5s", **TOKENS},
        {"match": "^slow", "latency": "1500ms", **TOKENS},
        {"match": "^large", "reply": "large " * 500, **TOKENS},
        TOKENS,
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker"), *agent("other"))
        yield made


def memoized(name: str, text: str, *after: str, key: str = "", **more: Any) -> Json:
    age = {"maxAge": more.pop("age")} if "age" in more else {}
    return step(name, *after, input=text, memoize={"key": key or text, **age}, **more)


def asked(lab: Lab, text: str) -> int:
    """How often the model was asked this, by whomever."""
    return Counter(call["lastUser"] for call in lab.journal())[text]


def run(lab: Lab, name: str, of: str, **spec: Any) -> Json:
    lab.make(from_template(name, of, **spec))
    return lab.cluster.finished(name)


def test_a_second_run_takes_the_results_of_the_first_and_pays_nothing(lab: Lab) -> None:
    text = "$(arguments.topic) told"
    many = memoized("many", "$(arguments.topic) $(item)", **each("p", "q"))
    large = memoized("large", "large $(arguments.topic)")
    lab.make(
        template(
            "report",
            memoized("one", text),
            many,
            large,
            output="$([steps.one.output, steps.many.outputs, size(steps.large.output)])",
        ),
    )
    first = run(lab, "first", "report", arguments={"topic": "tea"})
    second = run(lab, "second", "report", arguments={"topic": "tea"})
    third = run(lab, "third", "report", arguments={"topic": "milk"})
    assert first["status"]["usage"]["requests"] == third["status"]["usage"]["requests"] == 4
    assert "usage" not in second["status"]
    assert second["status"]["output"] == first["status"]["output"]
    assert third["status"]["output"] != first["status"]["output"]
    assert lab.calls(second["metadata"]["uid"]) == []
    for row in rows(second).values():
        assert row["memoized"] is True
        assert "costUSD" not in row
    assert not any("memoized" in row for row in rows(first).values())
    assert asked(lab, "tea told") == asked(lab, "large tea") == 1


def test_a_result_belongs_to_the_name_the_step_and_the_agent_as_it_was(lab: Lab) -> None:
    lab.make(
        template("mine", memoized("one", "whose", key="k")),
        template("yours", memoized("one", "whose", key="k")),
        template(
            "two-steps", memoized("a", "whose", key="k"), memoized("b", "whose", "a", key="k")
        ),
        workflow("by-itself", memoized("one", "whose", key="k")),
    )
    for name, of in (("m1", "mine"), ("m2", "mine"), ("y1", "yours"), ("t1", "two-steps")):
        run(lab, name, of)
    lab.cluster.finished("by-itself")
    assert asked(lab, "whose") == 5, "mine, yours, two of two-steps, and by-itself"
    # Made anew under its name it is the same workflow to its results.
    lab.cluster.kubectl("delete", "workflow", "by-itself")
    lab.make(workflow("by-itself", memoized("one", "whose", key="k")))
    assert rows(lab.cluster.finished("by-itself"))["one"]["memoized"] is True

    before = lab.cluster.get("agent", "worker")["status"]["revision"]
    budget = {"period": "Daily", "maxCostUSD": "9"}
    lab.cluster.patch("agent", "worker", {"spec": {"budget": budget}})
    assert "usage" not in run(lab, "m3", "mine")["status"], "that changes no answer"
    lab.cluster.patch("agent", "worker", {"spec": {"instructions": "Answer in verse."}})
    lab.cluster.wait("agent", "worker", lambda a: a["status"]["revision"] != before, "revised")
    assert run(lab, "m4", "mine")["status"]["usage"]["requests"] == 1
    assert "usage" not in run(lab, "m5", "mine")["status"]


def test_a_result_is_taken_only_while_it_is_young_enough(lab: Lab) -> None:
    lab.make(template("aging", memoized("one", "how old", age="4s")))
    run(lab, "old-1", "aging")
    written = time.monotonic()
    assert "usage" not in run(lab, "old-2", "aging")["status"]
    time.sleep(max(0.0, written + 5 - time.monotonic()))
    assert run(lab, "old-3", "aging")["status"]["usage"]["requests"] == 1
    assert asked(lab, "how old") == 2


def test_the_same_question_is_asked_once_at_a_time_by_items_and_by_runs(lab: Lab) -> None:
    same = memoized("same", "slow once", key="once", **each(*range(5)))
    lab.make(template("crowd", same, output="$(distinct(steps.same.outputs))"))
    names = ("crowd-1", "crowd-2", "crowd-3")
    lab.make(*(from_template(name, "crowd") for name in names))
    found = lab.cluster.all_finished(*names)
    assert asked(lab, "slow once") == 1
    assert {str(one["status"]["output"]) for one in found.values()} == {
        "['A simulated answer to: slow once']"
    }
    assert sum(one["status"].get("usage", {}).get("requests", 0) for one in found.values()) == 1
    paid = sum(Decimal(one["status"].get("usage", {}).get("costUSD", 0)) for one in found.values())
    assert paid == Decimal("0.002")


def test_a_failure_is_no_result_and_who_waited_tries_for_itself(lab: Lab) -> None:
    same = memoized("same", "broken for all", key="k", **each(1, 2, 3, tolerateFailures=3))
    lab.make(template("doomed", same))
    found = run(lab, "doomed-1", "doomed")
    assert rows(found)["same"]["items"]["failed"] == 3
    assert asked(lab, "broken for all") == 3
    run(lab, "doomed-2", "doomed")
    assert asked(lab, "broken for all") == 6


def test_who_waits_for_a_run_that_is_stopped_or_deleted_asks_itself(lab: Lab) -> None:
    lab.make(template("handed", memoized("one", "slow handed", key="$(arguments.k)")))
    for k in ("stop", "delete"):
        lab.make(from_template(f"leader-{k}", "handed", arguments={"k": k}))
        uid = lab.cluster.get("workflow", f"leader-{k}")["metadata"]["uid"]
        lab.until_called(uid)
        lab.make(from_template(f"follower-{k}", "handed", arguments={"k": k}))
    time.sleep(0.3)
    lab.cluster.patch("workflow", "leader-stop", {"spec": {"shutdown": "Stop"}})
    lab.cluster.kubectl("delete", "workflow", "leader-delete")
    for found in lab.cluster.all_finished("follower-stop", "follower-delete").values():
        assert found["status"]["phase"] == "Succeeded"
        assert found["status"]["usage"]["requests"] == 1


@pytest.mark.alone
def test_results_outlive_the_operator_and_a_flight_that_it_died_in(lab: Lab) -> None:
    lab.make(template("lasting", memoized("one", "slow lasting", key="k")))
    lab.make(from_template("lasting-1", "lasting"), from_template("lasting-2", "lasting"))
    end = time.monotonic() + 20
    while not asked(lab, "slow lasting"):
        assert time.monotonic() < end
        time.sleep(0.05)
    kill_operator()
    lab.cluster.all_finished("lasting-1", "lasting-2")
    kill_operator()
    assert "usage" not in run(lab, "lasting-3", "lasting")["status"]
    assert asked(lab, "slow lasting") == 1
