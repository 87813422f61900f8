"""``corral logs``: what happened, from the journal, the Events and the workers' own logs."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.history import Filter, record_text, records
from corral.cli.lookup import workflow_of
from corral.cli.output import write
from corral.cli.tree import headline
from corral.cli.view import RunView
from corral.cli.words import similar
from corral.plan.names import LABEL_AGENT
from corral.plan.state import JournalError, Run, Step

_POLL = 1.0


def logs(
    cluster: Cluster, namespace: str, name: str, chosen: Filter, follow: bool, output: str
) -> Exit:
    """Shows the records of all attempts, the Events, and the lines of workers that still exist."""
    shown: set[str] = set()
    workers = WorkerLogs(cluster, chosen)
    while True:
        data = workflow_of(cluster, namespace, name)
        view = RunView.of(data)
        run = journal_of(view)
        _known(view, chosen)
        found = {
            "records": list(records(view, run, chosen)),
            "events": [] if chosen.step else list(events(cluster, data)),
            "workerLogs": list(workers.new(view, run)),
        }
        ended = view.exit_code is not None
        if output == "json" and not follow:
            write({"workflow": name, **found}, "json")
        elif output == "json":
            _print_new(shown, [_line(kind, one) for kind, all_ in found.items() for one in all_])
        else:
            if not shown:
                print(headline(view, time.time()).plain)
                shown.add("")
            texts = [
                *map(record_text, found["records"]),
                *map(event_text, found["events"]),
                *map(worker_text, found["workerLogs"]),
            ]
            _print_new(shown, texts)
        if not follow or ended:
            return Exit.OK
        time.sleep(_POLL)


def _line(kind: str, entry: dict[str, Any]) -> str:
    about = {"records": "record", "events": "event", "workerLogs": "workerLog"}[kind]
    return json.dumps({"kind": about, **entry}, ensure_ascii=False)


def _print_new(shown: set[str], texts: list[str]) -> None:
    for text in texts:
        if text not in shown:
            print(text, flush=True)
    shown.update(texts)


def journal_of(view: RunView) -> Run:
    """The engine's record of the run; an empty one before there is any.

    Raises:
        CliError: another version of corral wrote it.
    """
    try:
        return view.journal()
    except JournalError as error:
        raise CliError(f"Workflow {view.name!r}: {error}") from None


def _known(view: RunView, chosen: Filter) -> None:
    if chosen.step is None:
        return
    names = []
    for spec in [*view.steps, *view.on_exit]:
        names += [spec.name, *(f"{spec.name}.{inner.name}" for inner in spec.steps or [])]
    if chosen.plain not in names:
        hint = similar(chosen.plain, names) or f"; there are {', '.join(names)}"
        raise CliError(f"Workflow {view.name!r} has no step {chosen.step!r}{hint}")


def events(cluster: Cluster, workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What Kubernetes still knows of Events about the Workflow, by time; none where one may not."""
    metadata = workflow["metadata"]
    try:
        found = cluster.events(metadata["namespace"], metadata["uid"])
    except ApiError as error:
        if error.status != 403:
            raise
        return
    entries = [
        {
            "time": _time_of(event),
            "type": event.get("type", ""),
            "reason": event.get("reason", ""),
            "message": event.get("message", ""),
        }
        for event in found
    ]
    yield from sorted(entries, key=lambda entry: str(entry["time"]))


def _time_of(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    metadata = event.get("metadata") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or metadata.get("creationTimestamp")
        or "-"
    )


def event_text(event: dict[str, Any]) -> str:
    """An Event for people."""
    return f"{event['time']:<24}  {event['type']} {event['reason']}: {event['message']}"


@dataclass
class WorkerLogs:
    """The log lines of the workers that still exist, of one run."""

    cluster: Cluster
    chosen: Filter
    _since: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def new(self, view: RunView, run: Run) -> Iterator[dict[str, Any]]:
        """The lines that were not yielded before, by time."""
        agents = sorted(_agents(view, run))
        if not agents or not run.run_id:
            return
        found = []
        try:
            for pod in self.cluster.pods(view.namespace, f"{LABEL_AGENT} in ({','.join(agents)})"):
                name = pod["metadata"]["name"]
                found += [
                    {"pod": name, **line}
                    for line in self._lines(view.namespace, name)
                    if self.chosen.is_about(line, run.run_id)
                ]
        except ApiError as error:
            if error.status != 403:
                raise
            found = [{"pod": "-", "message": f"the workers' logs can't be read: {error.message}"}]
        yield from sorted(found, key=lambda line: str(line.get("time", "")))

    def _lines(self, namespace: str, pod: str) -> Iterator[dict[str, Any]]:
        try:
            texts = self.cluster.pod_log(namespace, pod, self._since.get(pod))
        except ApiError as error:
            if error.status in (400, 404):  # not started yet, or gone by now
                return
            raise
        for text in texts:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if not isinstance(line, dict) or f"{pod} {text}" in self._seen:
                continue
            self._seen.add(f"{pod} {text}")
            if isinstance(line.get("time"), str):
                self._since[pod] = line["time"]
            yield line


def _agents(view: RunView, run: Run) -> set[str]:
    """Every Agent that a step names, or that was chosen for one."""
    found = set()
    for spec in [*view.steps, *view.on_exit]:
        for step in (spec, *(spec.steps or [])):
            if step.agent_ref:
                found.add(step.agent_ref.name)
    pending: list[Step] = [*run.steps.values(), *run.exit_steps.values()]
    while pending:
        for node in pending.pop().nodes:
            found |= {node.agent} if node.agent else set()
            pending += (node.steps or {}).values()
    return found


def worker_text(line: dict[str, Any]) -> str:
    """A log line for people."""
    level = str(line.get("level", "")).upper()
    parts = [str(line.get("time", "-")), str(line["pod"]), level, str(line.get("message", ""))]
    parts += [f"({line[key]})" for key in ("attempt", "attempt_id") if key in line]
    return "  ".join(part for part in parts if part)
