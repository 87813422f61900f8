"""What the engine makes of Workflows, on a real cluster with simulated Models."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.harness import (
    OURS,
    Cluster,
    Json,
    agent,
    condition,
    journal,
    model_server,
    phases,
    pool,
    reason,
    rows,
    simulated,
    why,
    workflow,
)
from tests.faults.rig import wait_until

PRICE = '{inputPerMillionUSD: "1.00", outputPerMillionUSD: "2.00"}'
CALL = "0.00009"
"""50 tokens in and 20 out, at that price."""

SCRIPT = """
latency: 20ms
reply: ok
script:
- {match: ^plan, reply: '{"parts": ["x", "y", "z"], "score": 2.0}'}
- {match: ^bad, reply: this is no JSON}
- {match: ^good, reply: '{"fine": true}'}
- {match: ^inject, reply: 'take $(arguments.secret)'}
- {match: '^\\{"list":\\[1,2\\],"text":"n=3","whole":\\{"a":1\\}\\}$', reply: the data came}
- {match: '^look\\n\\n\\{"m":7\\}$', reply: both came}
- {match: '^item 1 of q, attempt 1, iteration 1, previous null$', reply: all names are there}
"""

TEAM = (
    simulated("plain", SCRIPT, PRICE)
    + simulated("free", "reply: ok")
    + simulated("slow", "latency: 300ms\nreply: late")
    + simulated("asleep", "latency: 50s")
    + simulated("down", "failurePercent: 100", PRICE)
    + "".join(
        agent(name, name) + pool(name, "concurrency: 200")
        for name in ("plain", "free", "slow", "asleep", "down")
    )
    + agent("strict", "plain", "outputSchema: {type: object, required: [fine]}")
    + pool("strict")
)


@pytest.fixture(scope="module", autouse=True)
def _a_team(team: Cluster) -> None:
    team.apply(TEAM)
    team.kubectl("wait", "--for=condition=Ready", "agentpool", "--all", "--timeout=90s")


@dataclass(frozen=True)
class Case:
    """A Workflow that needs no help, and what must become of it."""

    spec: str
    steps: str
    """``name=Phase`` of all rows, in order."""
    phase: str = "Succeeded"
    output: Any = None
    message: str = ""
    """Found in status.message."""
    degraded: str = ""
    """Found in the Degraded condition; empty: there is none."""
    row: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By step: fields of its row; of a text, a part of it is enough. None: absent."""
    why: str = ""
    """The reason of the condition Succeeded, if it is not the phase."""


def call(name: str, *after: str, do: str = "go", more: str = "", who: str = "plain") -> str:
    """A step that calls an agent."""
    wait = f"dependsOn: [{', '.join(after)}], " if after else ""
    return f"- {{name: {name}, {wait}agentRef: {{name: {who}}}, input: {do}{more and ', ' + more}}}"


def compute(name: str, *after: str, to: str = "done", more: str = "") -> str:
    """A step that needs no agent."""
    wait = f"dependsOn: [{', '.join(after)}], " if after else ""
    return f"- {{name: {name}, {wait}transform: {json.dumps(to)}{more and ', ' + more}}}"


def graph(*steps: str, more: str = "") -> str:
    """A Workflow's spec."""
    return "steps:\n" + "\n".join(steps) + "\n" + more


STRICT = "outputSchema: {type: object, required: [fine]}"
PLAN = "outputSchema: {type: object, required: [parts]}"

GRAPHS = {
    "a chain": Case(
        graph(call("a"), call("b", "a"), call("c", "b"), more="output: $(steps.c.output)"),
        "a=Succeeded b=Succeeded c=Succeeded",
        output="ok",
        row={"c": {"attempts": 1, "costUSD": CALL, "agent": "plain", "output": "ok"}},
    ),
    "a diamond": Case(
        graph(
            call("a"),
            call("left", "a"),
            call("right", "a"),
            compute("join", "left", "right", to="$(steps.left.output + steps.right.output)"),
            more="output: $(steps.join.output)",
        ),
        "a=Succeeded left=Succeeded right=Succeeded join=Succeeded",
        output="okok",
    ),
    "a fan-out over items": Case(
        graph(
            compute("each", to="$(item * 10 + index)", more="forEach: {items: [3, 2, 1]}"),
            more="output: $(steps.each.outputs)",
        ),
        "each=Succeeded",
        output=[30, 21, 12],
        row={"each": {"items": {"total": 3, "succeeded": 3}, "attempts": None}},
    ),
    "a fan-out over an output": Case(
        graph(
            call("plan", do="plan it", more=PLAN),
            call(
                "each",
                "plan",
                do="do $(part) as number $(index)",
                more="forEach: {itemsFrom: $(steps.plan.output.parts), as: part}",
            ),
            more="output: {}".format("$(steps.each.items.map(i, [i.item, i.phase, i.costUSD]))"),
        ),
        "plan=Succeeded each=Succeeded",
        output=[[part, "Succeeded", CALL] for part in "xyz"],
        row={"each": {"costUSD": "0.00027", "items": {"total": 3, "succeeded": 3}}},
    ),
    "a fan-out over objects": Case(
        graph(
            compute(
                "each",
                to="$(who.name) is $(who.age + 1)",
                more='forEach: {items: [{name: "$(1)", age: 3}], as: who}',
            ),
            more="output: $(steps.each.outputs[0])",
        ),
        "each=Succeeded",
        output="$(1) is 4",
    ),
    "a fan-out over an empty list": Case(
        graph(
            call("each", more="forEach: {itemsFrom: '$([])'}"),
            compute("after", "each", to="$(size(steps.each.outputs))"),
            more="output: $(steps.after.output)",
        ),
        "each=Succeeded after=Succeeded",
        output=0,
        row={"each": {"items": {"total": 0, "succeeded": 0, "failed": 0}, "costUSD": None}},
    ),
    "more items than maxItems": Case(
        graph(call("each", more="forEach: {itemsFrom: '$([1, 2, 3])', maxItems: 2}")),
        "each=Failed",
        "Failed",
        message="step each failed: InvalidExpression: forEach: 3 items are more than maxItems 2",
        row={"each": {"items": None, "startedAt": None, "costUSD": None}},
    ),
    "a fan-out over what is no list": Case(
        graph(call("each", more="forEach: {itemsFrom: '$({1: 2})'}")),
        "each=Failed",
        "Failed",
        message='forEach.itemsFrom: gives {"1":2}, not a list',
    ),
    "failures up to tolerateFailures": Case(
        graph(
            call(
                "each",
                do="$(item)",
                more=f"{STRICT}, forEach: {{items: [bad, good], tolerateFailures: 1}}",
            ),
            more="output: $(steps.each.outputs)",
        ),
        "each=Succeeded",
        output=[{"fine": True}],
        degraded="step each: 1 of 2 items failed, which is tolerated",
        row={"each": {"items": {"total": 2, "succeeded": 1, "failed": 1}}},
    ),
    "failures over tolerateFailures": Case(
        graph(
            call(
                "each",
                do="$(item)",
                more=f"{STRICT}, forEach: {{items: [bad, good, bad], tolerateFailures: 1}}",
            ),
        ),
        "each=Failed",
        "Failed",
        message="step each failed: InvalidOutput: 2 of 3 items failed; item 0: ",
    ),
    "failures up to a percentage": Case(
        graph(
            call(
                "each",
                do="$(item)",
                more=f"{STRICT}, forEach: {{items: [bad, good, good, good],"
                " tolerateFailures: 25%}",
            ),
        ),
        "each=Succeeded",
        degraded="1 of 4 items failed",
    ),
    "failures over a percentage": Case(
        graph(
            call(
                "each",
                do="$(item)",
                more=f"{STRICT}, forEach: {{items: [bad, good, good, good, good],"
                " tolerateFailures: 19%}",
            ),
        ),
        "each=Failed",
        "Failed",
        message="1 of 5 items failed",
    ),
    "conditions": Case(
        graph(
            compute("three", to="$(3)"),
            compute("more", "three", more="when: steps.three.output > 2"),
            compute("less", "three", more="when: steps.three.output > 3"),
            compute("after", "less", to="$(steps.less.?output.orValue('nothing'))"),
            compute("late", "after", more="when: has(steps.less.output)"),
            more="output: $(steps.after.output)",
        ),
        "three=Succeeded more=Succeeded less=Skipped after=Succeeded late=Skipped",
        output="nothing",
        row={"less": {"message": "when: steps.three.output > 3 is false", "startedAt": None}},
    ),
    "a condition that is neither true nor false": Case(
        graph(compute("a", more="when: '[1]'")),
        "a=Failed",
        "Failed",
        message="when: [1]: gives [1], not true or false",
    ),
    "a condition that fails when it is evaluated": Case(
        graph(compute("a", to="$({'x': 1})"), compute("b", "a", more="when: steps.a.output.y > 1")),
        "a=Succeeded b=Failed",
        "Failed",
        message="step b failed: InvalidExpression: steps.a.output.y > 1: there is no 'y'",
    ),
    "a handler of failures": Case(
        graph(
            call("a", who="down"),
            call("b", "a"),
            call("handler", "a", more="triggerRule: AnyFailed"),
            call("always", "a", "b", more="triggerRule: AllDone"),
            compute("last", "handler", to="$(steps.a.phase) $(steps.handler.output)"),
            more="failFast: false\noutput: never",
        ),
        "a=Failed b=Omitted handler=Succeeded always=Succeeded last=Succeeded",
        "Failed",
        message="step a failed: ModelUnavailable: Model down failed",
        row={"b": {"message": "its trigger rule AllSucceeded can't hold any more: a Failed"}},
    ),
    "a handler of failures with failFast": Case(
        graph(
            call("a", who="down"),
            call("handler", "a", more="triggerRule: AnyFailed"),
            call("after", "handler"),
            call("always", "after", more="triggerRule: AllDone"),
        ),
        "a=Failed handler=Succeeded after=Omitted always=Succeeded",
        "Failed",
        row={"after": {"message": "not started, because step a failed"}},
    ),
    "a handler without a failure": Case(
        graph(
            call("a"),
            call("handler", "a", more="triggerRule: AnyFailed"),
            call("any", "a", "handler", more="triggerRule: AnySucceeded"),
        ),
        "a=Succeeded handler=Omitted any=Succeeded",
    ),
    "failFast": Case(
        graph(
            call("a", who="down"),
            "- {name: pause, wait: {duration: 8s}}",  # longer than `a` may wait for a slot
            call("after", "pause"),
        ),
        "a=Failed pause=Succeeded after=Omitted",
        "Failed",
    ),
    "failFast: false": Case(
        graph(
            call("a", who="down"),
            "- {name: pause, wait: {duration: 700ms}}",
            call("after", "pause"),
            more="failFast: false",
        ),
        "a=Failed pause=Succeeded after=Succeeded",
        "Failed",
    ),
    "an allowed failure": Case(
        graph(
            call("a", who="down", more="allowFailure: true"),
            compute("b", "a", to="$(steps.a.phase) $(has(steps.a.output))"),
            more="output: $(steps.b.output)",
        ),
        "a=Failed b=Succeeded",
        output="Failed false",
        degraded="step a: Model down failed, as its failurePercent asks for.",
    ),
    "an omission down a chain": Case(
        graph(call("a", who="down"), call("b", "a"), call("c", "b"), more="failFast: false"),
        "a=Failed b=Omitted c=Omitted",
        "Failed",
    ),
    "a wait": Case(
        graph("- {name: pause, wait: {duration: 300ms}}", compute("after", "pause")),
        "pause=Succeeded after=Succeeded",
    ),
    "waits side by side": Case(
        graph("- {name: pause, wait: {duration: 100ms}, forEach: {items: [1, 2, 3]}}"),
        "pause=Succeeded",
        row={"pause": {"items": {"total": 3, "succeeded": 3}}},
    ),
    "extract": Case(
        graph(
            call(
                "a", do="plan", more=PLAN + ", extract: {score: output.score, keys: size(output)}"
            ),
            compute("b", "a", more="when: steps.a.extract.score >= 2"),
            more="output: $(steps.a.extract)",
        ),
        "a=Succeeded b=Succeeded",
        output={"keys": 2, "score": 2},
        row={"a": {"extract": {"keys": 2, "score": 2}}},
    ),
    "extract of what is not there": Case(
        graph(call("a", more="extract: {score: output.score}")),
        "a=Failed",
        "Failed",
        message="InvalidExpression: extract: output.score: ",
    ),
    "retries until the limit": Case(
        graph(call("a", who="down", more="retryStrategy: {limit: 2, backoff: {duration: 50ms}}")),
        "a=Failed",
        "Failed",
        row={"a": {"attempts": 3, "costUSD": "0.00027", "reason": "ModelUnavailable"}},
    ),
    "no retries of other errors": Case(
        graph(call("a", who="down", more="retryStrategy: {limit: 5, onErrors: [Timeout]}")),
        "a=Failed",
        "Failed",
        row={"a": {"attempts": 1}},
    ),
    "a timeout": Case(
        graph(call("a", who="slow", more="timeout: 100ms")),
        "a=Failed",
        "Failed",
        message="step a failed: Timeout: The attempt took longer than 0.1 s.",
        row={"a": {"attempts": 1, "reason": "Timeout"}},
    ),
    "a step's deadline": Case(
        graph(
            call(
                "a",
                who="down",
                more="deadline: 1s, retryStrategy: {limit: 99, backoff: {duration: 1h}}",
            )
        ),
        "a=Failed",
        "Failed",
        message="step a failed: Timeout: the step's deadline of 1s passed",
    ),
    "a fan-out's deadline": Case(
        graph(
            call(
                "each",
                who="asleep",
                more="deadline: 1s, forEach: {items: [1, 2], tolerateFailures: 2}",
            )
        ),
        "each=Failed",
        "Failed",
        message="the step's deadline of 1s passed before 2 of 2 items had ended",
    ),
    "the workflow's deadline": Case(
        graph(call("a", who="asleep"), call("b", "a"), more="deadline: 1s"),
        "a=Cancelled b=Omitted",
        "Failed",
        message="the workflow's deadline of 1s passed",
        why="DeadlineExceeded",
    ),
    "the workflow's active deadline": Case(
        graph(call("a", who="asleep"), more="activeDeadline: 1s"),
        "a=Cancelled",
        "Failed",
        message="the workflow's activeDeadline of 1s passed",
        why="DeadlineExceeded",
    ),
    "an active deadline that only waits outlast": Case(
        graph("- {name: pause, wait: {duration: 2500ms}}", more="activeDeadline: 2s"),
        "pause=Succeeded",
    ),
    "an answer that never fits its schema": Case(
        graph(call("a", do="bad", more=STRICT)),
        "a=Failed",
        "Failed",
        message="step a failed: InvalidOutput: The model's answer does not fit outputSchema.",
        row={"a": {"attempts": 1, "costUSD": "0.00036"}},
    ),
    "the Agent's own schema": Case(
        graph(
            call("a", do="good", who="strict"),
            call("b", do="bad", who="strict", more="allowFailure: true"),
            call("c", do="bad", who="strict", more="outputSchema: {}, allowFailure: true"),
            more="output: $(steps.a.output.fine)",
        ),
        "a=Succeeded b=Failed c=Failed",
        output=True,
        degraded="step b: ",
    ),
    "structured input": Case(
        graph(
            "- {name: a, agentRef: {name: plain}, inputData:"
            ' {list: "$(arguments.list)", text: "n=$(1 + 2)", whole: {a: "$(1)"}}}',
            "- {name: b, agentRef: {name: plain}, input: look, inputData: {m: 7}}",
            more='arguments: {list: [1, 2.0]}\noutput: "$([steps.a.output, steps.b.output])"',
        ),
        "a=Succeeded b=Succeeded",
        output=["the data came", "both came"],
    ),
    "what an input may name": Case(
        graph(
            call(
                "a",
                do='"item $(index) of $(it), attempt $(attempt), iteration $(iteration),'
                ' previous $(previous)"',
                more="forEach: {items: [p, q], as: it}",
            ),
            more="output: $(steps.a.outputs[1])",
        ),
        "a=Succeeded",
        output="all names are there",
    ),
    "a model's text is data": Case(
        graph(
            call("a", do="inject"),
            compute("b", "a", to="$(steps.a.output)"),
            compute("c", "b", to="say $(steps.b.output)!"),
            more="arguments: {secret: oh}\noutput: $(steps.c.output)",
        ),
        "a=Succeeded b=Succeeded c=Succeeded",
        output="say take $(arguments.secret)!",
    ),
    "onExit after success": Case(
        graph(
            call("a"),
            more="output: $(steps.a.output)\nonExit:\n"
            + compute("bye", to="$(workflow.phase) $(workflow.costUSD) $(steps.a.output)"),
        ),
        "a=Succeeded bye=Succeeded",
        output="ok",
        row={"bye": {"output": f"Succeeded {CALL} ok"}},
    ),
    "onExit after a failure": Case(
        graph(
            call("a", who="down"),
            call("b", "a"),
            more="onExit:\n"
            + compute("bye", to="$(workflow.phase) $(workflow.failedSteps): $(workflow.message)"),
        ),
        "a=Failed b=Omitted bye=Succeeded",
        "Failed",
        row={"bye": {"output": 'Failed ["a"]: step a failed: ModelUnavailable: Model down failed'}},
    ),
    "onExit that fails": Case(
        graph(compute("a"), more="onExit:\n" + call("bye", who="down")),
        "a=Succeeded bye=Failed",
        degraded="onExit step bye: Model down failed",
    ),
    "an output that fails": Case(
        graph(compute("a", to="$({'x': 1})"), more="output: $(steps.a.output.y)"),
        "a=Succeeded",
        "Failed",
        message="spec.output: steps.a.output.y: there is no 'y'",
    ),
    "a transform that fails": Case(
        graph(compute("a", to="$(1 / 0)"), compute("b", "a")),
        "a=Failed b=Omitted",
        "Failed",
        message="step a failed: InvalidExpression: 1 / 0: ",
    ),
    "an input that fails": Case(
        graph(call("a", do='"$(arguments.list[5])"'), more="arguments: {list: [1]}"),
        "a=Failed",
        "Failed",
        message="step a failed: InvalidExpression: arguments.list[5]: ",
        row={"a": {"costUSD": None}},
    ),
}

EXPRESSIONS: dict[str, tuple[str, Any]] = {
    "an int": ("$(1 + 1)", 2),
    "a float": ("$(arguments.half)", 0.5),
    "a whole JSON number is an int": ("$(arguments.two + 1)", 3),
    "a bool": ("$(arguments.two == 2)", True),
    "null": ("$(arguments.nothing)", None),
    "a list": ("$([1, 'a', [true]])", [1, "a", [True]]),
    "a map": ("$(arguments.map)", {"k": ["v", {"m": 1}]}),
    "text": ("$(arguments.text)", "a\nb"),
    "text with blanks around is text": (" $(1)", " 1"),
    "compact JSON in text": (
        "m=$(arguments.map) l=$([1, 'é'])",
        'm={"k":["v",{"m":1}]} l=[1,"é"]',
    ),
    "null and bool in text": ("$(null) $(true) $(1.5)", "null true 1.5"),
    "an escape": ("$$(1) $(1) $$$(1) $ ) ( $x {{ y }} ${z}", "$(1) 1 $$(1) $ ) ( $x {{ y }} ${z}"),
    "parentheses and quotes within": ("$(')' + \"(\" + string((1 + 2) * 2))", ")(6"),
    "json": ("$(json('{\"a\": [1.0, 2.5]}').a)", [1, 2.5]),
    "sum": ("$(sum([1, 2, 3]))", 6),
    "sum of floats": ("$(sum([1, 2.5]))", 3.5),
    "sum of nothing": ("$(sum([]))", 0),
    "avg": ("$(avg([1, 2]))", 1.5),
    "sort": ("$(sort(['b', 'a', 'c']))", ["a", "b", "c"]),
    "distinct keeps the first": ("$(distinct([3, 1, 3, 2, 1]))", [3, 1, 2]),
    "distinct of objects": ("$(distinct([{'a': 1}, {'a': 1}]))", [{"a": 1}]),
    "optional access": ("$(arguments.?none.orValue('x'))", "x"),
    "optional access, deep": ("$(arguments.?map.?k[?0].orValue('x'))", "v"),
    "has": ("$(has(arguments.none) || has(arguments.text))", True),
    "macros": ("$([1, 2, 3].filter(n, n > 1).map(n, n * n))", [4, 9]),
    "strings": ("$('a-b'.split('-').join('+').upperAscii())", "A+B"),
    "regular expressions": ("$('abc'.matches('^a.c$'))", True),
    "a condition": ("$(arguments.two > 1 ? 'many' : 'one')", "many"),
    "the run": ("$(workflow.name) $(workflow.phase) $(workflow.costUSD)", "NAME Running 0"),
    "no failed steps": ("$(workflow.failedSteps)", []),
}
ARGUMENTS = """
arguments: {half: 0.5, two: 2.0, nothing: null, map: {k: [v, {m: 1}]}, text: "a\\nb"}
"""


def name_of(case: str) -> str:
    """A Workflow's name from a sentence."""
    return "".join(c if c.isalnum() else "-" for c in case.lower()).strip("-")


@pytest.fixture(scope="module")
def graphs(team: Cluster, _a_team: None) -> dict[str, Json]:
    """All of the graphs, run at once."""
    team.apply("".join(workflow(name_of(case), GRAPHS[case].spec) for case in GRAPHS))
    names = {case: name_of(case) for case in GRAPHS}
    found = team.all_finished(*names.values())
    return {case: found[name] for case, name in names.items()}


def fits(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, str) and isinstance(found, str):
        return wanted in found
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(fits(value, found.get(key)) for key, value in wanted.items())
    return bool(wanted == found)


@pytest.mark.parametrize("case", GRAPHS)
def test_a_workflow_ends_as_it_should(case: str, graphs: dict[str, Json]) -> None:
    wanted, found = GRAPHS[case], graphs[case]
    status = found["status"]
    assert " ".join(f"{name}={phase}" for name, phase in phases(found).items()) == wanted.steps
    assert status["phase"] == wanted.phase, status.get("message")
    assert wanted.message in status.get("message", "")
    assert status.get("output") == wanted.output
    for name, fields in wanted.row.items():
        row = rows(found)[name]
        assert {
            key: row.get(key) for key, value in fields.items() if not fits(value, row.get(key))
        } == {}
    assert condition(found, "Degraded") == ("True" if wanted.degraded else None)
    assert wanted.degraded in why(found, "Degraded")
    count = len(status["steps"])
    assert status["progress"] == f"{count}/{count}"


@pytest.mark.parametrize("case", GRAPHS)
def test_the_conditions_of_an_ended_workflow_follow_kstatus(
    case: str, graphs: dict[str, Json]
) -> None:
    wanted, found = GRAPHS[case], graphs[case]
    succeeded = wanted.phase == "Succeeded"
    assert condition(found, "Finished") == "True"
    assert reason(found, "Finished") == wanted.phase
    assert condition(found, "Succeeded") == str(succeeded)
    assert reason(found, "Succeeded") == (wanted.why or wanted.phase)
    assert condition(found, "Reconciling") == "False"
    assert condition(found, "Stalled") == str(not succeeded)
    assert wanted.message in why(found, "Succeeded")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert found["status"]["runID"] == found["metadata"]["uid"]
    assert found["status"]["startedAt"] <= found["status"]["finishedAt"]
    assert "finalizers" not in found["metadata"]
    ours = {"kubectl.kubernetes.io/last-applied-configuration", "corral.dev/created-by"}
    assert found["metadata"]["annotations"].keys() <= ours
    assert "labels" not in found["metadata"]


def test_expressions_keep_types_and_render_in_text(team: Cluster) -> None:
    steps = [
        compute(f"e{index}", to=source) for index, (source, _) in enumerate(EXPRESSIONS.values())
    ]
    names = ", ".join(f"'e{n}': steps.e{n}.output" for n in range(len(steps)))
    spec = graph(*steps, more=f'{ARGUMENTS}output: "$({{{names}}})"')
    created = team.post(workflow("expressions", spec))  # kubectl apply would drop the null
    assert created.returncode == 0, created.stderr
    found = team.finished("expressions")["status"]
    assert found["phase"] == "Succeeded", found.get("message")
    for index, (case, (_, value)) in enumerate(EXPRESSIONS.items()):
        got = found["output"][f"e{index}"]
        wanted = value.replace("NAME", "expressions") if isinstance(value, str) else value
        assert (type(got), got) == (type(wanted), wanted), case


def test_usage_and_cost_are_exact_and_the_unknown_is_absent(team: Cluster) -> None:
    team.apply(
        workflow(
            "priced", graph(call("a"), call("b", do="bad", more=STRICT + ", allowFailure: true"))
        )
        + workflow("unpriced", graph(call("a", who="free")))
        + workflow("part-priced", graph(call("a", who="free"), call("b")))
        + workflow("without-models", graph(compute("a")))
    )
    found = team.all_finished("priced", "unpriced", "part-priced", "without-models")
    assert found["priced"]["status"]["usage"] == {
        "requests": 5,
        "inputTokens": 250,
        "outputTokens": 100,
        "totalTokens": 350,
        "costUSD": "0.00045",
        "unpricedRequests": 0,
        "simulatedRequests": 5,
    }
    assert found["unpriced"]["status"]["usage"] == {
        "requests": 1,
        "inputTokens": 50,
        "outputTokens": 20,
        "totalTokens": 70,
        "unpricedRequests": 1,
        "simulatedRequests": 1,
    }
    assert "costUSD" not in rows(found["unpriced"])["a"]
    part = found["part-priced"]
    assert part["status"]["usage"]["costUSD"] == CALL
    assert part["status"]["usage"]["unpricedRequests"] == 1
    assert [row.get("costUSD") for row in part["status"]["steps"]] == [None, CALL]
    assert "usage" not in found["without-models"]["status"]


RULES = """
latency: 100ms
rules:
- {match: ^fail once, times: 1, fault: ServerError}
- {match: ^limit once, times: 1, fault: RateLimit}
- {match: ^quota, fault: Quota}
- {match: ^mend, times: 1, json: {wrong: 1}}
- {search: conversation, match: "mend me", json: {fine: true}}
- {match: ., reply: served}
faults: {retryAfterSeconds: 0}
"""


def test_a_served_model_is_retried_repaired_and_kept_within_limits(team: Cluster) -> None:
    retry = "retryStrategy: {limit: 2, backoff: {duration: 100ms}"
    eight = "items: [1, 2, 3, 4, 5, 6, 7, 8]"
    team.apply(model_server(RULES) + agent("talker", "served") + pool("talker"))
    manifests = {
        "retried": graph(
            call("a", do="fail once", who="talker", more=retry + ", onErrors: [ModelUnavailable]}")
        ),
        "limited": graph(call("a", do="limit once", who="talker")),
        "no-quota": graph(call("a", do="quota", who="talker", more=retry + "}")),
        "mended": graph(
            call("a", do="mend me", who="talker", more=STRICT), more="output: $(steps.a.output)"
        ),
        "three": graph(
            call(
                "a",
                do="three $(item)",
                who="talker",
                more=f"forEach: {{{eight}, maxConcurrent: 3}}",
            )
        ),
        "two": graph(
            call("a", do="two a$(item)", who="talker", more=f"forEach: {{{eight}}}"),
            call("b", do="two b", who="talker"),
            call("c", do="two c", who="talker"),
            more="parallelism: 2",
        ),
    }
    team.kubectl("rollout", "status", "deployment/model-server", "--timeout=60s")
    with team.watching("workflow", "three") as three, team.watching("workflow", "two") as two:
        team.apply("".join(workflow(name, spec) for name, spec in manifests.items()))
        found = team.all_finished(*manifests)
    asked = journal(team)

    def requests(name: str) -> list[Json]:
        return [one for one in asked if one["attemptID"].startswith(found[name]["metadata"]["uid"])]

    assert phases(found["retried"]) == {"a": "Succeeded"}
    assert rows(found["retried"])["a"]["attempts"] == 2
    assert [one["outcome"] for one in requests("retried")] == ["ServerError", "Answered"]
    assert len({one["effectKey"] for one in requests("retried")}) == 1
    assert phases(found["limited"]) == {"a": "Succeeded"}
    assert phases(found["no-quota"]) == {"a": "Failed"}
    assert rows(found["no-quota"])["a"]["attempts"] == 1
    assert rows(found["no-quota"])["a"]["reason"] == "Quota"
    assert found["mended"]["status"]["output"] == {"fine": True}
    assert rows(found["mended"])["a"]["attempts"] == 1
    assert found["mended"]["status"]["usage"]["requests"] == len(requests("mended")) == 2

    assert max(running(state) for state in three) == 3
    assert max(running(state) for state in two) == 2
    assert len(requests("three")) == 8
    assert len(requests("two")) == 10
    assert at_once(requests("three"), 0.1) <= 3
    assert at_once(requests("two"), 0.1) <= 2


def running(found: Json) -> int:
    """Attempts that run, by the rows."""
    return sum(
        row["items"]["running"] if "items" in row else row["phase"] == "Running"
        for row in found.get("status", {}).get("steps", [])
    )


def at_once(requests: list[Json], latency: float) -> int:
    """The most requests that were open at once, at least; all are open for ``latency``."""
    starts = sorted(seconds_of_day(one["time"]) for one in requests)
    return max(sum(start - latency < other <= start for other in starts) for start in starts)


def seconds_of_day(moment: str) -> float:
    hours, minutes, seconds = moment.split("T")[1].removesuffix("+00:00").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_a_suspended_workflow_starts_nothing_until_it_is_resumed(team: Cluster) -> None:
    long = "- {name: a, wait: {duration: 6s}}"
    team.apply(
        workflow("born-suspended", graph(call("a"), more="suspend: true"))
        + workflow("paused", graph(long, call("b", "a"), call("c", "b")))
    )
    team.wait("workflow", "paused", lambda w: phases(w).get("a") == "Waiting", "in a")
    team.patch("workflow", "paused", {"spec": {"suspend": True}})
    paused = team.wait(
        "workflow", "paused", lambda w: phases(w)["a"] == "Succeeded", "through with a"
    )
    paused = team.wait("workflow", "paused", lambda w: phase(w) == "Suspended", "Suspended")
    assert phases(paused) == {"a": "Succeeded", "b": "Pending", "c": "Pending"}
    assert condition(paused, "Suspended") == "True"
    assert paused["status"]["progress"] == "1/3"
    born = team.wait("workflow", "born-suspended", lambda w: phase(w) == "Suspended", "Suspended")
    assert phases(born) == {"a": "Pending"}
    assert "startedAt" not in born["status"]
    before = team.versions("workflows")
    time.sleep(1)
    after = team.versions("workflows")
    assert [after[f"Workflow/{n}"] == before[f"Workflow/{n}"] for n in ("paused", "born-suspended")]
    for name in ("paused", "born-suspended"):
        team.patch("workflow", name, {"spec": {"suspend": None}})
    for found in team.all_finished("paused", "born-suspended").values():
        assert phase(found) == "Succeeded"
        assert set(phases(found).values()) == {"Succeeded"}
        assert condition(found, "Suspended") == "False"


def phase(found: Json) -> str:
    return str(found.get("status", {}).get("phase", ""))


STOPPABLE = graph(
    call("a", who="asleep"),
    call("each", who="asleep", more="forEach: {items: [1, 2, 3], maxConcurrent: 2}"),
    "- {name: pause, wait: {duration: 1h}}",
    call("b", "a"),
    more="onExit:\n" + compute("bye", to="$(workflow.phase)"),
)


@pytest.mark.parametrize("shutdown", ["Stop", "Terminate"])
def test_a_shutdown_cancels_what_runs_and_omits_the_rest(team: Cluster, shutdown: str) -> None:
    name = f"shutdown-{shutdown.lower()}"
    team.apply(workflow(name, STOPPABLE))
    team.wait("workflow", name, lambda w: running(w) == 3, "running three attempts")
    team.patch("workflow", name, {"spec": {"shutdown": shutdown}})
    found = team.finished(name)
    assert phase(found) == "Stopped"
    assert reason(found, "Finished") == "Stopped"
    assert condition(found, "Succeeded") == "False"
    assert condition(found, "Stalled") == "False"
    assert f"shutdown: {shutdown}" in found["status"]["message"]
    exited = {"Stop": "Succeeded", "Terminate": "Omitted"}[shutdown]
    assert phases(found) == {
        "a": "Cancelled",
        "each": "Cancelled",
        "pause": "Cancelled",
        "b": "Omitted",
        "bye": exited,
    }
    if shutdown == "Stop":
        assert rows(found)["bye"]["output"] == "Stopped"
    items = rows(found)["each"]["items"]
    assert (items["cancelled"], items["omitted"]) == (2, 1)
    # What the cancelled calls used is booked when their worker has told it.
    found = team.wait(
        "workflow", name, lambda w: used(w) == 3, "charged for the calls that were cancelled"
    )
    assert found["status"]["usage"]["unpricedRequests"] == 3


def used(found: Json) -> int:
    return int(found["status"].get("usage", {}).get("requests", 0))


def test_a_workflow_can_be_shut_down_before_it_starts(team: Cluster) -> None:
    spec = graph(call("a"), more="onExit:\n" + compute("bye"))
    team.apply(
        workflow("stopped-early", "shutdown: Stop\n" + spec)
        + workflow("stopped-suspended", "suspend: true\nshutdown: Terminate\n" + spec)
    )
    found = team.all_finished("stopped-early", "stopped-suspended")
    assert phases(found["stopped-early"]) == {"a": "Omitted", "bye": "Succeeded"}
    assert phases(found["stopped-suspended"]) == {"a": "Omitted", "bye": "Omitted"}
    assert {phase(one) for one in found.values()} == {"Stopped"}


def test_kubectl_shows_workflows_agents_pools_and_models(
    team: Cluster, graphs: dict[str, Json]
) -> None:
    def table(*arguments: str) -> tuple[list[str], list[str]]:
        head, *lines = team.kubectl("get", *arguments).stdout.splitlines()
        return head.split(), lines[0].split()

    assert table("cwf", "a-chain")[0] == ["NAME", "PHASE", "PROGRESS", "COST", "AGE"]
    assert table("cwf", "a-chain")[1][:4] == ["a-chain", "Succeeded", "3/3", "0.00027"]
    head, line = table("cwf", "a-timeout", "-o", "wide")
    assert " ".join(head).endswith("TOKENS MESSAGE")
    assert line[1:3] == ["Failed", "1/1"]
    assert "step a failed: Timeout" in " ".join(line)
    assert table("cagent", "plain")[0] == ["NAME", "READY", "MODEL", "COST", "AGE"]
    assert table("cagent", "plain")[1][1:3] == ["True", "plain"]
    assert table("cpool", "plain")[0] == ["NAME", "READY", "BUSY", "QUEUED", "DESIRED", "AGE"]
    # Its numbers are written every few seconds, and what other tests made may have run just now.
    at_rest = ["1", "0", "0", "1"]
    wait_until(lambda: table("cpool", "plain")[1][1:5] == at_rest, "the pool rests, and says so")
    assert table("cmodel", "plain")[0] == ["NAME", "PROVIDER", "MODEL", "CIRCUIT", "AGE"]
    listed = team.kubectl("get", "corral", "--output=name").stdout
    assert {line.split(".")[0] for line in listed.split()} == {
        "workflow",
        "agent",
        "agentpool",
        "model",
    }


def test_events_tell_of_start_and_end(team: Cluster) -> None:
    time.sleep(7)  # Events of routine are rationed, one in 2 s after a burst; here are three
    team.apply(
        workflow("told", graph(call("a")))
        + workflow("warned", graph(call("a", who="slow", more="timeout: 100ms")))
    )
    team.all_finished("told", "warned")
    for name, last in (("told", "Succeeded"), ("warned", "Failed")):
        events = team.events(name, last)
        assert set(events) == {"Started", last}
        assert events["Started"]["message"] == "1 steps"
        assert events["Started"]["type"] == "Normal"
    assert team.events("told", "Succeeded")["Succeeded"]["message"] == f"cost {CALL} USD"
    warning = team.events("warned", "Failed")["Failed"]
    assert warning["type"] == "Warning"
    assert "step a failed: Timeout" in warning["message"]


def test_the_generation_is_observed_after_the_end_too(
    team: Cluster, graphs: dict[str, Json]
) -> None:
    before = team.get("workflow", "a-wait")
    team.patch("workflow", "a-wait", {"spec": {"parallelism": 7}})
    after = team.wait(
        "workflow",
        "a-wait",
        lambda w: w["status"]["observedGeneration"] == w["metadata"]["generation"],
        "observed",
    )
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    ignored = {"observedGeneration", "conditions"}
    assert {k: v for k, v in after["status"].items() if k not in ignored} == {
        k: v for k, v in before["status"].items() if k not in ignored
    }
    assert {c["observedGeneration"] for c in after["status"]["conditions"]} == {
        after["metadata"]["generation"]
    }


def test_an_idle_operator_writes_nothing_but_its_lease(
    team: Cluster, graphs: dict[str, Json]
) -> None:
    settled = 0.0
    before: dict[str, str] = {}
    deadline = time.monotonic() + 60  # usage is flushed late
    while settled < 20:
        now = team.versions(*OURS, "events")
        if now != before:
            before, since = now, time.monotonic()
        settled = time.monotonic() - since
        assert time.monotonic() < deadline, "still writing"
        time.sleep(0.5)

    def lease() -> str:
        where = ("--namespace=corral-system", "lease", "corral-operator")
        return team.kubectl("get", *where, "--output=jsonpath={.spec.renewTime}").stdout

    renewed = lease()
    time.sleep(4)
    assert lease() != renewed
