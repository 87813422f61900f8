"""What the API server refuses: the CRDs' rules and the admission policies, tried one by one."""

import json
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = sorted((Path(__file__).parents[1] / "unit/api/examples").glob("*.yaml"))
OPERATOR = "system:serviceaccount:corral-system:corral-operator"
OTHER_ACCOUNT = "system:serviceaccount:default:corral-operator"
STEP = "{name: a, transform: x}"
GRAPH = "dependsOn must name steps that are listed before; it does not in: "
LONG = "x" * 70


def manifest(kind: str, name: str, spec: str) -> str:
    head = f"apiVersion: corral.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip(), "  ") + "\n"


def workflow(spec: str, name: str = "wf") -> str:
    return manifest("Workflow", name, spec)


def steps(*items: str) -> str:
    return workflow("steps:\n" + "".join(f"- {item}\n" for item in items))


def step(fields: str) -> str:
    return steps(f"{{name: a, transform: x, {fields}}}")


def nested(*items: str) -> str:
    return steps(f"{{name: outer, steps: [{', '.join(items)}]}}")


def model(spec: str, name: str = "m") -> str:
    return manifest("Model", name, spec)


def agent(spec: str, name: str = "a") -> str:
    return manifest("Agent", name, spec)


def declarative(fields: str) -> str:
    return agent("modelRef: {name: m}\n" + textwrap.dedent(fields))


def pool(fields: str = "", name: str = "p") -> str:
    return manifest("AgentPool", name, "agentRef: {name: a}\n" + textwrap.dedent(fields))


def template(spec: str, name: str = "t") -> str:
    return manifest("WorkflowTemplate", name, spec)


def cron(fields: str = "", schedule: str = "@daily", name: str = "c", work: str = "") -> str:
    spec = f"schedule: '{schedule}'\nworkflowSpec: {work or f'{{steps: [{STEP}]}}'}\n{fields}"
    return manifest("CronWorkflow", name, spec)


REFUSED: dict[str, tuple[str, str]] = {
    # graphs
    "a step that depends on itself": (
        steps("{name: a, dependsOn: [a], transform: x}"),
        GRAPH + "a",
    ),
    "a cycle of two steps": (
        steps(
            "{name: a, dependsOn: [b], transform: x}",
            "{name: b, dependsOn: [a], transform: x}",
        ),
        GRAPH + "a",
    ),
    "a dependency on a step that isn't there": (
        steps("{name: a, dependsOn: [nobody], transform: x}"),
        GRAPH + "a",
    ),
    "a dependency on a later step": (
        steps("{name: a, dependsOn: [b], transform: x}", "{name: b, transform: x}"),
        GRAPH + "a",
    ),
    "two steps of one name": (steps(STEP, STEP), "key a already exists"),
    "nested steps in a cycle": (
        nested("{name: a, dependsOn: [b], transform: x}", "{name: b, transform: x}"),
        GRAPH + "a",
    ),
    "a nested step that depends on an outer one": (
        steps(STEP, "{name: b, steps: [{name: c, dependsOn: [a], transform: x}]}"),
        GRAPH + "c",
    ),
    "two nested steps of one name": (nested(STEP, STEP), "key a already exists"),
    "an onExit step that depends on a step of the graph": (
        workflow(f"steps: [{STEP}]\nonExit: [{{name: b, dependsOn: [a], transform: x}}]"),
        GRAPH + "b",
    ),
    "a workflow without steps": (workflow("steps: []"), "should have at least 1 items"),
    # what a step is
    "a step of two kinds": (
        steps("{name: a, agentRef: {name: x}, wait: {duration: 1s}}"),
        "a step is exactly one of agentRef, agentSelector, approval",
    ),
    "a step of no kind": (steps("{name: a}"), "a step is exactly one of"),
    "a nested step of no kind": (nested("{name: b}"), "a nested step is exactly one of"),
    "a nested step of two kinds": (
        nested("{name: b, transform: x, wait: {duration: 1s}}"),
        "a nested step is exactly one of",
    ),
    "an onExit step of no kind": (
        workflow(f"steps: [{STEP}]\nonExit: [{{name: b}}]"),
        "a step is exactly one of",
    ),
    "steps in nested steps": (
        nested(f"{{name: b, steps: [{STEP}]}}"),
        'unknown field "spec.steps[0].steps[0].steps"',
    ),
    "an output of a step without nested steps": (
        step("output: $(x)"),
        "output is for a step with nested steps",
    ),
    "a workflow of neither steps nor a template": (
        workflow("failFast: true"),
        "a workflow needs exactly one of steps, workflowTemplateRef",
    ),
    "a workflow of both steps and a template": (
        workflow(f"steps: [{STEP}]\nworkflowTemplateRef: {{name: t}}"),
        "a workflow needs exactly one of steps, workflowTemplateRef",
    ),
    "forEach over nothing": (step("forEach: {as: x}"), "must validate one and only one schema"),
    "forEach over two lists": (
        step("forEach: {items: [1], itemsFrom: $(x)}"),
        "must validate one and only one schema",
    ),
    "forEach whose variable hides a name": (
        step("forEach: {items: [1], as: steps}"),
        "must not be a word of CEL's",
    ),
    "forEach whose variable is a reserved word": (
        step("forEach: {items: [1], as: loop}"),
        "must not be a word of CEL's",
    ),
    "a loop that takes the best without a measure": (
        step("loop: {until: done, maxIterations: 2, onExhausted: AcceptBest}"),
        "onExhausted: AcceptBest needs best",
    ),
    "an approval that nobody may give": (
        steps("{name: a, approval: {prompt: ok, approvers: []}}"),
        "should have at least 1 items",
    ),
    # names
    "a step whose name is a keyword": (
        steps("{name: in, transform: x}"),
        "must not be a keyword: in, true, false, null",
    ),
    "a step whose name is a YAML boolean": (
        steps('{name: "true", transform: x}'),
        "must not be a keyword",
    ),
    "a step whose name is a subtraction": (
        steps("{name: my-step, transform: x}"),
        "spec.steps[0].name in body should match",
    ),
    "a step whose name is too long": (steps(f"{{name: {LONG}, transform: x}}"), "may not be more"),
    "a workflow whose name has a dot": (
        workflow(f"steps: [{STEP}]", name="a.b"),
        "metadata.name must have at most 63 characters and no dot",
    ),
    "a workflow whose name is too long": (
        workflow(f"steps: [{STEP}]", name=LONG),
        "metadata.name must have at most 63 characters and no dot",
    ),
    "a model whose name has a dot": (
        model("provider: simulated", name="a.b"),
        "metadata.name must have at most 63 characters and no dot",
    ),
    "a pool whose name leaves no room for its workers'": (
        pool(name="x" * 53),
        "metadata.name must have at most 52 characters and no dot",
    ),
    "an agent whose name has a dot": (
        agent("modelRef: {name: m}", name="a.b"),
        "metadata.name must have at most 63 characters and no dot",
    ),
    "a reference to a name that can't be": (
        declarative("tools: [{name: t, agent: {name: A_b}}]"),
        "spec.tools[0].agent.name in body should match",
    ),
    # numbers, durations, money
    "a negative number of retries": (
        step("retryStrategy: {limit: -1}"),
        "spec.steps[0].retryStrategy.limit in body should be greater than or equal to 0",
    ),
    "no parallelism": (
        workflow(f"steps: [{STEP}]\nparallelism: 0"),
        "spec.parallelism in body should be greater than or equal to 1",
    ),
    "no iterations": (
        step("loop: {until: done, maxIterations: 0}"),
        "maxIterations in body should be greater than or equal to 1",
    ),
    "a zero timeout": (step("timeout: 0s"), "must be longer than zero"),
    "a zero deadline in many words": (
        workflow(f"steps: [{STEP}]\ndeadline: 0h0m0s"),
        "must be longer than zero",
    ),
    "a negative duration": (step("timeout: -5s"), "spec.steps[0].timeout in body should match"),
    "a duration without a unit": (step('timeout: "5"'), "spec.steps[0].timeout in body should"),
    "a duration with a fraction": (step("timeout: 1.5h"), "spec.steps[0].timeout in body should"),
    "a duration that is a number": (step("timeout: 5"), "must be of type string"),
    "tolerance below zero": (
        step("forEach: {items: [1], tolerateFailures: -1}"),
        "should be greater than or equal to 0",
    ),
    "tolerance of more than all": (
        step("forEach: {items: [1], tolerateFailures: 101%}"),
        "tolerateFailures in body should match",
    ),
    "a budget without a limit": (
        workflow(f"steps: [{STEP}]\nbudget: {{onExceeded: Fail}}"),
        "a budget needs maxCostUSD, maxTokens or both",
    ),
    "a budget of nothing": (
        workflow(f'steps: [{STEP}]\nbudget: {{maxCostUSD: "0.00"}}'),
        "must be more than zero",
    ),
    "a negative budget": (
        workflow(f'steps: [{STEP}]\nbudget: {{maxCostUSD: "-1"}}'),
        "maxCostUSD in body should match",
    ),
    "money in scientific notation": (
        workflow(f'steps: [{STEP}]\nbudget: {{maxCostUSD: "1e3"}}'),
        "maxCostUSD in body should match",
    ),
    "money with a leading zero": (
        workflow(f'steps: [{STEP}]\nbudget: {{maxCostUSD: "01"}}'),
        "maxCostUSD in body should match",
    ),
    "money with seven decimals": (
        workflow(f'steps: [{STEP}]\nbudget: {{maxCostUSD: "0.0000001"}}'),
        "maxCostUSD in body should match",
    ),
    "money that is a float": (
        workflow(f"steps: [{STEP}]\nbudget: {{maxCostUSD: 2.0}}"),
        "must be of type string",
    ),
    "a warning above the budget": (
        workflow(f"steps: [{STEP}]\nbudget: {{maxTokens: 5, warnAt: [101]}}"),
        "should be less than or equal to 100",
    ),
    # words
    "an error class that there isn't": (
        step("retryStrategy: {limit: 1, onErrors: [Oops]}"),
        'Unsupported value: "Oops"',
    ),
    "a trigger rule that there isn't": (step("triggerRule: Never"), 'Unsupported value: "Never"'),
    "an unknown field of a workflow": (
        workflow(f"steps: [{STEP}]\nparalellism: 3"),
        'unknown field "spec.paralellism"',
    ),
    "an unknown field of a step": (
        step("agentref: {name: x}"),
        'unknown field "spec.steps[0].agentref"',
    ),
    "a secret for workers": (
        pool("template: {env: [{name: K, valueFrom: {secretKeyRef: {name: s, key: k}}}]}"),
        'unknown field "spec.template.env[0].valueFrom"',
    ),
    "a service account for workers": (
        pool("template: {serviceAccountName: root}"),
        'unknown field "spec.template.serviceAccountName"',
    ),
    # pools
    "a pool with more least than most workers": (
        pool("autoscaling: {minReplicas: 5, maxReplicas: 2}"),
        "minReplicas must not be more than maxReplicas",
    ),
    "a pool that can't replace a worker": (
        pool("strategy: {maxSurge: 0, maxUnavailable: 0}"),
        "maxSurge and maxUnavailable must not both be 0",
    ),
    "a pool of fewer than no workers": (
        pool("replicas: -1"),
        "spec.replicas in body should be greater than or equal to 0",
    ),
    "workers with a quantity that is none": (
        pool("template: {resources: {requests: {memory: lots}}}"),
        "memory in body should match",
    ),
    # agents
    "a declarative agent without a model": (
        agent("instructions: Think."),
        "modelRef is required with type: Declarative",
    ),
    "a remote agent without an address": (
        agent("type: Remote"),
        "a2a is required with type: Remote, and only allowed there",
    ),
    "an address of an agent that isn't remote": (
        declarative("a2a: {url: 'http://x'}"),
        "a2a is required with type: Remote, and only allowed there",
    ),
    "a container agent without an image": (
        agent("type: Container"),
        "image is required with type: Container, and only allowed there",
    ),
    "a tool of two kinds": (
        declarative("tools: [{name: t, agent: {name: b}, mcp: {url: 'http://x'}}]"),
        "a tool is exactly one of mcp, agent",
    ),
    "a tool of no kind": (
        declarative("tools: [{name: t}]"),
        "a tool is exactly one of mcp, agent",
    ),
    "an agent's budget without a limit": (
        declarative("budget: {period: Daily}"),
        "a budget needs maxCostUSD, maxTokens or both",
    ),
    "a budget that falls back on nothing": (
        declarative("budget: {period: Daily, maxTokens: 5, onExceeded: Fallback}"),
        "budget.onExceeded: Fallback needs fallbackModels",
    ),
    "a temperature that is a float": (
        declarative("modelSettings: {temperature: 0.2}"),
        "must be of type string",
    ),
    # models
    "a simulation of a real model": (
        model("provider: openai\nname: gpt-5-mini\nsimulation: {reply: hi}"),
        "simulation needs provider: simulated",
    ),
    "a real model without a name": (
        model("provider: openai"),
        "name, the model's name at its provider, is required",
    ),
    "failures of more than all calls": (
        model("provider: simulated\nsimulation: {failurePercent: 101}"),
        "should be less than or equal to 100",
    ),
    "a base URL that is none": (
        model("provider: openai\nname: x\nbaseURL: localhost:80"),
        "spec.baseURL in body should match",
    ),
    # templates
    "a template without steps": (template("parameters: {type: object}"), "spec.steps: Required"),
    "a template of a template": (
        template("workflowTemplateRef: {name: u}"),
        'unknown field "spec.workflowTemplateRef"',
    ),
    "a template with arguments": (
        template(f"steps: [{STEP}]\narguments: {{a: 1}}"),
        'unknown field "spec.arguments"',
    ),
    "a template that is suspended": (
        template(f"steps: [{STEP}]\nsuspend: true"),
        'unknown field "spec.suspend"',
    ),
    "a template in a cycle": (
        template("steps: [{name: a, dependsOn: [a], transform: x}]"),
        GRAPH + "a",
    ),
    "a template's step of no kind": (template("steps: [{name: a}]"), "a step is exactly one of"),
    # crons
    "a cron without a schedule": (cron(schedule=""), "spec.schedule in body should"),
    "a cron of four fields": (cron(schedule="0 0 * *"), "spec.schedule in body should match"),
    "a cron of six fields": (cron(schedule="0 0 0 * * *"), "spec.schedule in body should match"),
    "a cron by an interval": (cron(schedule="@every 1h"), "spec.schedule in body should match"),
    "a zone in the schedule": (cron(schedule="TZ=UTC 0 0 * * *"), "should match"),
    "a zone that is a path": (cron("timeZone: ../x"), "spec.timeZone in body should match"),
    "a policy that there isn't": (
        cron("concurrencyPolicy: Queue"),
        'Unsupported value: "Queue"',
    ),
    "a starting deadline of nothing": (cron("startingDeadline: 0s"), "must be longer than zero"),
    "a history of fewer than none": (
        cron("historyLimits: {failed: -1}"),
        "should be greater than or equal to 0",
    ),
    "a cron with neither steps nor a template": (
        cron(work="{parallelism: 3}"),
        "a workflow needs exactly one of steps, workflowTemplateRef",
    ),
    "a cron of a graph in a cycle": (
        cron(work="{steps: [{name: a, dependsOn: [a], transform: x}]}"),
        GRAPH + "a",
    ),
    "a cron of workflows that are stopped": (
        cron(work=f"{{shutdown: Stop, steps: [{STEP}]}}"),
        'unknown field "spec.workflowSpec.shutdown"',
    ),
    "a cron of 53 characters": (
        cron(name="x" * 53),
        "metadata.name must have at most 52 characters",
    ),
    # lists
    "a list from a ConfigMap and itself": (
        step("forEach: {items: [1], configMapKeyRef: {name: a, key: b}}"),
        "must validate one and only one schema (oneOf)",
    ),
}

ACCEPTED: dict[str, str] = {
    "a graph that is listed in order": steps(
        STEP,
        "{name: b, dependsOn: [a], transform: x}",
        "{name: c, dependsOn: [a, b], transform: x}",
    ),
    "nested steps with the names of outer ones": steps(
        STEP, f"{{name: b, dependsOn: [a], steps: [{STEP}], output: $(steps.a.output)}}"
    ),
    "a step called like a reserved word, which may follow a dot": steps(
        "{name: package, transform: x}"
    ),
    "a workflow of 63 characters": workflow(f"steps: [{STEP}]", name="x" * 63),
    "the shortest durations and the smallest money": workflow(
        f'steps: [{STEP}]\ndeadline: 1ms\nbudget: {{maxCostUSD: "0.000001"}}'
    ),
    "durations of several units": step("timeout: 1h30m10s500ms"),
    "tolerance as a number, and of everything": steps(
        "{name: a, transform: x, forEach: {items: [1], tolerateFailures: 3}}",
        "{name: b, transform: x, forEach: {items: [], tolerateFailures: 100%}}",
    ),
    "a simulated model of which nothing else is said": model("provider: simulated"),
    "a simulation without latency": model("provider: simulated\nsimulation: {latency: 0s}"),
    "free tokens": model(
        "provider: openai\nname: x\nprice: {inputPerMillionUSD: '0', outputPerMillionUSD: '0'}"
    ),
    "a pool of no workers": pool("replicas: 0"),
    "a pool whose least is its most": pool("autoscaling: {minReplicas: 2, maxReplicas: 2}"),
    "whole CPUs as a number": pool("template: {resources: {limits: {cpu: 2, memory: 1.5Gi}}}"),
    "an agent of 63 characters": agent("modelRef: {name: m}", name="x" * 63),
    "a template with parameters": template(
        f"parameters: {{type: object, properties: {{n: {{default: 3}}}}}}\nsteps: [{STEP}]"
    ),
    "a cron that runs a template": cron(
        work="{workflowTemplateRef: {name: t}, arguments: {n: 3}}", name="x" * 52
    ),
    "a cron in a zone": cron(
        "timeZone: America/Argentina/Buenos_Aires", schedule="*/5 8-17 * JAN,FEB MON-FRI"
    ),
    "a list from a ConfigMap": step("forEach: {configMapKeyRef: {name: a, key: b.jsonl}}"),
    "a retry": workflow(f"steps: [{STEP}]\nretryOf: {{name: before}}"),
}


def create(cluster: Any, text: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run(cluster, "create", "-f", "-", input=text, **options)


def run(cluster: Any, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    result: subprocess.CompletedProcess[str] = cluster.kubectl(
        "-n", cluster.namespace, *arguments, **options
    )
    return result


def get(cluster: Any, what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(cluster, "get", what, "-o", "json").stdout)
    return found


def patch(cluster: Any, what: str, change: dict[str, Any], **options: Any) -> tuple[int, str]:
    result = run(
        cluster, "patch", what, "--type=merge", "-p", json.dumps(change), check=False, **options
    )
    return result.returncode, result.stderr


def write_status(cluster: Any, what: str, status: dict[str, Any], as_user: str | None) -> str:
    """The message if it was refused, else nothing. The operator may write at the same time."""
    for _ in range(10):
        found = {**get(cluster, what), "status": status}
        result = run(
            cluster,
            *("replace", "--subresource=status", "-f", "-"),
            input=json.dumps(found),
            check=False,
            as_user=as_user,
        )
        if result.returncode == 0:
            return ""
        if "the object has been modified" not in result.stderr:
            return result.stderr
    raise AssertionError("never without a conflict")


@pytest.fixture
def policies(cluster: Any) -> None:
    """The API server reads policies a moment after they were applied."""
    lie = yaml.safe_load(steps(STEP))
    lie["metadata"]["annotations"] = {"corral.dev/created-by": "somebody else"}
    end = time.monotonic() + 30
    while time.monotonic() < end:
        arguments = ("create", "--dry-run=server", "-f", "-")
        if run(cluster, *arguments, input=json.dumps(lie), check=False).returncode:
            return
        time.sleep(0.2)
    raise AssertionError("no admission policy in force")


@pytest.fixture
def started(cluster: Any, policies: None) -> str:
    """A Workflow that the operator has started, and that goes on for longer than any test."""
    waits = "steps: [{name: a, wait: {duration: 1h}}]\nparallelism: 3"
    create(cluster, workflow(waits, name="started"))
    cluster.wait(
        "workflow", "started", lambda w: bool(w.get("status", {}).get("startedAt")), "started"
    )
    return "workflow/started"


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(cluster: Any, what: str) -> None:
    text, message = REFUSED[what]
    result = create(cluster, text, check=False)
    assert result.returncode != 0, "accepted"
    assert message in result.stderr


@pytest.mark.parametrize("what", ACCEPTED)
def test_accepts(cluster: Any, what: str) -> None:
    result = run(
        cluster, "create", "--dry-run=server", "-f", "-", input=ACCEPTED[what], check=False
    )
    assert result.stderr == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_keeps_all_of_the_examples(cluster: Any, path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    given, who = document["spec"], None
    if document["kind"] == "ApprovalRequest":  # made by the operator, decided later
        who = OPERATOR
        del given["decision"]
    text = json.dumps(document)
    arguments = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    result = run(cluster, *arguments, input=text, as_user=who)
    kept = json.loads(result.stdout)["spec"]
    assert lost(given, kept) == []


def lost(given: Any, kept: Any, path: str = "spec") -> list[str]:
    """Paths of what was given and is not there any more."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            item
            for key, value in given.items()
            for item in (lost(value, kept[key], f"{path}.{key}") if key in kept else [path + key])
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = zip(given, kept, strict=True)
        return [item for i, (a, b) in enumerate(pairs) for item in lost(a, b, f"{path}[{i}]")]
    return [] if given == kept else [path]


def test_a_workflow_of_256_steps_with_32_dependencies_each_is_taken_in_seconds(
    cluster: Any,
) -> None:
    graph = [
        {
            "name": f"s{i}",
            "transform": "x",
            **({"dependsOn": [f"s{j}" for j in range(max(0, i - 32), i)]} if i else {}),
        }
        for i in range(256)
    ]
    big = yaml.safe_load(workflow("steps: []", name="big"))
    big["spec"]["steps"] = graph
    before = time.monotonic()
    create(cluster, json.dumps(big))
    assert time.monotonic() - before < 5
    graph[200]["dependsOn"] = ["s201"]
    big["metadata"]["name"] = "big-and-wrong"
    assert GRAPH + "s200" in create(cluster, json.dumps(big), check=False).stderr


def test_the_agent_of_a_pool_does_not_change(cluster: Any) -> None:
    create(cluster, pool())
    code, message = patch(cluster, "cpool/p", {"spec": {"agentRef": {"name": "b"}}})
    assert code != 0
    assert "agentRef can't change" in message


def test_a_pool_is_scaled_by_kubectl_unless_it_scales_itself(cluster: Any) -> None:
    create(cluster, pool())
    scale = ("scale", "cpool/p", "--replicas=3")
    run(cluster, *scale)
    assert get(cluster, "cpool/p")["spec"]["replicas"] == 3
    code, _ = patch(cluster, "cpool/p", {"spec": {"autoscaling": {"maxReplicas": 9}}})
    assert code == 0
    refused = run(cluster, "scale", "cpool/p", "--replicas=4", check=False)
    assert refused.returncode != 0
    assert "replicas can't change while autoscaling is set" in refused.stderr
    code, _ = patch(cluster, "cpool/p", {"spec": {"autoscaling": None, "replicas": 4}})
    assert code == 0


SHUTDOWNS: dict[str, tuple[str | None, str | None, bool]] = {
    "none becomes Stop": (None, "Stop", True),
    "none becomes Terminate": (None, "Terminate", True),
    "Stop becomes Terminate": ("Stop", "Terminate", True),
    "Stop is taken back": ("Stop", None, False),
    "Terminate becomes Stop": ("Terminate", "Stop", False),
    "Terminate is taken back": ("Terminate", None, False),
}


@pytest.mark.parametrize("what", SHUTDOWNS)
def test_shutdown_only_becomes_firmer(cluster: Any, what: str) -> None:
    before, after, allowed = SHUTDOWNS[what]
    create(cluster, workflow(f"steps: [{STEP}]" + (f"\nshutdown: {before}" if before else "")))
    code, message = patch(cluster, "cwf/wf", {"spec": {"shutdown": after}})
    assert (code == 0) is allowed
    assert allowed or "shutdown can't be taken back: it can only become Terminate" in message


STATUSES: dict[str, tuple[str, dict[str, Any]]] = {
    "model": (model("provider: simulated", name="own"), {"circuit": "Open"}),
    "agent": (agent("modelRef: {name: m}", name="own"), {"revision": "abc"}),
    "agentpool": (pool("replicas: 0", name="own"), {"replicas": 2, "selector": "a=b"}),
    "workflow": (
        workflow(f"steps: [{STEP}]\nsuspend: true", name="own"),
        {"phase": "Succeeded", "usage": {"requests": 0, "costUSD": "0"}},
    ),
    "cronworkflow": (cron("suspend: true", name="own"), {"missed": 7}),
}


@pytest.mark.parametrize("kind", STATUSES)
def test_only_the_operator_writes_status(cluster: Any, policies: None, kind: str) -> None:
    text, status = STATUSES[kind]
    create(cluster, text)
    message = write_status(cluster, f"{kind}/own", status, as_user=None)
    assert "only the operator's account, corral-operator in corral-system, writes" in message
    code, message = patch(cluster, f"{kind}/own", {"status": status})
    assert code == 0, "a status in a plain write is ignored, not refused"
    assert get(cluster, f"{kind}/own").get("status", {}) != status
    assert write_status(cluster, f"{kind}/own", status, OPERATOR) == ""


def test_an_account_of_the_operators_name_elsewhere_writes_no_status(
    cluster: Any, policies: None
) -> None:
    create(cluster, STATUSES["workflow"][0])
    assert "forbidden" in write_status(cluster, "workflow/own", {}, OTHER_ACCOUNT).lower()


MAY_CHANGE: dict[str, Any] = {
    "suspend": True,
    "shutdown": "Stop",
    "parallelism": 7,
    "budget": {"maxTokens": 5},
    "activeDeadline": "5m",
    "deadline": "1h",
    "ttlAfterFinished": "1h",
    "priorityClassName": "batch",
}


def test_what_may_change_in_a_started_workflow(cluster: Any, started: str) -> None:
    for field, value in MAY_CHANGE.items():
        code, message = patch(cluster, started, {"spec": {field: value}})
        assert code == 0, f"{field}: {message}"
    code, message = patch(cluster, started, {"spec": {"suspend": None, "parallelism": None}})
    assert code == 0, message
    code, message = patch(cluster, started, {"metadata": {"labels": {"team": "x"}}})
    assert code == 0, message


MAY_NOT_CHANGE: dict[str, dict[str, Any]] = {
    "steps": {"steps": [{"name": "b", "transform": "x"}]},
    "failFast": {"failFast": False},
    "arguments": {"arguments": {"a": 1}},
    "output": {"output": "$(1)"},
    "onExit": {"onExit": [{"name": "z", "transform": "x"}]},
    "workflowTemplateRef": {"steps": None, "workflowTemplateRef": {"name": "t"}},
    "retryOf": {"retryOf": {"name": "before"}},
}


@pytest.mark.parametrize("field", MAY_NOT_CHANGE)
def test_what_may_not_change_in_a_started_workflow(cluster: Any, started: str, field: str) -> None:
    code, message = patch(cluster, started, {"spec": MAY_NOT_CHANGE[field]})
    assert code != 0
    assert "a started Workflow can't be edited: spec." in message
    assert f"spec.{field}" in message


def test_a_workflow_that_has_not_started_can_be_edited(cluster: Any, policies: None) -> None:
    create(cluster, workflow(f"steps: [{STEP}]\nsuspend: true", name="early"))
    code, message = patch(cluster, "cwf/early", {"spec": MAY_NOT_CHANGE["steps"]})
    assert code == 0, message


def test_a_retry_is_one_from_its_making_on(cluster: Any, policies: None) -> None:
    create(cluster, workflow(f"steps: [{STEP}]\nsuspend: true", name="early"))
    code, message = patch(cluster, "cwf/early", {"spec": {"retryOf": {"name": "before"}}})
    assert code != 0
    assert "spec.retryOf can only be set when the Workflow is created" in message


def with_creator(name: str, creator: str) -> str:
    found = yaml.safe_load(workflow(f"steps: [{STEP}]\nsuspend: true", name=name))
    found["metadata"]["annotations"] = {"corral.dev/created-by": creator}
    return json.dumps(found)


def test_the_creator_of_a_workflow_is_who_creates_it(cluster: Any, policies: None) -> None:
    me = json.loads(run(cluster, "auth", "whoami", "-o", "json").stdout)
    name = me["status"]["userInfo"]["username"]
    refused = create(cluster, with_creator("w1", "somebody else"), check=False)
    assert refused.returncode != 0
    assert f"annotation corral.dev/created-by must be {name}" in refused.stderr
    create(cluster, with_creator("w1", name))
    create(cluster, workflow(f"steps: [{STEP}]\nsuspend: true", name="w2"))


CREATOR_CHANGES: dict[str, Callable[[str], str | None]] = {
    "another name": lambda _: "somebody else",
    "no name": lambda _: None,
}


@pytest.mark.parametrize("what", CREATOR_CHANGES)
def test_the_creator_of_a_workflow_never_changes(cluster: Any, policies: None, what: str) -> None:
    me = json.loads(run(cluster, "auth", "whoami", "-o", "json").stdout)
    name = me["status"]["userInfo"]["username"]
    create(cluster, with_creator("w1", name))
    change = {"metadata": {"annotations": {"corral.dev/created-by": CREATOR_CHANGES[what](name)}}}
    code, message = patch(cluster, "cwf/w1", change)
    assert code != 0
    assert "annotation corral.dev/created-by can't change" in message


def test_nobody_becomes_the_creator_later(cluster: Any, policies: None) -> None:
    create(cluster, workflow(f"steps: [{STEP}]\nsuspend: true", name="w1"))
    change = {"metadata": {"annotations": {"corral.dev/created-by": "me"}}}
    code, message = patch(cluster, "cwf/w1", change)
    assert code != 0
    assert "annotation corral.dev/created-by can't change" in message
    code, message = patch(cluster, "cwf/w1", {"metadata": {"annotations": {"other": "note"}}})
    assert code == 0, message


def cron_with_creator(cluster: Any, creator: str) -> None:
    found = yaml.safe_load(cron("suspend: true"))
    found["metadata"]["annotations"] = {"corral.dev/created-by": creator}
    for who in ("anna", "bert"):
        name = ("rolebinding", who, "--clusterrole=edit", f"--user={who}")
        run(cluster, "create", *name)
    end = time.monotonic() + 30
    while True:  # roles are summed up a moment after they were applied
        done = create(cluster, json.dumps(found), check=False, as_user="anna")
        if done.returncode == 0 or "cannot create" not in done.stderr or time.monotonic() > end:
            break
        time.sleep(0.1)
    assert (done.returncode == 0) is (creator == "anna"), done.stderr


def test_the_creator_of_a_cron_is_who_creates_it(cluster: Any, policies: None) -> None:
    cron_with_creator(cluster, "bert")


WORK = {"workflowSpec": {"steps": [{"name": "b", "transform": "y"}]}}
CRON_CHANGES: dict[str, tuple[str, dict[str, Any], str | None, str]] = {
    "its creator changes what is run": ("anna", WORK, "anna", ""),
    "another changes what is run, in their own name": ("bert", WORK, "bert", ""),
    "another changes what is run, in nobody's name": ("bert", WORK, None, ""),
    "another changes what is run, in the creator's name": (
        "bert",
        WORK,
        "anna",
        "annotation corral.dev/created-by must be bert, who changes spec.workflowSpec",
    ),
    "another changes when it is run": ("bert", {"schedule": "@hourly"}, "anna", ""),
    "another becomes the creator": ("bert", {}, "bert", "corral.dev/created-by can't change"),
    "the creator is forgotten": ("bert", {}, None, "corral.dev/created-by can't change"),
}


@pytest.mark.parametrize("what", CRON_CHANGES)
def test_the_creator_of_a_cron_says_who_decided_what_it_runs(
    cluster: Any, policies: None, what: str
) -> None:
    who, spec, creator, refused = CRON_CHANGES[what]
    cron_with_creator(cluster, "anna")
    change = {"spec": spec, "metadata": {"annotations": {"corral.dev/created-by": creator}}}
    code, message = patch(cluster, "ccron/c", change, as_user=who)
    assert (code != 0) is bool(refused), message
    assert refused in message


RIGHTS: dict[str, tuple[str, str, bool]] = {
    "the operator writes a workflow's status": (
        OPERATOR,
        "update workflows --subresource=status",
        True,
    ),
    "the operator makes default pools": (OPERATOR, "create agentpools", True),
    "the operator makes workers": (OPERATOR, "create pods", True),
    "the operator gets no secret": (OPERATOR, "get secrets", False),
    "the operator lists no secrets": (OPERATOR, "list secrets", False),
    "the operator runs nothing in workers": (OPERATOR, "create pods --subresource=exec", False),
    "the operator writes no workflow": (OPERATOR, "update workflows", False),
    "the operator makes workflows by the clock": (OPERATOR, "create workflows", True),
    "the operator stops those that it made": (OPERATOR, "patch workflows", True),
    "the operator changes no template": (OPERATOR, "patch workflowtemplates", False),
    "the operator changes no cron": (OPERATOR, "patch cronworkflows", False),
    "the operator asks people": (OPERATOR, "create approvalrequests", True),
    "the operator does not answer itself": (OPERATOR, "approve approvalrequests", False),
    "the operator writes no answer": (OPERATOR, "patch approvalrequests", False),
    "the operator reads lists": (OPERATOR, "get configmaps", True),
    "the operator writes no list": (OPERATOR, "update configmaps", False),
    "the operator writes no pool": (OPERATOR, "patch agentpools", False),
    "the operator makes no model": (OPERATOR, "create models", False),
    "the operator takes no lease elsewhere": (OPERATOR, "update leases", False),
    "the operator leads by a lease of its own namespace": (
        OPERATOR,
        "update leases/corral-operator -n corral-system",
        True,
    ),
    "the operator gets tokens of its own account": (
        OPERATOR,
        "create serviceaccounts/corral-operator --subresource=token -n corral-system",
        True,
    ),
    "the operator gets no tokens of others": (
        OPERATOR,
        "create serviceaccounts/default --subresource=token -n corral-system",
        False,
    ),
    "the operator reads the API server's public keys": (OPERATOR, "get /openid/v1/jwks", True),
    "an editor makes agents": ("edit", "create agents", True),
    "an editor makes workflows": ("edit", "create workflows", True),
    "an editor scales pools": ("edit", "patch agentpools --subresource=scale", True),
    "an editor sees models": ("edit", "get models", True),
    "an editor makes no models, which decide where keys go": ("edit", "create models", False),
    "a namespace's admin makes none either": ("admin", "update models", False),
    "who is bound to corral-admin does": ("corral-admin", "create models", True),
    "an editor makes templates": ("edit", "create workflowtemplates", True),
    "an editor makes crons": ("edit", "create cronworkflows", True),
    "an editor sees what people are asked": ("edit", "list approvalrequests", True),
    "an editor does not decide": ("edit", "approve approvalrequests", False),
    "an editor writes no decision": ("edit", "patch approvalrequests", False),
    "a namespace's admin does not decide": ("admin", "approve approvalrequests", False),
    "who is bound to corral-admin does not either": (
        "corral-admin",
        "approve approvalrequests",
        False,
    ),
    "an approver decides": ("corral-approver", "approve approvalrequests", True),
    "an approver writes decisions": ("corral-approver", "patch approvalrequests", True),
    "an approver deletes no request": ("corral-approver", "delete approvalrequests", False),
    "an approver makes no workflow": ("corral-approver", "create workflows", False),
    "a viewer sees workflows": ("view", "list workflows", True),
    "a viewer makes none": ("view", "create workflows", False),
}


@pytest.mark.parametrize("what", RIGHTS)
def test_who_may_do_what(cluster: Any, what: str) -> None:
    who, action, allowed = RIGHTS[what]
    user = who
    if who != OPERATOR:
        user = "someone"
        run(cluster, "create", "rolebinding", "a", f"--clusterrole={who}", f"--user={user}")
    # Roles are summed up a moment after they were applied.
    for _ in range(1 if not allowed else 50):
        result = run(cluster, "auth", "can-i", *action.split(), check=False, as_user=user)
        if result.stdout.strip() == "yes":
            break
        time.sleep(0.1)
    assert result.stdout.strip() == ("yes" if allowed else "no")
