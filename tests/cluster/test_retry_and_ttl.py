"""What comes after the end: runs that take over what others did, and runs that expire."""

import json
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.gitops import TRACKING_LABELS
from tests.cluster.harness import Json, condition, phases, reason, rows, why
from tests.cluster.lab import Lab, agent, each, step, workflow
from tests.cluster.terminal import corral

TOKENS = {"inputTokens": 1000, "outputTokens": 1000}
MENDED: Json = {
    "latency": "20ms",
    "rules": [
        {"match": "^large", "reply": "large " * 1000, **TOKENS},
        TOKENS,
    ],
}
BROKEN: Json = MENDED | {
    "rules": [{"match": "^(s18|item 4|large 1)\\b", "fault": "Quota"}, *MENDED["rules"]]
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(BROKEN, *agent("worker"))
        yield made


def twenty() -> list[Json]:
    """A chain of 20 steps, whose third one's output is large."""
    steps = [step("s1")]
    for number in range(2, 21):
        text = "large s3" if number == 3 else f"s{number}: $(size(steps.s{number - 1}.output))"
        steps.append(step(f"s{number}", f"s{number - 1}", input=text))
    return steps


def test_a_retry_asks_only_for_what_had_not_succeeded(lab: Lab) -> None:
    lab.answer_by(BROKEN)
    wide = step("wide", input="item $(item)", **each(*range(8)))
    nested = {
        "name": "nested",
        "steps": [step("inner", input="large $(item)"), step("last", "inner", input="end $(item)")],
        "output": "$(size(steps.inner.output))",
        **each(0, 1),
    }
    lab.make(
        workflow("failed", *twenty(), output="$(steps.s20.output)"),
        workflow("part", wide, nested, failFast=False, output="$(steps.wide.outputs)"),
        workflow("fine", step("a")),
    )
    found = lab.cluster.all_finished("failed", "part", "fine")
    assert found["failed"]["status"]["phase"] == found["part"]["status"]["phase"] == "Failed"
    assert phases(found["failed"])["s17"] == "Succeeded"
    assert phases(found["failed"])["s19"] == "Omitted"
    assert len(lab.calls(found["failed"]["metadata"]["uid"])) == 18
    refused = corral(lab.cluster, "retry", "fine")
    assert refused.returncode != 0

    lab.answer_by(MENDED)
    for name in ("failed", "part"):
        done = corral(lab.cluster, "retry", name, "--name", f"{name}-again", "--wait")
        assert done.returncode == 0, done.stderr + done.stdout
    again = {name: lab.cluster.get("workflow", f"{name}-again") for name in ("failed", "part")}
    for name, run in again.items():
        assert run["status"]["phase"] == "Succeeded", run["status"].get("message")
        assert run["spec"]["retryOf"] == {"name": name}
        assert set(phases(run).values()) == {"Succeeded"}
    calls = lab.calls(again["failed"]["metadata"]["uid"])
    assert [call["lastUser"].partition(":")[0] for call in calls] == ["s18", "s19", "s20"]
    assert again["failed"]["status"]["usage"]["requests"] == 3
    assert Decimal(again["failed"]["status"]["usage"]["costUSD"]) == Decimal("0.006")
    assert again["failed"]["status"]["progress"] == "20/20"
    # Its outputs are its own: they are read once the first run is gone.
    lab.cluster.kubectl("delete", "workflow", "failed")
    large = corral(lab.cluster, "output", "failed-again", "--step", "s3")
    assert large.stdout.strip() == ("large " * 1000).strip()
    texts = sorted(call["lastUser"] for call in lab.calls(again["part"]["metadata"]["uid"]))
    assert set(texts) >= {"item 4", "large 1", "end 1"}
    assert len(texts) == len(set(texts))
    assert again["part"]["status"]["output"] == [
        f"A simulated answer to: item {n}" for n in range(8)
    ]
    anew = corral(lab.cluster, "resubmit", "part", "--name", "part-anew", "--wait")
    assert anew.returncode == 0, anew.stderr
    assert len(lab.calls(lab.cluster.get("workflow", "part-anew")["metadata"]["uid"])) == 12


def test_a_retry_of_what_is_gone_waits_and_of_what_fits_not_is_told(lab: Lab) -> None:
    lab.make(
        workflow("other", step("a"), step("b", "a")),
        workflow("lost", step("a"), retryOf={"name": "never-was"}),
        workflow("unfit", step("a", input="quite another"), retryOf={"name": "other"}),
    )
    found = lab.cluster.wait(
        "workflow", "lost", lambda w: reason(w, "Reconciling") == "WorkflowNotFound", "told", 10
    )
    assert "spec.retryOf: there is no Workflow 'never-was'" in why(found, "Reconciling")
    lab.make(workflow("never-was", step("a")))
    lost = lab.cluster.finished("lost")
    assert lost["status"]["phase"] == "Succeeded"
    assert "usage" not in lost["status"]
    unfit = lab.cluster.wait(
        "workflow",
        "unfit",
        lambda w: "True" in (condition(w, "Stalled"), condition(w, "Finished")),
        "told or done",
    )
    calls = lab.calls(unfit["metadata"]["uid"])
    assert condition(unfit, "Stalled") == "True" or len(calls) == 1, "it never takes another's"


def test_a_finished_run_goes_when_its_time_is_over_unless_somebody_keeps_it(lab: Lab) -> None:
    lived: Json = {"ttlAfterFinished": "2s"}
    made = {
        "going": workflow("going", step("a"), **lived),
        "going-failed": workflow("going-failed", {"name": "a", "transform": "$(1 / 0)"}, **lived),
        "staying": workflow("staying", step("a")),
        "longer": workflow("longer", step("a"), ttlAfterFinished="1h"),
        "tracked": workflow("tracked", step("a"), **lived),
        "labelled": workflow("labelled", step("a"), **lived),
        "hook": workflow("hook", step("a"), **lived),
        "waiting": workflow("waiting", {"name": "w", "wait": {"duration": "1h"}}, **lived),
    }
    made["tracked"]["metadata"]["labels"] = TRACKING_LABELS
    made["labelled"]["metadata"]["labels"] = {"team": "research"}
    made["hook"]["metadata"]["annotations"] = {"argocd.argoproj.io/hook": "PostSync"}
    lab.make(*made.values())
    left = {"staying", "longer", "tracked", "waiting"}
    end = time.monotonic() + 40
    while (names := present(lab) & made.keys()) != left:
        assert names >= left, f"{left - names} are gone"
        assert time.monotonic() < end, f"{names - left} do not go"
        time.sleep(0.3)
    time.sleep(1)
    assert present(lab) >= left
    told = lab.cluster.events("tracked", "NotDeleted")
    assert "kept by" in told["NotDeleted"]["message"]
    lab.cluster.patch("workflow", "longer", {"spec": {"ttlAfterFinished": "1s"}})
    end = time.monotonic() + 20
    while "longer" in present(lab):
        assert time.monotonic() < end, "a shorter time is not heeded"
        time.sleep(0.3)
    lab.cluster.kubectl("delete", "workflow", "waiting", "tracked")


def present(lab: Lab) -> set[str]:
    return {obj["metadata"]["name"] for obj in lab.cluster.list("workflow")}


def test_kubectl_waits_for_each_end(lab: Lab) -> None:
    ends = {
        "ended-well": workflow("ended-well", step("a")),
        "ended-badly": workflow("ended-badly", {"name": "a", "transform": "$(1 / 0)"}),
        "ended-stopped": workflow("ended-stopped", step("a"), shutdown="Stop"),
        "ended-late": workflow(
            "ended-late", {"name": "w", "wait": {"duration": "1h"}}, deadline="1s"
        ),
        "ended-poor": workflow(
            "ended-poor",
            step("a"),
            budget={"maxCostUSD": "0.000001", "onExceeded": "Fail"},
        ),
        "ended-short": workflow(
            "ended-short",
            step("a"),
            budget={"maxCostUSD": "0.000001", "onExceeded": "Conclude"},
        ),
    }
    lab.make(*ends.values())
    words = ("wait", "--for=condition=Finished", "--timeout=30s", "workflow", *ends)
    printed = lab.cluster.kubectl(*words).stdout
    assert printed.count("condition met") == len(ends)
    found = lab.cluster.all_finished(*ends)
    said = {name: (reason(w, "Finished"), condition(w, "Succeeded")) for name, w in found.items()}
    assert said == {
        "ended-well": ("Succeeded", "True"),
        "ended-badly": ("Failed", "False"),
        "ended-stopped": ("Stopped", "False"),
        "ended-late": ("Failed", "False"),
        "ended-poor": ("BudgetExceeded", "False"),
        "ended-short": ("BudgetExceeded", "True"),
    }
    assert json.dumps(rows(found["ended-short"])["a"]["phase"]) == '"Omitted"'
