"""``corral logs``: what happened, from the status, the journal and the workers' own logs."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from corral.cli.change import workflow_of
from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.output import write
from corral.cli.tree import headline, output_text
from corral.cli.view import RunView, duration
from corral.plan.names import LABEL_AGENT
from corral.plan.state import JournalError, Node, Run, Step, from_journal
from corral.plan.times import rfc3339_millis

_POLL = 2.0


@dataclass(frozen=True)
class Filter:
    """What of a run is asked for."""

    step: str | None = None
    item: int | None = None


def logs(
    cluster: Cluster, namespace: str, name: str, chosen: Filter, follow: bool, output: str
) -> Exit:
    """Shows the records of all attempts, then the log lines of workers that still exist."""
    shown: set[str] = set()
    while True:
        view = RunView.of(workflow_of(cluster, namespace, name))
        run = journal_of(view)
        if chosen.step is not None and chosen.step not in {s.name for s in _specs(view)}:
            raise CliError(f"Workflow {name!r} has no step {chosen.step!r}")
        found = list(records(view, run, chosen))
        lines = list(worker_lines(cluster, view, run, chosen))
        if output == "json":
            if not follow or view.exit_code is not None:
                write({"workflow": name, "records": found, "workerLogs": lines}, "json")
        else:
            if not shown:
                print(headline(view, time.time()).plain)
            for text in [*map(record_text, found), *map(worker_text, lines)]:
                if text not in shown:
                    print(text)
            shown |= {"", *map(record_text, found), *map(worker_text, lines)}
        if not follow or view.exit_code is not None:
            return Exit.OK
        time.sleep(_POLL)


def journal_of(view: RunView) -> Run:
    """The engine's record of the run; an empty one before there is any.

    Raises:
        CliError: another version of corral wrote it.
    """
    if view.status.journal is None:
        return Run(run_id=view.status.run_id or "")
    try:
        return from_journal(view.status.journal)
    except JournalError as error:
        raise CliError(f"Workflow {view.name!r}: {error}") from None


def _specs(view: RunView) -> list[Any]:
    return [*(view.spec.steps or []), *(view.spec.on_exit or [])]


def records(view: RunView, run: Run, chosen: Filter) -> Iterator[dict[str, Any]]:
    """One per step, and per item of a fan-out: where it is, how it came there."""
    steps = {**run.steps, **run.exit_steps}
    for spec in _specs(view):
        step = steps.get(spec.name)
        if step is None or chosen.step not in (None, spec.name):
            continue
        agent = spec.agent_ref.name if spec.agent_ref else None
        if not step.nodes and chosen.item is None:
            yield _record(spec.name, None, agent, step, None)
        for index, node in enumerate(step.nodes):
            if chosen.item in (None, index):
                item = index if step.items is not None else None
                yield _record(spec.name, item, agent, step, node)


def _record(
    name: str, item: int | None, agent: str | None, step: Step, node: Node | None
) -> dict[str, Any]:
    state = node or step
    record: dict[str, Any] = {"step": name, "phase": state.phase.value}
    if item is not None:
        record |= {"item": item, "input": step.items[item] if step.items else None}
    if agent:
        record["agent"] = agent
    if node is not None:
        ended = node.finished
        record |= {
            "attempts": node.attempt,
            "worker": node.worker.pod if node.worker else None,
            "startedAt": rfc3339_millis(node.started) if node.started else None,
            "finishedAt": rfc3339_millis(ended) if ended else None,
            "seconds": round(ended - node.started, 3) if ended and node.started else None,
            "costUSD": node.used.cost_text,
            "output": node.output,
        }
    record |= {"reason": state.reason, "message": state.message}
    return {key: value for key, value in record.items() if value is not None}


def record_text(record: dict[str, Any]) -> str:
    """A record for people: a line, then the error or the output, indented."""
    name = record["step"] + (f"[{record['item']}]" if "item" in record else "")
    parts = [f"{record.get('startedAt', '-'):<24}  {name}: {record['phase']}"]
    if record.get("attempts"):
        parts.append(f"attempt {record['attempts']}")
    if record.get("worker"):
        parts.append(f"on {record['worker']}")
    if "seconds" in record:
        parts.append(duration(record["seconds"]))
    if "costUSD" in record:
        parts.append(f"${record['costUSD']}")
    lines = ["  ".join(parts)]
    if "message" in record:
        reason = f"{record['reason']}: " if record.get("reason") else ""
        lines.append(f"    {reason}{record['message']}")
    if "output" in record:
        lines += [f"    {line}" for line in output_text(record["output"]).splitlines()]
    return "\n".join(lines)


def worker_lines(
    cluster: Cluster, view: RunView, run: Run, chosen: Filter
) -> Iterator[dict[str, Any]]:
    """What the workers that still exist logged about this run, by time."""
    agents = sorted(
        {
            spec.agent_ref.name
            for spec in _specs(view)
            if spec.agent_ref and chosen.step in (None, spec.name)
        }
    )
    if not agents or not run.run_id:
        return
    found = []
    try:
        for pod in cluster.pods(view.namespace, f"{LABEL_AGENT} in ({','.join(agents)})"):
            pod_name = pod["metadata"]["name"]
            found += [
                {"pod": pod_name, **line}
                for line in _pod_lines(cluster, view.namespace, pod_name)
                if about(line, run.run_id, chosen)
            ]
    except ApiError as error:
        if error.status != 403:
            raise
        found.append({"pod": "-", "message": f"the workers' logs can't be read: {error.message}"})
    yield from sorted(found, key=lambda line: str(line.get("time", "")))


def _pod_lines(cluster: Cluster, namespace: str, pod: str) -> Iterator[dict[str, Any]]:
    try:
        texts = cluster.pod_log(namespace, pod)
    except ApiError as error:
        if error.status in (400, 404):  # not started yet, or gone by now
            return
        raise
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def about(line: dict[str, Any], run_id: str, chosen: Filter) -> bool:
    """Whether a log line is of the run, the step and the item asked for.

    Attempt ids begin with the run's id, ``.<step>.<item>.``; a line may name either.
    """
    prefix = run_id
    if chosen.step is not None:
        prefix += f".{chosen.step}"
        if chosen.item is not None:
            prefix += f".{chosen.item}"
    return any(
        isinstance(value, str) and (value == prefix or value.startswith(f"{prefix}."))
        for value in line.values()
    )


def worker_text(line: dict[str, Any]) -> str:
    """A log line for people."""
    level = str(line.get("level", "")).upper()
    parts = [str(line.get("time", "-")), str(line["pod"]), level, str(line.get("message", ""))]
    parts += [f"({line[key]})" for key in ("attempt", "attempt_id") if key in line]
    return "  ".join(part for part in parts if part)
