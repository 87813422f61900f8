"""Tools on a real cluster: steps that call one, agents that do, and calls that people agree to."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition, phases, rows, why
from tests.cluster.lab import Lab, agent, each, kill_operator, step, tool_server, workflow

ANNA, BERT, ERIN = "anna", "bert", "erin"
"""Anna and Bert are named as approvers; Erin has the verb, and is not named."""
MCP = {"url": "http://tool-server/mcp"}
TOKENS = {"inputTokens": 1000, "outputTokens": 1000}


def delete(name: str) -> Json:
    return {"toolCalls": [{"name": "delete", "arguments": {"name": name}}]}


RULES: Json = {
    "latency": "30ms",
    "rules": [
        {
            "match": "^look",
            "toolCalls": [{"name": "search", "arguments": {"query": "heat pumps"}}],
            "reply": "found",
            **TOKENS,
        },
        *({"match": f"^tidy {n}$", **delete(f"file-{n}"), "reply": "tidied", **TOKENS}
          for n in range(10)),
        {"match": "^linger", **delete("lingering"), "reply": "gone", "latency": "1s", **TOKENS},
        TOKENS,
    ],
}  # fmt: skip


class Shop(Lab):
    """A lab with tools, and people who watch over them."""

    def hire(self) -> None:
        for person in (ANNA, BERT, ERIN):
            role = ("--clusterrole=corral-approver", f"--user={person}")
            self.cluster.kubectl("create", "rolebinding", person, *role)

    def submit(self, *runs: Json) -> None:
        for run in runs:
            run["metadata"]["annotations"] = {"corral.dev/created-by": "kubernetes-admin"}
        self.make(*runs)

    def request(self, run: str, name: str = "act") -> Json:
        end = time.monotonic() + 20
        while True:
            for found in self.cluster.list("approvalrequest"):
                spec = found["spec"]
                if (spec["workflowRef"]["name"], spec["step"]) == (run, name):
                    return found
            assert time.monotonic() < end, f"{run}: nobody is asked about {name}"
            time.sleep(0.1)

    def decide(
        self, who: str, run: str, verdict: str = "Approve", name: str = "act", **more: Any
    ) -> str:
        """Writes a decision; the message if it was refused, else nothing."""
        change = {"spec": {"decision": {"verdict": verdict, "by": who, **more}}}
        asked = self.request(run, name)["metadata"]["name"]
        words = ("patch", "approvalrequest", asked, "--type=merge", f"--patch={json.dumps(change)}")
        done = self.cluster.kubectl(*words, check=False, as_user=who)
        return "" if done.returncode == 0 else done.stderr

    def tool_calls(self, run: str) -> list[Json]:
        """What the tool server was asked in a run, by its name."""
        uid = self.cluster.get("workflow", run)["metadata"]["uid"]
        return self.calls(uid, "tool-server")


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with fresh_namespace() as cluster:
        made = Shop(cluster)
        made.hire()
        named = [{"kind": "User", "name": name} for name in (ANNA, BERT)]
        mcp = {**MCP, "allow": ["search", "delete"], "requireApproval": ["delete"]}
        made.build(
            RULES,
            *tool_server(),
            *agent("careful", more={"tools": [{"name": "t", "mcp": {**mcp, "approvers": named}}]}),
            *agent("free", more={"tools": [{"name": "t", "mcp": MCP}]}, replicas=2),
        )
        yield made


def use(name: str, tool: str, *after: str, arguments: Json | None = None, **more: Any) -> Json:
    """A step that calls a tool without a model."""
    made: Json = {"name": name, "tool": {"mcp": MCP, "name": tool}, **more}
    if arguments is not None:
        made["tool"]["arguments"] = arguments
    return made | ({"dependsOn": list(after)} if after else {})


def test_steps_call_tools_without_a_model(shop: Shop) -> None:
    nowhere = use("a", "add", arguments={"a": 1, "b": 2})
    nowhere["tool"]["mcp"] = {"url": "http://nowhere.invalid/mcp"}
    shop.make(
        workflow(
            "tools",
            use("one", "add", arguments={"a": "$(arguments.n)", "b": 2}),
            use("two", "search", arguments={"query": "$('heat' + ' pumps')"}),
            use("many", "add", arguments={"a": "$(item)", "b": "$(index)"}, **each(5, 6)),
            use(
                "again",
                "add",
                "one",
                arguments={
                    "a": "$(previous == null ? 1 : previous.result)",
                    "b": "$(iteration)",
                },
                loop={"until": "output.result > 3", "maxIterations": 5},
            ),
            use("bad", "fail", arguments={"message": "oh no"}, allowFailure=True),
            use("late", "slow", arguments={"seconds": 30}, timeout="500ms", allowFailure=True),
            use("unknown", "juggle", allowFailure=True),
            use(
                "retried",
                "fail",
                arguments={"message": "again"},
                retryStrategy={"limit": 2, "backoff": {"duration": "50ms"}},
                allowFailure=True,
            ),
            arguments={"n": 40},
            output="$([steps.one.output, steps.many.outputs, steps.again.output])",
        ),
        workflow("no-server", nowhere),
    )
    found = shop.cluster.all_finished("tools", "no-server")
    tools = found["tools"]
    assert tools["status"]["phase"] == "Succeeded", tools["status"].get("message")
    assert tools["status"]["output"] == [
        {"result": 42},
        [{"result": 5}, {"result": 7}],
        {"result": 4},
    ]
    failed = {name for name, phase in phases(tools).items() if phase == "Failed"}
    assert failed == {"bad", "late", "unknown", "retried"}
    shown = rows(tools)
    assert (shown["bad"]["reason"], shown["late"]["reason"]) == ("ToolFailed", "Timeout")
    assert "oh no" in shown["bad"]["message"]
    assert "juggle" in shown["unknown"]["message"]
    assert shown["retried"]["attempts"] == 3
    assert "Heat pumps" in str(shown["two"]["output"])
    assert "agent" not in shown["one"]
    assert "usage" not in tools["status"], "no model was asked"
    calls = Counter(call["tool"] for call in shop.tool_calls("tools"))
    assert (calls["add"], calls["search"]) == (5, 1)
    # A retry is the same effect, so that a server can tell.
    again = [c for c in shop.tool_calls("tools") if c["arguments"] == {"message": "again"}]
    assert len(again) == 3
    assert len({call["effectKey"] for call in again}) == 1
    assert found["no-server"]["status"]["phase"] == "Failed"
    assert rows(found["no-server"])["a"]["reason"] == "ToolFailed"


def test_an_agents_tools_are_called_and_those_that_need_it_only_after_approval(shop: Shop) -> None:
    look = step("look", agent="careful", input="look")
    act = step("act", "look", agent="careful", input="tidy 1")
    shop.submit(
        workflow("agreed", look, act),
        workflow("refused", step("act", agent="careful", input="tidy 2")),
        workflow("dropped", step("act", agent="careful", input="tidy 3")),
        workflow("paused", step("act", agent="careful", input="tidy 4"), activeDeadline="20s"),
    )
    request = shop.request("agreed")
    assert request["spec"]["tool"]["name"] == "delete"
    assert json.loads(request["spec"]["tool"]["arguments"]) == {"name": "file-1"}
    assert [one["name"] for one in request["spec"]["approvers"]] == [ANNA, BERT]
    waiting = shop.cluster.wait(
        "workflow", "agreed", lambda w: phases(w).get("act") == "Waiting", "waiting"
    )
    assert rows(waiting)["act"]["approval"] == request["metadata"]["name"]
    assert why(waiting, "Reconciling").startswith("ApprovalPending: act")
    assert [call["tool"] for call in shop.tool_calls("agreed")] == ["search"]
    assert "names neither erin" in shop.decide(ERIN, "agreed")
    assert shop.decide(BERT, "agreed") == ""
    assert shop.decide(BERT, "refused", "Reject", comment="Keep it.") == ""
    shop.request("dropped")
    shop.cluster.patch("workflow", "dropped", {"spec": {"shutdown": "Stop"}})
    shop.request("paused")
    shop.cluster.patch("workflow", "paused", {"spec": {"suspend": True}})
    shop.cluster.wait("workflow", "paused", lambda w: condition(w, "Suspended") == "True", "paused")
    assert shop.decide(BERT, "paused") == ""
    found = shop.cluster.all_finished("agreed", "refused", "dropped")
    assert found["agreed"]["status"]["phase"] == "Succeeded", found["agreed"]["status"]["message"]
    assert rows(found["agreed"])["act"]["output"] == "tidied"
    [deleted] = [call for call in shop.tool_calls("agreed") if call["tool"] == "delete"]
    assert (deleted["arguments"], deleted["outcome"]) == ({"name": "file-1"}, "Answered")
    assert len(shop.calls(found["agreed"]["metadata"]["uid"])) == 4
    assert found["agreed"]["status"]["usage"]["requests"] == 4
    assert found["refused"]["status"]["phase"] == "Succeeded"
    assert found["dropped"]["status"]["phase"] == "Stopped"
    assert phases(found["dropped"]) == {"act": "Cancelled"}
    time.sleep(0.5)
    for name in ("refused", "dropped", "paused"):
        assert shop.tool_calls(name) == [], name
    shop.cluster.patch("workflow", "paused", {"spec": {"suspend": None}})
    assert shop.cluster.finished("paused")["status"]["phase"] == "Succeeded"
    assert [call["arguments"] for call in shop.tool_calls("paused")] == [{"name": "file-4"}]


@pytest.mark.alone
def test_a_killed_operator_forgets_no_tool_call_and_repeats_none(shop: Shop) -> None:
    act = step("act", agent="careful", input="tidy $(item)", **each(5, 6, 7))
    shop.submit(workflow("killed", act, step("last", "act", agent="careful")))
    names = [f"act[{n}]" for n in range(3)]
    first = [shop.request("killed", name)["metadata"]["uid"] for name in names]
    kill_operator()
    assert [shop.request("killed", name)["metadata"]["uid"] for name in names] == first
    assert shop.decide(BERT, "killed", name=names[0]) == ""
    assert shop.decide(BERT, "killed", "Reject", name=names[1]) == ""
    kill_operator()
    assert shop.decide(ANNA, "killed", name=names[2]) == ""
    done = shop.cluster.finished("killed")
    assert done["status"]["phase"] == "Succeeded", done["status"].get("message")
    calls = shop.tool_calls("killed")
    assert sorted(call["arguments"]["name"] for call in calls) == ["file-5", "file-7"]
    assert {call["outcome"] for call in calls} == {"Answered"}
    # Each item asks twice: what to do, and what came of it.
    assert len(shop.calls(done["metadata"]["uid"])) == 7
    assert done["status"]["usage"]["requests"] == 7


def test_what_a_lost_worker_did_is_known_to_the_server_by_its_key(shop: Shop) -> None:
    run = shop.start(workflow("bereft", step("act", agent="free", input="linger")))
    end = time.monotonic() + 20
    while not shop.tool_calls("bereft"):
        assert time.monotonic() < end, "no tool is called"
        time.sleep(0.05)
    [busy] = [pod for pod in shop.workers("free") if holds(shop, pod)]
    processes.kill(processes.of_pod(busy))
    done = shop.cluster.finished("bereft")
    assert done["status"]["phase"] == "Succeeded", done["status"].get("message")
    calls = shop.tool_calls("bereft")
    assert [call["outcome"] for call in calls] == ["Answered", "Repeated"]
    assert [call["attemptID"] for call in calls] == [f"{run}.act.0.1.1", f"{run}.act.0.1.2"]
    assert len({call["effectKey"] for call in calls}) == 1


def holds(shop: Shop, pod: Json) -> bool:
    """Whether a worker's metrics say that it works."""
    name, namespace = pod["metadata"]["name"], shop.cluster.namespace
    path = f"/api/v1/namespaces/{namespace}/pods/{name}:8080/proxy/metrics"
    text = shop.cluster.kubectl("get", f"--raw={path}").stdout
    return any(
        "attempts_running" in line and not line.startswith("#") and float(line.split()[-1]) > 0
        for line in text.splitlines()
    )
