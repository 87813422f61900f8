"""Every sample runs on a real cluster to the end that its comments promise.

All are applied first and looked at later: their workers start side by side.
"""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.tracing.genai import RETRY_REASON
from corral.tracing.otlp_json import read
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import REPO, Cluster, Json, phases, reason, rows
from tests.cluster.terminal import corral

SAMPLES = REPO / "manifests" / "samples"


@dataclass(frozen=True)
class Decision:
    """What a person of a group says to what a step asks."""

    step: str
    group: str
    values: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True)
class Sample:
    """How a sample is started, and what must come of it."""

    steps: str
    """``name=Phase`` of all rows, in order."""
    output: Any = None
    submit: tuple[str, ...] = ()
    """What makes the run where applying the folder does not: words for ``corral submit``."""
    decision: Decision | None = None
    items: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    row: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: int | None = None
    unpriced: int | None = None
    """How many of them have no known price."""
    degraded: str = ""
    """The reason of the condition Degraded; empty: there is none."""


SAMPLE = {
    "hello": Sample("greet=Succeeded", "Hello! I am simulated, so this is all that I can say."),
    "research-team": Sample(
        "plan=Succeeded research=Succeeded sources=Succeeded review=Succeeded deepen=Succeeded"
        " write=Succeeded",
        items={"research": {"total": 4, "succeeded": 4}},
    ),
    "incident-triage": Sample(
        "runbooks=Succeeded diagnose=Succeeded agree=Succeeded act=Succeeded notify=Succeeded",
        "Simulated: pump 2 was restarted, pressure is back.",
        submit=(
            "--from=template/incident-triage",
            "--parameter=alert=redox flow batteries: low pressure",
        ),
        decision=Decision("agree", "incident-commanders", comment="Go."),
        row={"diagnose": {"extract": {"severity": "critical"}}},
        requests=3,
    ),
    "nightly-batch": Sample(
        "classify=Succeeded",
        [
            {"class": "billing", "tickets": 131},
            {"class": "other", "tickets": 132},
            {"class": "technical", "tickets": 128},
        ],
        submit=("--from=cron/nightly-batch",),
        items={"classify": {"total": 500, "succeeded": 391, "failed": 5}},
        requests=391,
        degraded="BudgetExceeded",
    ),
    "document-extraction": Sample(
        "documents=Succeeded total=Succeeded",
        {"total": 720, "reads": [1, 2, 1]},
        items={"documents": {"total": 3, "succeeded": 3}},
        requests=4,
    ),
    "code-review": Sample(
        "review=Succeeded vote=Succeeded improve=Succeeded",
        "def read_report(path): return safe(path).read_text()",
        row={"vote": {"output": {"for": 2, "of": 3}}, "improve": {"iteration": 3}},
        requests=6,
    ),
    "support-inbox": Sample(
        "messages=Succeeded for_people=Succeeded",
        {"answered": 3, "forPeople": ["Do you sell bicycles?"]},
        items={"messages": {"total": 4, "succeeded": 4}},
        requests=6,
    ),
    "report-with-fallback": Sample(
        "live=Failed archive=Succeeded write=Succeeded",
        "Simulated report, written by the fallback from what the archive had.",
        row={"live": {"attempts": 3, "reason": "ModelUnavailable"}},
        requests=7,
        degraded="ToleratedFailures",
    ),
    "release-notes": Sample(
        "changes=Succeeded by_kind=Succeeded edit=Succeeded",
        "Release notes, edited by a simulated model.",
        submit=("--from=template/release-notes", "--parameter=version=1.2.0"),
        items={"changes": {"total": 3, "succeeded": 3}},
        requests=4,
    ),
    "contract-review": Sample(
        "read=Succeeded decide=Succeeded terms=Succeeded write=Succeeded",
        "Simulated: liability is limited to EUR 100000.",
        decision=Decision("decide", "legal", {"maxLiability": "100000"}, "As always."),
        row={"terms": {"output": {"maxLiability": 100000, "noticeDays": 30}}},
        requests=2,
    ),
    "data-cleanup": Sample(
        "clean=Succeeded",
        "Simulated: I looked for old texts and asked to delete redox-flow-2019.",
        decision=Decision("clean", "data-owners"),
        requests=2,
    ),
    "eval-suite": Sample(
        "answer=Succeeded judge=Succeeded passed=Succeeded",
        {"mean": 7.75, "worst": 6},
        items={"answer": {"total": 4, "succeeded": 4}, "judge": {"total": 4, "succeeded": 4}},
        row={"judge": {"extract": {"mean": 7.75, "worst": 6}}},
        requests=8,
    ),
    "tracing": Sample(
        "find=Succeeded draft=Succeeded",
        "Storage for a week without wind",
        row={"draft": {"attempts": 2}},
        requests=7,
    ),
    "cost-tracking": Sample(
        "sum_up=Succeeded file=Succeeded",
        "0.012",
        submit=("--from=template/cost-tracking",),
        items={"sum_up": {"total": 3, "succeeded": 3}},
        row={"sum_up": {"costUSD": "0.012"}},
        requests=4,
        unpriced=1,
    ),
}


@dataclass
class Started:
    """A sample in its namespace, and its run's name."""

    cluster: Cluster
    run: str


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, Started]]:
    with ExitStack() as stack:
        found = {}
        for name, sample in SAMPLE.items():
            cluster = stack.enter_context(fresh_namespace())
            cluster.kubectl("apply", f"--filename={SAMPLES / name}")
            run = name
            if sample.submit:
                made = corral(cluster, "submit", *sample.submit, "-o", "name")
                assert made.returncode == 0, made.stderr
                run = made.stdout.strip().rpartition("/")[2]
            found[name] = Started(cluster, run)
        yield found


def decide(at: Started, decision: Decision) -> None:
    """Approves as somebody of the group, with no other right than the one to approve."""
    cluster = at.cluster
    group = f"--group={decision.group}"
    role = "--clusterrole=corral-approver"
    cluster.kubectl("create", "rolebinding", "approvers", role, group)
    deadline = time.monotonic() + 90
    while not (requests := cluster.list("approvalrequest")):
        assert time.monotonic() < deadline, f"nobody is asked at {decision.step}"
        time.sleep(0.2)
    assert len(requests) == 1
    assert requests[0]["spec"]["step"] == decision.step
    said: Json = {"verdict": "Approve", "by": "carla", "values": dict(decision.values)}
    if decision.comment:
        said["comment"] = decision.comment
    patch = json.dumps({"spec": {"decision": said}})
    name = requests[0]["metadata"]["name"]
    who = ("--as=carla", f"--as-group={decision.group}", "--as-group=system:authenticated")
    cluster.kubectl("patch", "approvalrequest", name, "--type=merge", f"--patch={patch}", *who)


def check(sample: Sample, workflow: Json) -> None:
    """That the run ended as it should."""
    status = workflow["status"]
    shown = yaml.safe_dump({key: status[key] for key in status if key != "journal"})
    assert status["phase"] == "Succeeded", shown
    assert " ".join(f"{name}={phase}" for name, phase in phases(workflow).items()) == sample.steps
    if sample.output is not None:
        assert status["output"] == sample.output, shown
    found = rows(workflow)
    for name, counts in sample.items.items():
        assert counts.items() <= found[name]["items"].items(), shown
    for name, fields in sample.row.items():
        assert fields.items() <= found[name].items(), shown
    if sample.requests is not None:
        assert status["usage"]["requests"] == sample.requests, shown
    if sample.unpriced is not None:
        assert status["usage"]["unpricedRequests"] == sample.unpriced, shown
    assert (reason(workflow, "Degraded") or "") == sample.degraded, shown


# Those that people decide come first: meanwhile the others run.
@pytest.mark.parametrize("name", sorted(SAMPLE, key=lambda name: SAMPLE[name].decision is None))
def test_a_sample_ends_as_it_says(name: str, started: dict[str, Started]) -> None:
    sample, at = SAMPLE[name], started[name]
    if sample.decision is not None:
        decide(at, sample.decision)
    check(sample, at.cluster.finished(at.run, 120))


def test_a_run_is_part_of_its_callers_trace(started: dict[str, Started]) -> None:
    at = started["tracing"]
    workflow = at.cluster.finished(at.run, 120)
    told = workflow["metadata"]["annotations"]["corral.dev/traceparent"]
    done = corral(at.cluster, "trace", at.run, "-o", "json")
    assert done.returncode == 0, done.stderr
    spans = {span.name: span for span in read(json.loads(done.stdout))}
    root = spans["invoke_workflow tracing"]
    assert f"00-{root.trace_id}-{root.parent_id}-01" == told
    assert spans["step find"].parent_id == spans["step draft"].parent_id == root.span_id
    last = spans["invoke_agent columnist"]
    assert [link.attributes for link in last.links] == [{RETRY_REASON: "InvalidOutput"}]


LOCAL: dict[str, tuple[str, ...]] = dict.fromkeys(SAMPLE, ()) | {
    "incident-triage": ("--approve=agree",),
    "data-cleanup": ("--approve=clean",),
    "contract-review": ("--approve=decide", "--set=maxLiability=100000"),
}
"""What local runs are told."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tool server on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).parent / "corral")
    log = (tmp_path_factory.mktemp("tools") / "log").open("w")
    words = [program, "tool-server", f"--port={port}"]
    with log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the tool server did not start"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
        server.terminate()


def local_files(name: str, tools: str) -> str:
    """A sample's objects as a local run is given them: with a run, and tools on this machine."""
    folder = SAMPLES / name
    files = sorted(folder.glob("*.yaml"))
    if name == "research-team":  # locally its Model is another
        files = [folder / file for file in ("agents.yaml", "workflow.yaml", "local/model.yaml")]
    text = "\n---\n".join(file.read_text() for file in files)
    text = re.sub(r"http://(runbooks|archive|catalogue):8080/", tools, text)
    objects = [obj for obj in yaml.safe_load_all(text) if obj]
    head = {"apiVersion": "corral.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": name}}
    for obj in objects:
        if obj["metadata"]["name"] == name and obj["kind"] == "CronWorkflow":
            objects.append(head | {"spec": obj["spec"]["workflowSpec"]})
        elif obj["metadata"]["name"] == name and obj["kind"] == "WorkflowTemplate":
            objects.append(head | {"spec": {"workflowTemplateRef": {"name": name}}})
    return yaml.safe_dump_all(obj for obj in objects if obj["kind"] != "CronWorkflow")


def told(workflow: Json) -> Json:
    """What a run came to, without what may differ: names, times, attempts, and who decided."""
    status = workflow["status"]
    same = ("phase", "output", "extract", "items", "reason", "memoized", "iteration")
    return {
        "phase": status["phase"],
        "output": status.get("output"),
        "steps": {
            name: {
                field: row[field]
                for field in same
                if field in row and not (field == "output" and row.get("approval"))
            }
            for name, row in rows(workflow).items()
        },
    }


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_run_comes_to_the_same(
    name: str, started: dict[str, Started], tools: str, tmp_path: Path
) -> None:
    sample, at = SAMPLE[name], started[name]
    file = tmp_path / "sample.yaml"
    file.write_text(local_files(name, tools))
    parameters = [word for word in sample.submit if word.startswith("--parameter=")]
    words = ["run", "--local", "--output=json", *parameters, *LOCAL[name], str(file)]
    done = corral(at.cluster, *words)
    assert done.returncode == 0, done.stderr
    assert told(json.loads(done.stdout)) == told(at.cluster.finished(at.run, 120))


def test_every_sample_is_tried() -> None:
    assert sorted(SAMPLE) == sorted(path.name for path in SAMPLES.iterdir() if path.is_dir())
