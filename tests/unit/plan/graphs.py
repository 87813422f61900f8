"""Random Workflows of every kind of step, for the property test."""

from typing import Any

from hypothesis import strategies as st

from corral.api.workflow import TriggerRule, WorkflowSpec
from corral.plan.facts import ConfigMapNeed
from corral.plan.validate import workflow_problems

AGENTS = ["x", "y"]
LINES = ConfigMapNeed("lines", "items")
KINDS = [
    *("agent", "agent", "agent", "agent", "agent", "agent"),
    *("selector", "selector", "tool", "tool", "workflow", "workflow"),
    *("approval", "wait", "good", "bad", "passed on"),
]
UNTIL = [
    *("true", "false", "iteration >= 2", "size(output) > 100", "output[0] == 7"),
    *("previous != null", "workflow.costUSD == '0'"),
]


def _rarely(draw: st.DrawFn, one_in: int = 5) -> bool:
    return draw(st.integers(1, one_in)) == 1


def _kind(draw: st.DrawFn, step: dict[str, Any], kind: str, dependencies: list[Any]) -> None:
    texts = ["hi", "$(attempt)", "$([1, 2][index])", "$(iteration)"]
    texts += [f"$(steps.{one['name']}.outputs)" for one in dependencies]
    if kind in ("agent", "selector"):
        if kind == "agent":
            step["agentRef"] = {"name": draw(st.sampled_from(AGENTS))}
        else:
            strategy = draw(st.sampled_from(["First", "LeastLoaded", "Cheapest"]))
            step["agentSelector"] = {"matchCapabilities": ["c"], "strategy": strategy}
        step["input"] = draw(st.sampled_from(texts))
    elif kind == "tool":
        arguments = {"q": draw(st.sampled_from(texts))}
        step["tool"] = {"mcp": {"url": "http://t"}, "name": "t", "arguments": arguments}
    elif kind == "workflow":
        arguments = {"q": draw(st.sampled_from(texts))}
        step["workflow"] = {"templateRef": {"name": "w"}, "arguments": arguments}
    elif kind == "approval":
        step["approval"] = {
            "prompt": draw(st.sampled_from(texts)),
            "approvers": [{"kind": "User", "name": "ann"}],
            "onReject": draw(st.sampled_from(["Fail", "Skip"])),
            "onSkip": draw(st.sampled_from(["Omit", "Proceed"])),
            "onTimeout": draw(st.sampled_from(["Reject", "Approve", "Fail"])),
        }
        if draw(st.booleans()):
            step["approval"]["timeout"] = "40s"
    elif kind == "wait":
        step["wait"] = {"duration": f"{draw(st.integers(1, 30))}s"}
    elif kind == "passed on" and dependencies:
        one = draw(st.sampled_from(dependencies))
        fits = "forEach" not in one and ("steps" not in one or "output" in one)
        step["transform"] = f"$(steps.{one['name']}.{'output' if fits else 'outputs'})"
    else:
        step["transform"] = "$([1][index + 1])" if kind == "bad" else "$([7, 8])"


def _policies(draw: st.DrawFn, step: dict[str, Any], kind: str, dependencies: list[Any]) -> None:
    worker = kind in ("agent", "selector", "tool")
    if worker:
        step["timeout"] = "20s"
        if _rarely(draw, 2):
            keys = ["k", "k", "k", "$(index)", "$(index)", "$(index / 0)"]
            step["memoize"] = {"key": draw(st.sampled_from(keys))}
            if draw(st.booleans()):
                step["memoize"]["maxAge"] = "30s"
    if (worker or kind == "workflow") and draw(st.booleans()):
        step["retryStrategy"] = {"limit": draw(st.integers(0, 2))}
    if kind not in ("approval", "wait") and _rarely(draw, 3):
        until = [*UNTIL, *(f"size(steps.{d['name']}.outputs) > 9" for d in dependencies)]
        step["loop"] = {
            "until": draw(st.sampled_from(until)),
            "maxIterations": draw(st.integers(1, 3)),
            "onExhausted": draw(st.sampled_from(["Fail", "AcceptLast", "AcceptBest"])),
            "best": draw(st.sampled_from(["iteration", "-iteration", "size(output)"])),
        }
    if kind != "approval" and draw(st.booleans()):
        each = step["forEach"] = draw(
            st.sampled_from(
                [
                    {"items": list(range(draw(st.integers(0, 4))))},
                    {"itemsFrom": "$(arguments.large)"},
                    {"configMapKeyRef": {"name": LINES.name, "key": LINES.key}},
                ]
            )
        ).copy()
        if draw(st.booleans()):
            each["maxConcurrent"] = draw(st.integers(1, 3))
        if draw(st.booleans()):
            each["tolerateFailures"] = draw(st.sampled_from([0, 1, "25%", "50%", "100%"]))
    if draw(st.booleans()):
        step["allowFailure"] = True
    if _rarely(draw, 10):
        step["deadline"] = f"{draw(st.integers(1, 60))}s"
    if _rarely(draw):
        step["when"] = draw(st.sampled_from(["true", "false", "1", "size(steps) > 0"]))
    if _rarely(draw):
        step["extract"] = {"n": draw(st.sampled_from(["size(steps)", "output[0]"]))}


@st.composite
def steps_of(draw: st.DrawFn, prefix: str, most: int, nested: bool) -> list[dict[str, Any]]:
    """A graph; with steps that have steps of their own where ``nested``."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, most))):
        names = [step["name"] for step in steps]
        step: dict[str, Any] = {"name": f"{prefix}{number}"}
        if names:
            step["dependsOn"] = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        if step.get("dependsOn"):
            step["triggerRule"] = draw(st.sampled_from(list(TriggerRule))).value
        dependencies = [one for one in steps if one["name"] in step.get("dependsOn", ())]
        kind = draw(st.sampled_from([*KINDS, *(["nested"] * 4 if nested else [])]))
        if kind == "nested":
            step["steps"] = draw(steps_of("i", 3, False))
            if draw(st.booleans()):
                step["output"] = draw(st.sampled_from(["$(index)", "$(steps.i0.outputs)"]))
        else:
            _kind(draw, step, kind, dependencies)
        _policies(draw, step, kind, dependencies)
        steps.append(step)
    return steps


@st.composite
def budgets(draw: st.DrawFn) -> dict[str, Any]:
    budget: dict[str, Any] = {
        "onExceeded": draw(st.sampled_from(["Conclude", "Suspend", "Fail"])),
        "onUnpriced": draw(st.sampled_from(["Allow", "Allow", "Fail"])),
        "warnAt": [50, 80, 100],
    }
    which = draw(st.integers(1, 3))
    if which & 1:
        budget["maxCostUSD"] = draw(st.sampled_from(["0.004", "0.007", "0.01", "0.03"]))
    if which & 2:
        budget["maxTokens"] = draw(st.sampled_from([400, 700, 1000, 100_000]))
    return budget


@st.composite
def specs(draw: st.DrawFn) -> WorkflowSpec:
    """A Workflow that could be admitted."""
    data: dict[str, Any] = {
        "arguments": {"large": ["l" * 9000, "m" * 9000]},
        "steps": draw(steps_of("s", 5, True)),
        "failFast": draw(st.booleans()),
    }
    if draw(st.booleans()):
        data["onExit"] = draw(steps_of("e", 2, True))
    if draw(st.booleans()):
        data["parallelism"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        data["budget"] = draw(budgets())
    if _rarely(draw, 3):
        data["output"] = "$(steps.s0.outputs)"
    for field in ("deadline", "activeDeadline"):
        if _rarely(draw, 10):
            data[field] = f"{draw(st.integers(1, 2000))}s"
    spec = WorkflowSpec.model_validate(data, extra="forbid")
    assert workflow_problems(spec) == []
    return spec
