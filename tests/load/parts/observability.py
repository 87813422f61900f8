"""What a ledger, metrics and traces cost: the same chains with each, in turn."""

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from corral.kube.client import CONFIG_MAPS, PODS, Json, Kind
from tests.load import objects
from tests.load.parts.throughput import losses
from tests.load.readings import operator_reading
from tests.load.report import Figure, Part
from tests.load.site import SYSTEM, LoadError, Site, following

TEAM = "load"
DEPLOYMENTS = Kind("apps", "v1", "deployments")
OPERATOR = "corral-operator"
ROUND = "corral.dev/load-round"
SPANS_PORT = 4318
SCRAPE_SECONDS = 1.0
"""Prometheus does it every 15 s; a measurement does not take that long."""
WARM_UP = 10
"""Chains before each measurement: a new process has everything to load yet."""
SETTLE_SECONDS = 3.0
"""After the last end; what is written behind the Workflows counts too."""
TARGET = 10.0
"""Percent of the steps a second that metrics and traces may take together."""
SPANS_BESIDE_STEPS, SPANS_OF_A_STEP = 1, 3
"""Of a chain: its own; the step's, its attempt's and the model call's."""


@dataclass(frozen=True)
class Setting:
    """What is on."""

    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    """Of the operator, beside what it has anyway."""
    scraped: bool = False
    traced: bool = False


NO_LEDGER = {"CORRAL_LEDGER_URL": ""}
SETTINGS = (
    Setting("nothing", NO_LEDGER),
    Setting("ledger"),
    Setting("ledger, metrics", scraped=True),
    Setting("ledger, metrics, traces", scraped=True, traced=True),
)


@dataclass(frozen=True)
class Measured:
    """What the chains took once. CPU: milliseconds a step."""

    rate: float
    """Steps a second."""
    operator: float
    workers: float
    server: float
    losses: list[Figure]
    load: float = 0.0
    """The machine's load average of one minute, before."""
    spans: int = 0
    missing: int = 0
    """Spans of the chains that did not come."""
    again: int = 0
    """Spans that came more than once."""

    @property
    def cpu(self) -> float:
        """Of all."""
        return self.operator + self.workers + self.server


async def observability(site: Site, part: Part) -> None:
    """The same chains without a ledger, with it, scraped as well, and traced as well, in turn.

    The operator is replaced before each measurement, as its environment is what decides. Every
    round measures all, forwards and backwards in turn, so that a machine that gets slower makes
    none look worse; what is compared is of the same round, and the median is what counts.
    """
    if site.operator_url is not None:
        raise LoadError("an operator that runs in no pod can't be replaced")
    found: dict[str, list[Measured]] = {one.name: [] for one in SETTINGS}
    async with site.namespace() as namespace, _restored(site) as deployment:
        await site.team(namespace, TEAM)
        store = await _receiver(site, namespace, deployment)
        for number in range(site.sizes.rounds):
            for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
                env = dict(setting.env)
                if setting.traced:
                    address = f"http://{store['status']['podIP']}:{SPANS_PORT}"
                    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = address
                await _replace(site, deployment, env, f"{number} {setting.name}")
                found[setting.name].append(await _measure(site, namespace, setting, store))
    _tell(part, found)


def _tell(part: Part, found: Mapping[str, list[Measured]]) -> None:
    nothing, ledger, _, everything = found.values()
    for name, of in found.items():
        used = {
            "operator's": [one.operator for one in of],
            "workers'": [one.workers for one in of],
            "API server's": [one.server for one in of],
        }
        part.figures += [
            Figure(f"{name}: steps", statistics.median(one.rate for one in of), "/s"),
            *(
                Figure(f"{name}: {whose} CPU", statistics.median(cpu), "ms/step")
                for whose, cpu in used.items()
            ),
        ]
        if of is not nothing:
            part.figures += [
                Figure(f"{name}: slower than nothing", _slower(of, nothing), "%"),
                Figure(f"{name}: more CPU than nothing", _more_cpu(of, nothing), "%"),
            ]
        part.details[name] = {
            "stepsPerSecond": [round(one.rate, 1) for one in of],
            "loadAverage": [round(one.load, 2) for one in of],
            "cpuMillisecondsPerStep": [round(one.cpu, 2) for one in of],
            "operatorCPUMillisecondsPerStep": [round(one.operator, 2) for one in of],
            "spans": sum(one.spans for one in of),
        }
    slower, more = _slower(everything, ledger), _more_cpu(everything, ledger)
    missing = sum(one.missing for one in everything)
    again = sum(one.again for one in everything)
    part.figures += [
        Figure("metrics, traces: slower than the ledger alone", slower, "%", most=TARGET),
        Figure("metrics, traces: more CPU than the ledger alone", more, "%"),
        Figure("spans that did not come", missing, most=0, must=True),
        Figure("spans that came again", again, most=0, must=True),
    ]
    for same in zip(*(one.losses for of in found.values() for one in of), strict=True):
        part.figures.append(replace(same[0], value=sum(one.value for one in same)))


def _slower(of: list[Measured], than: list[Measured]) -> float:
    """By how many percent fewer steps are done a second: the median of the rounds."""
    return statistics.median(
        100 * (1 - one.rate / other.rate) for one, other in zip(of, than, strict=True)
    )


def _more_cpu(of: list[Measured], than: list[Measured]) -> float:
    """By how many percent a step costs more, all processes together: the median of the rounds."""
    return statistics.median(
        100 * (one.cpu / other.cpu - 1) for one, other in zip(of, than, strict=True)
    )


async def _measure(site: Site, namespace: str, setting: Setting, store: Json) -> Measured:
    """Runs the chains from the first POST to the last end; leaves no Workflow."""
    sizes = site.sizes
    steps = sizes.observed * sizes.chain_steps
    async with following(site, namespace) as runs:
        await runs.run(
            [objects.chain(f"warm-up-{n}", sizes.chain_steps, TEAM) for n in range(WARM_UP)]
        )
    await asyncio.sleep(SETTLE_SECONDS)
    load = os.getloadavg()[0]
    async with (
        following(site, namespace) as runs,
        _scraping(site, namespace) if setting.scraped else nullcontext(),
    ):
        before = await _used(site, namespace)
        started = time.monotonic()
        await runs.run(
            [objects.chain(f"chain-{n}", sizes.chain_steps, TEAM) for n in range(sizes.observed)]
        )
        seconds = time.monotonic() - started
        await asyncio.sleep(SETTLE_SECONDS)
        after = await _used(site, namespace)
        lost = losses(runs, steps)
        traces = [runs.newest[name]["metadata"]["uid"].replace("-", "") for name in runs.made]
    spans, missing, again = 0, 0, 0
    if setting.traced:
        wanted = SPANS_BESIDE_STEPS + sizes.chain_steps * SPANS_OF_A_STEP
        came = json.loads(await site.asked(store, SPANS_PORT, "spans"))
        for trace in traces:
            distinct, sent = came.get(trace, (0, 0))
            spans, missing = spans + distinct, missing + max(0, wanted - distinct)
            again += sent - distinct
    await site.clear(namespace)
    operator, workers, server = (
        1000 * (now - then) / steps for now, then in zip(after, before, strict=True)
    )
    rate = steps / seconds
    return Measured(rate, operator, workers, server, lost, load, spans, missing, again)


async def _used(site: Site, namespace: str) -> tuple[float, float, float]:
    """Seconds of CPU until now: the operator's, its workers' and the API server's."""
    pages = [await site.asked(pod, 8080, "metrics") for pod in await site.workers(namespace, TEAM)]
    workers = sum(operator_reading(page).cpu for page in pages)
    return (await site.operator()).cpu, workers, (await site.server()).cpu


@asynccontextmanager
async def _scraping(site: Site, namespace: str) -> AsyncIterator[None]:
    """Reads all metrics pages again and again, while inside."""
    pods = [(await site.operator_pod(), 9090)]
    pods += [(pod, 8080) for pod in await site.workers(namespace, TEAM)]

    async def scrape() -> None:
        while True:
            for pod, port in pods:
                await site.asked(pod, port, "metrics")
            await asyncio.sleep(SCRAPE_SECONDS)

    task = asyncio.create_task(scrape())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _restored(site: Site) -> AsyncIterator[Json]:
    """The operator's Deployment, which is afterwards as it was before."""
    deployment = await site.kube.get(DEPLOYMENTS, SYSTEM, OPERATOR)
    try:
        yield deployment
    finally:
        template = deployment["spec"]["template"]
        changes = {
            "metadata": {"annotations": {ROUND: None}},
            "spec": {"containers": template["spec"]["containers"]},
        }
        await site.kube.patch(DEPLOYMENTS, SYSTEM, OPERATOR, {"spec": {"template": changes}})


async def _replace(site: Site, deployment: Json, env: Mapping[str, str], label: str) -> None:
    """Replaces the operator's pod by one with these variables too, and waits until it is ready."""
    first, *others = deployment["spec"]["template"]["spec"]["containers"]
    more = [{"name": name, "value": value} for name, value in env.items()]
    kept = [
        one
        for one in first.get("env") or []
        if one["name"] not in env and not one["name"].startswith("OTEL_")
    ]
    changes = {
        "metadata": {"annotations": {ROUND: label}},
        "spec": {"containers": [{**first, "env": [*kept, *more]}, *others]},
    }
    await site.kube.patch(DEPLOYMENTS, SYSTEM, OPERATOR, {"spec": {"template": changes}})
    async with asyncio.timeout(site.sizes.timeout):
        while True:
            try:
                pod = await site.operator_pod()
            except LoadError:  # the old one is gone, the new one is not there yet
                pod = {"metadata": {}}
            annotations = pod["metadata"].get("annotations") or {}
            if annotations.get(ROUND) == label and _ready(pod):
                return
            await asyncio.sleep(0.2)


def _ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def _receiver(site: Site, namespace: str, deployment: Json) -> Json:
    """A pod that takes spans, ready."""
    name, file = "receiver", Path(__file__).parents[1] / "receiver.py"
    await site.kube.create(
        CONFIG_MAPS, namespace, {"metadata": {"name": name}, "data": {file.name: file.read_text()}}
    )
    operator = deployment["spec"]["template"]["spec"]["containers"][0]
    container = {
        "name": name,
        "image": operator["image"],
        "command": ["python", f"/{name}/{file.name}", str(SPANS_PORT)],
        "readinessProbe": {
            "httpGet": {"path": "/spans", "port": SPANS_PORT},
            "periodSeconds": 1,
        },
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": name, "configMap": {"name": name}}],
    }
    await site.kube.create(PODS, namespace, {"metadata": {"name": name}, "spec": spec})
    async with asyncio.timeout(site.sizes.timeout):
        while not _ready(pod := await site.kube.get(PODS, namespace, name)):
            await asyncio.sleep(0.2)
    return pod
