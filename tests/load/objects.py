"""What is put on the cluster: Agents on a simulated Model, chains, fan-outs."""

from typing import Any

from corral.kube.client import Json


def _object(kind: str, name: str, spec: Json) -> Json:
    made: Json = {"apiVersion": "corral.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}
    return {**made, "spec": spec}


def model(name: str, latency: str) -> Json:
    """A Model that answers by itself after so long, such as ``50ms``."""
    simulation = {"latency": latency, "reply": "done"}
    return _object("Model", name, {"provider": "simulated", "simulation": simulation})


def agent(name: str) -> Json:
    """An Agent on the Model of its own name."""
    return _object("Agent", name, {"modelRef": {"name": name}, "description": "Takes load."})


def pool(name: str, workers: int, concurrency: int) -> Json:
    """The Agent's workers."""
    of = {"agentRef": {"name": name}, "replicas": workers, "concurrency": concurrency}
    return _object("AgentPool", name, of)


def chain(name: str, steps: int, agent: str, **spec: Any) -> Json:
    """A Workflow of steps one after another, each with the output of the one before."""
    made: list[Json] = []
    for number in range(steps):
        step: Json = {"name": f"s{number}", "agentRef": {"name": agent}}
        step["input"] = f"$(steps.s{number - 1}.output) more" if number else "begin"
        if number:
            step["dependsOn"] = [f"s{number - 1}"]
        made.append(step)
    return _object("Workflow", name, {"steps": made, **spec})


def wide(name: str, width: int, agent: str) -> Json:
    """A Workflow of one step that fans out once."""
    each = {"items": list(range(width)), "maxItems": max(width, 1)}
    step = {"name": "wide", "agentRef": {"name": agent}, "input": "$(item)", "forEach": each}
    return _object("Workflow", name, {"steps": [step]})
