"""Wrong input: said where it is wrong, at once, by the cluster and by ``corral validate``."""

import json
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.cluster.harness import (
    OURS,
    Cluster,
    Json,
    agent,
    condition,
    manifest,
    model_server,
    phases,
    pool,
    reason,
    rows,
    simulated,
    why,
    workflow,
)

CALL = "agentRef: {name: fast}"
APPROVAL = "approval: {prompt: Go, approvers: [{kind: User, name: me}]}"


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a spec, where, and how it is said."""

    spec: str
    field: str
    message: str
    """The beginning."""
    reason: str = "InvalidSpec"


def steps(*fields: str, more: str = "") -> str:
    listed = "".join(f"- {{name: s{n}, {text}}}\n" for n, text in enumerate(fields))
    return f"steps:\n{listed}{more}"


WORKFLOWS = {
    "bad CEL in a condition": Wrong(
        steps("transform: x, when: 1 +"),
        "spec.steps[0].when",
        "step 's0': 1 +: column 4: Syntax error",
    ),
    "bad CEL in an input": Wrong(
        steps(f"{CALL}, input: a $(foo(1))"),
        "spec.steps[0].input",
        "step 's0': foo(1): column 4: undeclared reference to 'foo'",
    ),
    "an expression that never ends": Wrong(
        steps("transform: 'a $(1 + (2)'"),
        "spec.steps[0].transform",
        "step 's0': $(1 + (2)… is never closed",
    ),
    "an empty expression": Wrong(
        steps("transform: $()"), "spec.steps[0].transform", "step 's0': $() holds no expression"
    ),
    "an unknown variable": Wrong(
        steps("transform: $(topic)"),
        "spec.steps[0].transform",
        "step 's0': topic: column 1: undeclared reference to 'topic'",
    ),
    "an unknown step": Wrong(
        steps("transform: $(steps.other.output)"),
        "spec.steps[0].transform",
        "step 's0': steps.other.output: there is no step 'other'",
    ),
    "an unknown argument": Wrong(
        steps("transform: $(arguments.topik)", more="arguments: {topic: x}"),
        "spec.steps[0].transform",
        "step 's0': arguments.topik: there is no argument 'topik'",
    ),
    "an unknown member of the run": Wrong(
        steps("transform: $(workflow.cost)"),
        "spec.steps[0].transform",
        "step 's0': workflow.cost: workflow has costUSD, failedSteps, ",
    ),
    "an unknown member of a step": Wrong(
        steps("transform: x", "transform: $(steps.s0.result), dependsOn: [s0]"),
        "spec.steps[1].transform",
        "step 's1': steps.s0.result: a step has extract, items, output, outputs, phase, and no ",
    ),
    "a step that is no ancestor": Wrong(
        steps("transform: x", "transform: $(steps.s0.output)"),
        "spec.steps[1].transform",
        "step 's1': steps.s0.output: step 's0' may not have ended; add it to dependsOn",
    ),
    "a step that refers to itself": Wrong(
        steps("transform: $(steps.s0.output)"),
        "spec.steps[0].transform",
        "step 's0': steps.s0.output: step 's0' may not have ended",
    ),
    "the output of a fan-out": Wrong(
        steps(
            "transform: x, forEach: {items: [1]}", "transform: $(steps.s0.output), dependsOn: [s0]"
        ),
        "spec.steps[1].transform",
        "step 's1': steps.s0.output: step 's0' is a fan-out; it has outputs and items, no output",
    ),
    "an item outside its fan-out": Wrong(
        steps("transform: $(item)"),
        "spec.steps[0].transform",
        "step 's0': item: column 1: undeclared reference to 'item'",
    ),
    "an output that is not there": Wrong(
        steps("transform: x", more="output: $(steps.s1.output)"),
        "spec.output",
        "steps.s1.output: there is no step 's1'",
    ),
    "bad CEL in extract": Wrong(
        steps(f"{CALL}, extract: {{score: output..x}}"),
        "spec.steps[0].extract.score",
        "step 's0': output..x: column 8: Syntax error",
    ),
    "bad CEL deep in inputData": Wrong(
        steps(f"{CALL}, inputData: {{a: [{{b: $(c)}}]}}"),
        "spec.steps[0].inputData",
        "step 's0': c: column 1: undeclared reference to 'c'",
    ),
    "a list in pieces": Wrong(
        steps("transform: x, forEach: {itemsFrom: 'a $([1])'}"),
        "spec.steps[0].forEach.itemsFrom",
        "must be one expression that gives a list",
    ),
    "bad CEL in onExit": Wrong(
        steps("transform: x", more="onExit: [{name: bye, transform: $(workflow.fase)}]"),
        "spec.onExit[0].transform",
        "step 'bye': workflow.fase: workflow has ",
    ),
    "a name twice": Wrong(
        steps("transform: x", more="onExit: [{name: s0, transform: x}]"),
        "spec.onExit[0].name",
        "there is a step 's0' already",
    ),
    "a schema that is none": Wrong(
        steps(f"{CALL}, outputSchema: {{type: objekt}}"),
        "spec.steps[0].outputSchema",
        "is no JSON Schema: 'objekt' is not valid under any of the given schemas",
    ),
    "an input without an agent": Wrong(
        steps("transform: x, input: z"),
        "spec.steps[0].input",
        "only a step that calls an agent has it",
    ),
    "a longest wait that is shorter than the first": Wrong(
        steps(f"{CALL}, retryStrategy: {{limit: 1, backoff: {{duration: 2s, maxDuration: 1s}}}}"),
        "spec.steps[0].retryStrategy.backoff.maxDuration",
        "1s is shorter than duration, 2s",
    ),
    "a rule that can't hold": Wrong(
        steps("transform: x, triggerRule: AnyFailed"),
        "spec.steps[0].triggerRule",
        "AnyFailed never holds without dependsOn",
    ),
    "an approval for each item": Wrong(
        steps(f"{APPROVAL}, forEach: {{items: [1]}}"),
        "spec.steps[0].forEach",
        "an approval is asked for once; nest it in steps to ask for each item",
    ),
    "bad CEL in a prompt": Wrong(
        steps(f"{APPROVAL.replace('Go', '$(who)')}"),
        "spec.steps[0].approval.prompt",
        "step 's0': who: column 1: undeclared reference to 'who'",
    ),
    "a loop that waits": Wrong(
        steps("wait: {duration: 1s}, loop: {until: 'true', maxIterations: 2}"),
        "spec.steps[0].loop",
        "a step with wait has no loop",
    ),
    "bad CEL in the end of a loop": Wrong(
        steps(f"{CALL}, loop: {{until: outptu.fine, maxIterations: 2}}"),
        "spec.steps[0].loop.until",
        "step 's0': outptu.fine: column 7: undeclared reference to 'outptu.fine'",
    ),
    "bad CEL in what is best": Wrong(
        steps(
            f"{CALL}, loop: {{until: 'true', maxIterations: 2, onExhausted: AcceptBest, best: 1 +}}"
        ),
        "spec.steps[0].loop.best",
        "step 's0': 1 +: column 4: Syntax error",
    ),
    "an unknown step in nested steps": Wrong(
        steps("steps: [{name: a, transform: $(steps.b.output)}]"),
        "spec.steps[0].steps[0].transform",
        "step 'a': steps.b.output: there is no step 'b'",
    ),
    "a nested step from outside": Wrong(
        steps("steps: [{name: a, transform: x}]", "transform: $(steps.a.output), dependsOn: [s0]"),
        "spec.steps[1].transform",
        "step 's1': steps.a.output: there is no step 'a'",
    ),
    "an output that nested steps don't have": Wrong(
        steps("steps: [{name: a, transform: x}]", "transform: $(steps.s0.output), dependsOn: [s0]"),
        "spec.steps[1].transform",
        "step 's1': steps.s0.output: step 's0' says no output of its nested steps",
    ),
    "a memo of what costs nothing": Wrong(
        steps("transform: x, memoize: {key: k}"),
        "spec.steps[0].memoize",
        "only a step that calls an agent or a tool has it",
    ),
    "bad CEL in a memo's key": Wrong(
        steps(f"{CALL}, memoize: {{key: $(topic)}}"),
        "spec.steps[0].memoize.key",
        "step 's0': topic: column 1: undeclared reference to 'topic'",
    ),
    "retries of what can't fail otherwise": Wrong(
        steps("transform: x, retryStrategy: {limit: 1}"),
        "spec.steps[0].retryStrategy",
        "only a step that calls an agent, a tool or a workflow has it",
    ),
    "bad CEL for a tool": Wrong(
        steps("tool: {mcp: {url: 'http://t/mcp'}, name: t, arguments: {a: [$(b)]}}"),
        "spec.steps[0].tool.arguments",
        "step 's0': b: column 1: undeclared reference to 'b'",
    ),
    "bad CEL for a template": Wrong(
        steps("workflow: {templateRef: {name: t}, arguments: {a: $(b)}}"),
        "spec.steps[0].workflow.arguments",
        "step 's0': b: column 1: undeclared reference to 'b'",
    ),
    "a schema for a tool": Wrong(
        steps("tool: {mcp: {url: 'http://t/mcp'}, name: t}, outputSchema: {type: object}"),
        "spec.steps[0].outputSchema",
        "only a step that calls an agent has it",
    ),
}

OTHERS = {
    "a Model of an unknown provider": Wrong(
        manifest("Model", "unknown", "{provider: oracle-of-delphi, name: pythia}"),
        "spec.provider",
        "provider 'oracle-of-delphi' is not supported yet",
        "NotSupported",
    ),
    "a Model with a bad pattern": Wrong(
        simulated("pattern", "script: [{match: fine}, {match: '(', reply: x}]"),
        "spec.simulation.script[1].match",
        "is no regular expression: missing ), unterminated subpattern",
    ),
    "an Agent with a bad schema": Wrong(
        agent("schema", "fast", "outputSchema: {type: objekt}"),
        "spec.outputSchema",
        "is no JSON Schema: 'objekt' is not valid",
    ),
    "an Agent with tools": Wrong(
        agent("tools", "fast", "tools: [{name: t, agent: {name: other}}]"),
        "spec.tools[0].agent",
        "not supported yet",
        "NotSupported",
    ),
    "an Agent elsewhere": Wrong(
        manifest("Agent", "remote", "{type: Remote, a2a: {url: http://a}}"),
        "spec.a2a",
        "not supported yet",
        "NotSupported",
    ),
}


def name_of(case: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in case.lower())


def operator() -> list[tuple[str, int]]:
    """The operator's pods and how often they were restarted."""
    found = Cluster("corral-system").list("pods", "--selector=app.kubernetes.io/component=operator")
    return [
        (pod["metadata"]["uid"], status["restartCount"])
        for pod in found
        for status in pod["status"]["containerStatuses"]
    ]


@pytest.fixture(scope="module", autouse=True)
def _the_operator_stays_healthy() -> Iterator[None]:
    before = operator()
    yield
    assert operator() == before


@pytest.fixture(scope="module")
def wrong(team: Cluster) -> dict[str, Json]:
    """All of the wrong Workflows, and the other objects, once something was said of each."""
    team.apply(simulated("fast") + agent("fast", "fast"))
    team.apply("".join(workflow(name_of(case), one.spec) for case, one in WORKFLOWS.items()))
    team.apply("".join(one.spec for one in OTHERS.values()))
    for kind in ("workflow", "model", "agent"):
        names = [
            obj["metadata"]["name"] for obj in team.list(kind) if obj["metadata"]["name"] != "fast"
        ]
        team.kubectl("wait", "--for=condition=Stalled", "--timeout=30s", kind, *names)
    found = {
        f"{obj['kind']}/{obj['metadata']['name']}": obj
        for kind in ("workflow", "model", "agent")
        for obj in team.list(kind)
    }
    before = team.versions(*OURS)
    time.sleep(5)
    assert team.versions(*OURS) == before, "something is still written"
    return found


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def said_within(found: Json, kind: str) -> float:
    """Seconds from the making of an object to a condition."""
    (one,) = [c for c in found["status"]["conditions"] if c["type"] == kind]
    return seconds_between(found["metadata"]["creationTimestamp"], one["lastTransitionTime"])


@pytest.mark.parametrize("case", WORKFLOWS)
def test_a_wrong_workflow_is_stalled_at_once_and_says_where(
    case: str, wrong: dict[str, Json]
) -> None:
    expected, found = WORKFLOWS[case], wrong[f"Workflow/{name_of(case)}"]
    assert why(found, "Stalled").startswith(
        f"{expected.reason}: {expected.field}: {expected.message}"
    )
    assert said_within(found, "Stalled") <= 2
    assert found["status"]["message"].startswith(f"{expected.field}: {expected.message}")
    assert found["status"]["phase"] == "Pending"
    assert "startedAt" not in found["status"]
    assert condition(found, "Finished") == "False"
    assert condition(found, "Reconciling") == "False"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    declared = [*found["spec"].get("steps", []), *found["spec"].get("onExit", [])]
    assert [(row["name"], row["phase"]) for row in found["status"].get("steps", [])] == [
        (step["name"], "Pending") for step in declared
    ]


@pytest.mark.parametrize("case", OTHERS)
def test_a_wrong_model_or_agent_is_stalled_at_once_and_says_where(
    case: str, wrong: dict[str, Json]
) -> None:
    expected = OTHERS[case]
    name = expected.spec.split("name: ")[1].split("}")[0]
    (found,) = [obj for key, obj in wrong.items() if key.split("/")[1] == name]
    said = f"{expected.reason}: {expected.field}: {expected.message}"
    assert why(found, "Stalled").startswith(said)
    assert why(found, "Ready").startswith(said)
    assert condition(found, "Ready") == "False"
    assert said_within(found, "Stalled") <= 2


@pytest.mark.parametrize("case", [*WORKFLOWS, *OTHERS])
def test_corral_validate_says_the_same(case: str, tmp_path: Path) -> None:
    expected = (WORKFLOWS | OTHERS)[case]
    text = workflow("w", expected.spec) if case in WORKFLOWS else expected.spec
    (tmp_path / "wrong.yaml").write_text(text)
    words = [str(Path(sys.executable).parent / "corral"), "validate", "-o", "json", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [one for one in json.loads(done.stdout)["findings"] if one["severity"] == "error"]
    first = found[0]
    assert first["field"] == expected.field
    assert first["message"].startswith(expected.message)


def test_what_is_mended_runs(team: Cluster, wrong: dict[str, Json]) -> None:
    names = [name_of(case) for case in WORKFLOWS]
    team.apply("".join(workflow(name, steps("transform: x")) for name in names))
    for found in team.all_finished(*names).values():
        assert found["status"]["phase"] == "Succeeded"
        assert condition(found, "Stalled") == "False"
        assert phases(found) == {"s0": "Succeeded"}
    team.apply(
        agent("schema", "fast", "outputSchema: {type: object}")
        + agent("tools", "fast")
        + simulated("limited")
    )
    for kind, name in (("agent", "schema"), ("agent", "tools"), ("model", "limited")):
        team.wait(kind, name, lambda o: condition(o, "Ready") == "True", "ready")


def test_what_is_missing_is_named_waited_for_and_found(cluster: Cluster) -> None:
    two = "steps: [{name: a, transform: x}, {name: b, agentRef: {name: %s}, input: go}]"
    cluster.apply(
        workflow("no-agent", two % "nobody")
        + agent("mindless", "nothing")
        + workflow("no-model", two % "mindless")
        + pool("nobody")
    )
    missing = {
        "no-agent": "AgentNotFound: spec.steps[1].agentRef: there is no Agent 'nobody'",
        "no-model": "ModelNotFound: spec.steps[1].agentRef: Agent 'mindless' is not ready:"
        " spec.modelRef: there is no Model 'nothing'",
    }
    for name, message in missing.items():
        found = cluster.wait(
            "workflow", name, lambda w, text=message: why(w, "Reconciling") == text, message, 15
        )
        assert said_within(found, "Reconciling") <= 10
        assert condition(found, "Reconciling") == "True"
        assert condition(found, "Stalled") == "False"
        assert found["status"]["phase"] == "Pending"
        assert phases(found) == {"a": "Pending", "b": "Pending"}
        expected = message.split(":")[0]
        assert set(cluster.events(name, expected)) == {expected}
    mindless = cluster.get("agent", "mindless")
    assert why(mindless, "Ready") == "ModelNotFound: spec.modelRef: there is no Model 'nothing'"
    assert condition(mindless, "Reconciling") == "True"
    assert "there is no Agent 'nobody'" in why(cluster.get("agentpool", "nobody"), "Ready")
    before = cluster.versions(*OURS)
    time.sleep(5)
    assert cluster.versions(*OURS) == before
    cluster.apply(simulated("nothing") + agent("nobody", "nothing"))
    for found in cluster.all_finished("no-agent", "no-model").values():
        assert found["status"]["phase"] == "Succeeded"


def test_an_agent_that_goes_away_is_waited_for_while_the_rest_goes_on(cluster: Cluster) -> None:
    spec = """
        steps:
        - {name: pause, wait: {duration: 3s}}
        - {name: a, dependsOn: [pause], agentRef: {name: here}, input: go}
    """
    cluster.apply(simulated("fast") + agent("here", "fast") + workflow("waits", spec))
    cluster.wait("workflow", "waits", lambda w: phases(w).get("pause") == "Waiting", "started")
    cluster.kubectl("delete", "agent", "here")
    found = cluster.wait(
        "workflow",
        "waits",
        lambda w: reason(w, "Reconciling") == "AgentNotFound" and phases(w)["a"] == "Queued",
        "waiting for its agent",
        15,
    )
    assert found["status"]["phase"] == "Running"
    cluster.apply(agent("here", "fast"))
    assert cluster.finished("waits")["status"]["phase"] == "Succeeded"


def noise(size: int) -> str:
    """Text that does not compress."""
    return random.Random(1).randbytes(size // 2).hex()


RULES = f"rules:\n- {{match: ^huge, reply: {noise(300_000)}}}\n- {{match: ., reply: small}}\n"


def test_what_is_too_large_is_refused_clearly(cluster: Cluster) -> None:
    text = noise(1_600_000)
    refused = cluster.post(
        workflow("huge", f"steps: [{{name: a, transform: x}}]\narguments: {{t: {text}}}")
    )
    assert refused.returncode != 0
    assert "too large" in refused.stderr.lower()

    cluster.apply(agent("talker", "served") + pool("talker"))
    created = cluster.post(model_server(RULES))
    assert created.returncode == 0, created.stderr
    cluster.kubectl("rollout", "status", "deployment/model-server", "--timeout=60s")
    each = f"forEach: {{items: {list(range(6))}}}"
    made = {
        "long-transform": (
            noise(900_000),
            "- {name: a, transform: '$(arguments.t)$(arguments.t)$(arguments.t)$(arguments.t)"
            "$(arguments.t)', allowFailure: true}\n- {name: b, transform: x}",
        ),
        "long-answer": (
            "",
            "- {name: a, agentRef: {name: talker}, input: huge}\n"
            "- {name: b, agentRef: {name: talker}, input: not so}",
        ),
        "long-items": (
            noise(200_000),
            f"- {{name: each, transform: $(arguments.t + string(item)), {each}}}",
        ),
        "long-state": (
            noise(1_400_000),
            "- {name: each, transform: '$(arguments.t.substring(item * 90, item * 90 + 90))',"
            " forEach: {itemsFrom: $(arguments.numbers), maxItems: 2000}}",
        ),
    }
    for name, (argument, listed) in made.items():
        numbers = list(range(2000)) if name == "long-state" else []
        arguments = f"arguments: {{t: '{argument}', numbers: {numbers}}}"
        created = cluster.post(workflow(name, f"{arguments}\nsteps:\n{textwrap.dedent(listed)}"))
        assert created.returncode == 0, created.stderr
    found = cluster.all_finished(*made)
    long = found["long-transform"]
    assert phases(long) == {"a": "Failed", "b": "Succeeded"}
    assert rows(long)["a"]["reason"] == "InvalidOutput"
    assert "4194304" in rows(long)["a"]["message"]
    for name in ("long-answer", "long-items"):
        assert found[name]["status"]["phase"] == "Succeeded", found[name]["status"].get("message")
        assert len(json.dumps(found[name]["status"])) < 100_000
    status = found["long-state"]["status"]
    assert status["phase"] == "Failed"
    assert reason(found["long-state"], "Succeeded") == "TooLarge"
    assert status["message"].startswith("the run's state of ")
    assert status["message"].endswith("; use fewer items")
    assert len(json.dumps(status)) < 100_000
    before = cluster.versions("workflows")
    time.sleep(5)
    assert cluster.versions("workflows") == before
