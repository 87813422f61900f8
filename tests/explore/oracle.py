"""What must be true at the end of an exploration."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from corral.api.trace import span_id
from corral.api.workflow import WorkflowStatus
from corral.kube.client import Json
from corral.ledger.rows import Entry
from corral.plan.names import LABEL_POOL, LABEL_REVISION
from corral.plan.state import from_journal
from corral.plan.times import parse
from corral.reconcile.controller import Controller
from corral.tracing import genai
from corral.tracing.parcel import Parcel
from tests.explore.api_server import ApiServer
from tests.explore.books import Books
from tests.explore.plans import Plan
from tests.explore.scenarios import PRICES
from tests.explore.workers import Execution, Journal, Kubelet

_TIMES = frozenset(
    {
        *("startedAt", "finishedAt", "lastTransitionTime", "periodStart", "resetsAt"),
        *("lastScheduleTime", "lastSuccessfulTime", "expiresAt"),
        *("started", "finished", "attempt_started", "not_before", "deadline", "queued", "at"),
        *("waiting_since", "idle_since", "idle_total"),
    }
)
_WHERE = frozenset({"worker", "pod", "url", "unbooked"})
_OF_ITS_OWN = frozenset({"uid", "resourceVersion", "creationTimestamp"})
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ATTEMPTS = frozenset({"attempts", "usage", "budget", "journal", "costUSD", "attempt", "attention"})
"""What differs where attempts were lost with a worker."""


@dataclass
class End:
    """How an exploration ended."""

    objects: dict[str, Any] = field(default_factory=dict)
    """By kind and name, without times."""
    usage: dict[str, Json] = field(default_factory=dict)
    """What the statuses of the runs say was used, by run id."""
    parents: dict[str, str] = field(default_factory=dict)
    """Runs that were made for others, by run id."""
    executions: list[Execution] = field(default_factory=list)
    killed: set[str] = field(default_factory=set)
    """Workers that were killed."""
    entries: list[Entry] = field(default_factory=list)
    """What the ledger has."""
    parcels: dict[str, Parcel] = field(default_factory=dict)
    """Spans, by what told of them."""
    began: dict[str, list[str]] = field(default_factory=dict)
    """The steps that began, by run id."""
    left: list[str] = field(default_factory=list)
    """What should not be there any more."""


def end_of(
    server: ApiServer,
    kubelet: Kubelet,
    journal: Journal,
    controller: Controller,
    books: Books,
) -> End:
    """Looks at everything."""
    end = End(
        executions=list(journal.executions),
        killed=set(kubelet.killed),
        entries=[*books.entries.values()],
        parcels=dict(books.parcels),
    )
    pods: Counter[str] = Counter()
    for key, obj in server.objects.items():
        if key[0] == "pods":
            labels, status = obj["metadata"]["labels"], obj.get("status") or {}
            going = " going" if obj["metadata"].get("deletionTimestamp") else ""
            pods[f"{labels[LABEL_POOL]} {labels[LABEL_REVISION]} {status.get('phase')}{going}"] += 1
        elif key[0] != "leases":
            end.objects["/".join((key[0], key[2]))] = _comparable(obj)
        if key[0] == "workflows":
            uid = obj["metadata"]["uid"]
            status = obj.get("status") or {}
            end.usage[uid] = status.get("usage") or {}
            if status.get("finishedAt") and status.get("startedAt"):
                since = parse(status["startedAt"])  # not those that were taken over
                rows = [row for row in status["steps"] if row.get("startedAt")]
                end.began[uid] = [r["name"] for r in rows if parse(r["startedAt"]) >= since]
            for owner in obj["metadata"].get("ownerReferences") or []:
                end.parents[uid] = owner["uid"]
    end.objects["pods"] = dict(pods)
    end.left = list(_left(kubelet, controller))
    return end


def _comparable(obj: Json) -> Any:
    made = _without(obj, _TIMES)
    made["metadata"] = {k: v for k, v in made["metadata"].items() if k not in _OF_ITS_OWN}
    journal = (obj.get("status") or {}).get("journal")
    if journal:
        state = from_journal(journal).model_dump(mode="json", exclude_defaults=True)
        made["status"]["journal"] = _without(state, _TIMES | _WHERE)
    return made


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    if isinstance(value, list):
        return [_without(one, names) for one in value]
    return _TIME.sub("TIME", value) if isinstance(value, str) else value


def _left(kubelet: Kubelet, controller: Controller) -> Iterator[str]:
    for pod in kubelet.pods.values():
        if pod.started and not pod.dead:
            for entry in pod.worker.inventory().attempts:
                yield f"left over: {pod.key[2]} still holds {entry.attempt_id} ({entry.state})"
            if pod.worker.table.running:
                yield f"left over: {pod.key[2]} still runs {pod.worker.table.running}"
    world = controller.world
    reserved = {agent: held for agent, held in world.budgets._held.items() if held}
    waiting = {agent: line for agent, line in world.slots._waiting.items() if any(line.values())}
    for what, found in (
        ("slots are held", world.slots._held),
        ("runs wait for slots", waiting),
        ("budgets are reserved", reserved),
        ("attempts are followed", world.attempts._following),
        ("attempts are being cancelled", world.attempts._cancelling),
        ("acknowledgements wait", world.attempts._acks),
        ("the ledger's rows wait", world.ledger._held),
    ):
        if found:
            yield f"left over: {what}: {sorted(map(str, found))}"


def differences(end: End, expected: End, plan: Plan) -> Iterator[str]:
    """What is not as in the undisturbed run, though it should be."""
    yield from end.left
    yield from _different_objects(end, expected, plan)
    yield from _wrong_effects(end, expected, plan)
    yield from _wrong_books(end)
    yield from _wrong_ledger(end, plan)
    yield from _wrong_sums(end)
    yield from _wrong_spans(end)


def _different_objects(end: End, expected: End, plan: Plan) -> Iterator[str]:
    ignored = _ATTEMPTS if plan.kills_worker else frozenset()
    for name in sorted(expected.objects.keys() | end.objects.keys()):
        own = ignored
        ours = _without(end.objects.get(name), own)
        theirs = _without(expected.objects.get(name), own)
        if ours != theirs:
            yield from (f"{name}{where}" for where in _paths(theirs, ours))


def _paths(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            yield from _paths(expected.get(key), found.get(key), f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _paths(one, other, f"{path}[{index}]")
    elif expected != found:
        yield f"{path}: {_short(found)} instead of {_short(expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def _wrong_effects(end: End, expected: End, plan: Plan) -> Iterator[str]:
    """Effects that happened more often than they should, or not at all."""
    for (attempt, worker), count in Counter(
        (one.attempt_id, one.worker) for one in end.executions
    ).items():
        if count > 1:
            yield f"duplicate effect: {worker} executed {attempt} {count} times"
    for attempt, workers in _workers_by_attempt(end).items():
        if len(workers) > 1:
            yield f"duplicate effect: {attempt} was executed by {len(workers)} workers"
    wanted = Counter(one.effect_key for one in expected.executions)
    there = Counter(one.effect_key for one in end.executions if one.worker not in end.killed)
    for key in sorted(wanted.keys() | there.keys()):
        if there[key] > wanted[key]:
            yield f"duplicate effect: {key} happened {there[key]} times, not {wanted[key]}"
        elif there[key] < wanted[key] and not plan.kills_worker:
            yield f"missing effect: {key} happened {there[key]} times, not {wanted[key]}"


def _workers_by_attempt(end: End) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in end.executions:
        found.setdefault(one.attempt_id, set()).add(one.worker)
    return found


def _wrong_books(end: End) -> Iterator[str]:
    for run_id, usage in end.usage.items():
        family = {run_id, *(child for child, parent in end.parents.items() if parent == run_id)}
        own = [one for one in end.executions if one.attempt_id.split(".", 1)[0] in family]
        sure = [one for one in own if one.worker not in end.killed]
        cost, requests = Decimal(usage.get("costUSD", "0")), usage.get("requests", 0)
        if not _cost(sure) <= cost <= _cost(own) or not len(sure) <= requests <= len(own):
            yield (
                f"books: run {run_id} says {requests} requests for {cost} USD; {len(own)} were "
                f"made for {_cost(own)}, {len(sure)} of them on workers that lived"
            )


def _wrong_ledger(end: End, plan: Plan) -> Iterator[str]:
    """Rows that are missing or too many, by what models were asked and by what statuses say."""
    made = Counter(one.attempt_id for one in end.executions)
    sure = Counter(one.attempt_id for one in end.executions if one.worker not in end.killed)
    booked: Counter[str] = Counter()
    for entry in end.entries:
        booked[entry.attempt_id] += entry.requests
    for attempt in sorted(made.keys() | booked.keys()):
        if not sure[attempt] <= booked[attempt] <= made[attempt]:
            yield (
                f"ledger: {attempt} has {booked[attempt]} requests; {made[attempt]} were made, "
                f"{sure[attempt]} of them on workers that lived"
            )
    for run_id, usage in end.usage.items():
        family = {run_id, *(child for child, parent in end.parents.items() if parent == run_id)}
        own = [entry for entry in end.entries if entry.run_id in family]
        cost = sum((entry.cost_usd or Decimal(0) for entry in own), Decimal(0))
        requests = sum(entry.requests for entry in own)
        said = Decimal(usage.get("costUSD", "0")), usage.get("requests", 0)
        if (cost, requests) != said:
            yield (
                f"ledger: run {run_id} says {said[1]} requests for {said[0]} USD; the ledger has "
                f"{requests} for {cost}"
            )


def _wrong_spans(end: End) -> Iterator[str]:
    """Spans that are missing, there twice, or without a parent; and money that is not the rows'."""
    spans = [span for parcel in end.parcels.values() for span in parcel.spans]
    times = Counter(span.span_id for span in spans)
    yield from (
        f"spans: {s.name} {s.span_id} is there twice" for s in spans if times[s.span_id] > 1
    )
    runs = {key.split(".")[0] for key in end.parcels}
    for run_id in end.began.keys() & runs:
        for wanted in [(run_id,), *((run_id, step) for step in end.began[run_id])]:
            if span_id(*wanted) not in times:
                yield f"spans: there is none of {'.'.join(wanted)}"
    for attempt in {one.attempt_id for one in end.executions if one.worker not in end.killed}:
        if span_id(attempt) not in times:
            yield f"spans: there is none of attempt {attempt}"
    for run_id in end.began:
        own = [p.spans for key, p in end.parcels.items() if key.split(".")[0] == run_id]
        for span in (one for some in own for one in some):
            if span.parent_id is not None and span.parent_id not in times:
                yield f"spans: {span.name} of {run_id} has no parent"
        costs = [one.attributes.get(genai.COST) for some in own for one in some]
        told = sum((Decimal(repr(cost)) for cost in costs if cost is not None), Decimal(0))
        rows = [entry.cost_usd or Decimal(0) for entry in end.entries if entry.run_id == run_id]
        if told != sum(rows, Decimal(0)):
            yield f"spans: those of {run_id} come to {told} USD, its rows to {sum(rows)}"


def _cost(executions: list[Execution]) -> Decimal:
    prices = [Decimal(price) / 1_000_000 for price in PRICES]
    return sum(
        (one.input_tokens * prices[0] + one.output_tokens * prices[1] for one in executions),
        Decimal(0),
    )


def finished(server: ApiServer) -> bool:
    """Whether every run has ended."""
    statuses = [
        WorkflowStatus.model_validate(obj.get("status") or {}) for obj in server.all("workflows")
    ]
    return all(status.finished_at is not None for status in statuses)


def _wrong_sums(end: End) -> Iterator[str]:
    """Agents whose sums are not the ledger's."""
    for name, obj in end.objects.items():
        kind, _, agent = name.partition("/")
        if kind != "agents":
            continue
        usage = (obj.get("status") or {}).get("usage") or {}
        said = usage.get("requests", 0), Decimal(usage.get("costUSD", "0"))
        own = [entry for entry in end.entries if entry.agent == agent]
        cost = sum((entry.cost_usd or Decimal(0) for entry in own), Decimal(0))
        booked = sum(entry.requests for entry in own), cost
        if said != booked:
            yield (
                f"books: agent {agent} says {said[0]} requests for {said[1]} USD; the ledger has "
                f"{booked[0]} for {booked[1]}"
            )
