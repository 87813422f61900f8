"""How much one operator gets done, as JSON on standard output.

    KUBECONFIG=… python -m tests.load [--workflows 50] [--steps 5] [--wide 300] [--concurrency 16]

Chains: so many Workflows at once, each a chain of steps, on one pool of one worker. Wide: one
Workflow that fans out once. The Model is simulated in the worker, so the model costs next to
nothing, and what is measured is corral. Floor: raw writes to the same API server in the same run,
which is what a step would cost if it were nothing but a write.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from corral.kube.client import POOLS, WORKFLOWS, Json, Kind, Kube, connect

GROUP = "corral.dev/v1alpha1"
NAMESPACES = Kind("", "v1", "namespaces")
CONFIG_MAPS = Kind("", "v1", "configmaps")
_CPU = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
_WRITES = re.compile(r"^corral_api_writes_total{.*} (\S+)$", re.MULTILINE)
_CONFLICTS = re.compile(r"^corral_api_conflicts_total (\S+)$", re.MULTILINE)
_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


def _object(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _apply(namespace: str, *objects: Json) -> None:
    kubectl = str(Path(__file__).parents[2] / ".cluster/bin/kubectl")
    words = [kubectl, f"--namespace={namespace}", "apply", "--filename=-"]
    for obj in objects:
        subprocess.run(words, input=json.dumps(obj), text=True, check=True, capture_output=True)


async def _metrics(kube: Kube) -> str:
    pods = await kube.list(
        Kind("", "v1", "pods"), "corral-system", labels="app.kubernetes.io/component=operator"
    )
    name = next(p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp"))
    path = f"/api/v1/namespaces/corral-system/pods/{name}:9090/proxy/metrics"
    # Not JSON: asked for as text, and taken apart here.
    session = kube._session()
    headers: dict[str, str] = {}
    await kube._api.update_params_for_auth(
        headers, [], ["BearerToken"], path, "GET", None, request_auth=None
    )
    url = kube._api.configuration.host + path
    async with session.get(url, headers=headers) as answer:
        return await answer.text()


def _number(pattern: re.Pattern[str], text: str) -> float:
    return sum(float(found) for found in pattern.findall(text))


async def _finished(kube: Kube, namespace: str, count: int, timeout: float) -> list[Json]:
    deadline = time.monotonic() + timeout
    while True:
        items = await kube.list(WORKFLOWS, namespace)
        done = [one for one in items if (one.get("status") or {}).get("finishedAt")]
        if len(done) == count or time.monotonic() > deadline:
            return items
        await asyncio.sleep(0.5)


async def _measure(
    kube: Kube, namespace: str, workflows: list[Json], steps: int, timeout: float
) -> Json:
    before = await _metrics(kube)
    started = time.monotonic()
    await asyncio.gather(*(kube.create(WORKFLOWS, namespace, one) for one in workflows))
    items = await _finished(kube, namespace, len(workflows), timeout)
    seconds = time.monotonic() - started
    after = await _metrics(kube)
    phases = [(one.get("status") or {}).get("phase", "none") for one in items]
    used = [(one.get("status") or {}).get("usage") or {} for one in items]

    def difference(pattern: re.Pattern[str]) -> float:
        return _number(pattern, after) - _number(pattern, before)

    result: Json = {
        "workflows": len(workflows),
        "steps": steps,
        "succeeded": phases.count("Succeeded"),
        "modelCalls": sum(one.get("requests", 0) for one in used),
        "seconds": round(seconds, 2),
        "stepsPerSecond": round(steps / seconds, 1),
        "operatorCPUMillisecondsPerStep": round(difference(_CPU) / steps * 1000, 2),
        "apiWritesPerStep": round(difference(_WRITES) / steps, 3),
        "conflicts": difference(_CONFLICTS),
        "operatorResidentMiB": round(_number(_RESIDENT, after) / 2**20),
    }
    for one in items:
        await kube.delete(WORKFLOWS, namespace, one["metadata"]["name"], one["metadata"]["uid"])
    return result


async def _floor(kube: Kube, namespace: str, writers: int = 16, each: int = 25) -> Json:
    """What the API server does without corral: PUTs of 1 KB objects, each writer its own."""

    async def write(number: int) -> None:
        body: Json = {"metadata": {"name": f"floor-{number}"}, "data": {"text": "x" * 1024}}
        obj = await kube.create(CONFIG_MAPS, namespace, body)
        for turn in range(each):
            obj["data"]["turn"] = str(turn)
            path = CONFIG_MAPS.path(namespace, obj["metadata"]["name"])
            obj = await kube.request("PUT", path, obj)

    started, cpu = time.monotonic(), time.process_time()
    await asyncio.gather(*(write(number) for number in range(writers)))
    seconds, writes = time.monotonic() - started, writers * (each + 1)
    return {
        "writes": writes,
        "writesPerSecond": round(writes / seconds, 1),
        "clientCPUMillisecondsPerWrite": round((time.process_time() - cpu) / writes * 1000, 2),
    }


def _chain(name: str, length: int) -> Json:
    steps: list[Json] = []
    for number in range(length):
        step: Json = {"name": f"s{number}", "agentRef": {"name": "load"}}
        step["input"] = f"$(steps.s{number - 1}.output) more" if number else "begin"
        if number:
            step["dependsOn"] = [f"s{number - 1}"]
        steps.append(step)
    return _object("Workflow", name, {"steps": steps})


def _wide(name: str, width: int) -> Json:
    each = {"items": list(range(width)), "maxItems": max(width, 1)}
    step = {"name": "wide", "agentRef": {"name": "load"}, "input": "$(item)", "forEach": each}
    return _object("Workflow", name, {"steps": [step]})


async def _run(options: argparse.Namespace) -> Json:
    namespace = f"load-{uuid.uuid4().hex[:6]}"
    async with connect() as kube:
        await kube.request("POST", NAMESPACES.path(), {"metadata": {"name": namespace}})
        try:
            simulation = {"latency": options.latency, "reply": "done"}
            _apply(
                namespace,
                _object("Model", "load", {"provider": "simulated", "simulation": simulation}),
                _object("Agent", "load", {"modelRef": {"name": "load"}, "description": "Load."}),
                _object(
                    "AgentPool",
                    "load",
                    {
                        "agentRef": {"name": "load"},
                        "replicas": options.workers,
                        "concurrency": options.concurrency,
                    },
                ),
            )
            for _ in range(600):
                pool = await kube.get(POOLS, namespace, "load")
                if (pool.get("status") or {}).get("readyReplicas", 0) >= options.workers:
                    break
                await asyncio.sleep(0.1)
            result: dict[str, Any] = {"options": vars(options)}
            result["floor"] = await _floor(kube, namespace)
            if options.workflows:
                chains = [_chain(f"chain-{n}", options.steps) for n in range(options.workflows)]
                count = options.workflows * options.steps
                result["chains"] = await _measure(kube, namespace, chains, count, options.timeout)
            if options.wide:
                wide = [_wide("wide", options.wide)]
                result["wide"] = await _measure(
                    kube, namespace, wide, options.wide, options.timeout
                )
            return result
        finally:
            await kube.request("DELETE", NAMESPACES.path(name=namespace))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load")
    parser.add_argument("--workflows", type=int, default=50, help="chains at once")
    parser.add_argument("--steps", type=int, default=5, help="steps of a chain")
    parser.add_argument("--wide", type=int, default=300, help="items of the fan-out")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=16, help="of each worker")
    parser.add_argument("--latency", default="50ms", help="of the simulated model")
    parser.add_argument("--timeout", type=float, default=300)
    options = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        parser.error("KUBECONFIG names no cluster")
    result = asyncio.run(_run(options))
    print(json.dumps(result, indent=2))
    asked = [result[kind] for kind in ("chains", "wide") if kind in result]
    return 0 if all(one["succeeded"] == one["workflows"] for one in asked) else 1


if __name__ == "__main__":
    sys.exit(main())
