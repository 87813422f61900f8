"""What the operator may ask of the API server, and what it does ask, told by the audit log."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import yaml

from cluster.config import AUDIT_LOG
from corral.kube.client import AGENTS, CRONS, MODELS, POOLS, WORKFLOWS, Kind, Kube, connect
from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import OPERATOR, Json
from tests.cluster.lab import SYSTEM, Lab, agent, from_template, step, template, workflow

ACCOUNT = {"kind": "ServiceAccount", "name": "corral-operator", "namespace": "corral-system"}
UNUSED = {
    ("corral.dev", "workflowtemplates", "get"): (
        "read where a list and the watches do not tell the same of one"
    ),
    ("corral.dev", "approvalrequests", "get"): (
        "read where one was made by a term before, which this term's watch has not told of yet"
    ),
}
"""Rights that are granted, and that this module does not make the operator use; with the reason."""


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource, with its API group and subresource; or on a path."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def granted() -> set[Right]:
    """What all roles that are bound to the account itself allow."""
    found: set[Right] = set()
    bindings = SYSTEM.list("clusterrolebindings") + SYSTEM.list("rolebindings", "--all-namespaces")
    for binding in bindings:
        if ACCOUNT not in [
            {k: v for k, v in subject.items() if k in ACCOUNT}
            for subject in binding.get("subjects") or []
        ]:
            continue
        reference = binding["roleRef"]
        for rule in SYSTEM.get(reference["kind"], reference["name"])["rules"]:
            for verb in rule["verbs"]:
                for path in rule.get("nonResourceURLs", []):
                    found.add(Right("", path, verb))
                for group in rule.get("apiGroups", []):
                    for resource in rule.get("resources", []):
                        found.add(Right(group, resource, verb))
    return found


class Audit:
    """The audit log: what the account has asked for since the cluster's start."""

    def __init__(self) -> None:
        self._file = processes.folder() / AUDIT_LOG
        self._read = 0
        self._used: set[Right] = set()
        self._refused: list[str] = []

    def used(self) -> set[Right]:
        """The rights that were made use of."""
        self._look()
        return self._used

    def refused(self) -> list[str]:
        """Rights that the account did not have, with what it was asked for."""
        self._look()
        return self._refused

    def _look(self) -> None:
        """Reads what is new; a last line that is half written is left for the next time."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                event = json.loads(line)
                right = _right_of(event)
                if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
                    self._refused.append(f"{right}: {event['requestURI']}")
                if not _everybodys(right):
                    self._used.add(right)


def _right_of(event: Json) -> Right:
    reference = event.get("objectRef")
    if reference is None:
        return Right("", event["requestURI"].partition("?")[0], event["verb"])
    resource = "/".join(
        part for part in (reference["resource"], reference.get("subresource")) if part
    )
    return Right(reference.get("apiGroup", ""), resource, event["verb"])


def _everybodys(right: Right) -> bool:
    """What anybody may who has logged in: to ask what there is."""
    return right.verb == "get" and (
        right.resource == "/api" or right.resource.startswith(("/apis", "/api/"))
    )


async def hurry(
    audit: Audit, kube: Kube, namespace: str, kind: Kind, name: str, field: str, wanted: Right
) -> None:
    """Changes an object until the operator's write of its status has met a newer one."""
    deadline = time.monotonic() + 20
    count = 0
    while True:
        count += 1
        changes = {"spec": {field: f"{count % 50 + 60}s" if field != "description" else str(count)}}
        await kube.patch(kind, namespace, name, changes)
        if count % 50 == 0 and wanted in audit.used():
            return
        assert time.monotonic() < deadline, f"no {wanted} after {count} changes"


async def hurry_all(audit: Audit, namespace: str) -> None:
    async with connect() as kube:
        await asyncio.gather(
            *(
                hurry(
                    audit,
                    kube,
                    namespace,
                    kind,
                    name,
                    field,
                    Right("corral.dev", kind.plural, "get"),
                )
                for kind, name, field in (
                    (AGENTS, "plain", "description"),
                    (MODELS, "said", "timeout"),
                    (CRONS, "often", "startingDeadline"),
                    (POOLS, "idle", "drainTimeout"),
                    (WORKFLOWS, "asks", "activeDeadline"),
                )
            )
        )


def cron(name: str) -> Json:
    work = {"steps": [{"name": "a", "wait": {"duration": "1h"}}]}
    spec = {"schedule": "* * * * *", "concurrencyPolicy": "Replace", "workflowSpec": work}
    spec["historyLimits"] = {"succeeded": 0}
    return _object("CronWorkflow", name, spec)


def _object(kind: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def run_of(made: Json, minute: int, work: Json) -> Json:
    """A Workflow as the cron made it in a minute before."""
    run = _object("Workflow", f"{made['metadata']['name']}-{minute}", work)
    run["metadata"]["labels"] = {"corral.dev/cron": made["metadata"]["name"]}
    run["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "CronWorkflow",
            "name": made["metadata"]["name"],
            "uid": made["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    return run


def until_used(audit: Audit, rights: Iterable[Right], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while missing := sorted(set(rights) - audit.used()):
        words = ", ".join(map(str, missing))
        assert time.monotonic() < deadline, f"{what}: the operator did not use: {words}"
        time.sleep(0.2)


def corral(resource: str, *verbs: str) -> set[Right]:
    return {Right("corral.dev", resource, verb) for verb in verbs}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    processes.folder()  # only there is an audit log
    with fresh_namespace() as cluster:
        yield Lab(cluster)


def test_the_operator_uses_what_it_may_and_may_what_it_uses(lab: Lab) -> None:
    audit = Audit()
    cluster, urgent = lab.cluster, f"urgent-{lab.cluster.namespace}"
    said = _object("Model", "said", {"provider": "simulated", "simulation": {"latency": "1s"}})
    nowhere = {"resources": {}, "nodeSelector": {"no-such": "node"}}
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": urgent},
        "value": 1000,
    }
    lines = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "lines"},
        "data": {"k": "[1, 2]"},
    }
    [plain, _], stuck = agent("plain", "said"), agent("stuck", "said", template=nowhere)
    [_, idle] = agent("idle", "said", replicas=0)
    idle["spec"]["agentRef"]["name"] = "stuck"
    listed = {"forEach": {"configMapKeyRef": {"name": "lines", "key": "k"}}}
    asked = {"prompt": "May it?", "approvers": [{"kind": "User", "name": "nobody"}]}
    slow = step("slow", agent="plain")
    objects = [
        *(said, plain, *stuck, idle, priority, lines, cron("often")),
        template("small", {"name": "a", "transform": "x"}),
        workflow("all", step("lines", agent="plain", **listed), priorityClassName=urgent),
        workflow("parent", {"name": "child", "workflow": {"templateRef": {"name": "small"}}}),
        workflow("asks", {"name": "ask", "approval": asked}),
        workflow("passes", {"name": "a", "transform": "x"}, ttlAfterFinished="1s"),
        from_template("made", "small"),
    ]
    try:
        cluster.apply(yaml.safe_dump_all(objects))
        made = cluster.wait(
            "ccron", "often", lambda c: c.get("status", {}).get("scheduledUntil"), "looked at"
        )
        # Two runs of minutes ago, and a status that says that the minutes since are still to come.
        minute = int(time.time() // 60)
        lab.make(
            run_of(made, minute - 7, made["spec"]["workflowSpec"]),
            run_of(made, minute - 8, {"steps": [{"name": "a", "transform": "x"}]}),
        )
        _schedule_again(lab, minute - 3)
        until_used(
            audit,
            corral("workflows", "create", "delete", "patch")
            | corral("cronworkflows/status", "update"),
            "the runs of a cron",
        )
        # Its default pool goes when another names the Agent; then a worker dies at work.
        cluster.finished("all")
        default = cluster.list("agentpool", "--field-selector=metadata.name=plain-default")
        assert default, "there was no default pool"
        cluster.apply(yaml.safe_dump(agent("plain", "said")[1]))
        lab.ready("plain", 1)
        until_used(audit, corral("agentpools", "create", "delete"), "default pools")
        cluster.patch("model", "said", {"spec": {"simulation": {"latency": "20s"}}})
        _dies_at_work(lab, audit, slow)
        asyncio.run(hurry_all(audit, cluster.namespace))
        cluster.patch("agentpool", "plain", {"spec": {"replicas": 0}})
        until_used(
            audit,
            [
                *corral("approvalrequests", "create"),
                Right("", "configmaps", "get"),
                Right("", "events", "list"),
                *(Right("", "pods", verb) for verb in ("create", "delete", "get")),
                Right("scheduling.k8s.io", "priorityclasses", "get"),
            ],
            "the rest",
        )
    finally:
        cluster.kubectl("delete", "priorityclass", urgent, "--ignore-not-found")
    assert audit.refused() == [], "the operator asks for what it may not"
    unused = {(right.group, right.resource, right.verb) for right in granted() - audit.used()}
    assert unused - set(UNUSED) == set(), "the operator may what it never does"


def _schedule_again(lab: Lab, minute: int) -> None:
    """Writes the cron's status as only the operator may: it was last looked at in that minute."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(60 * minute))
    deadline = time.monotonic() + 20
    while True:
        obj = lab.cluster.get("ccron", "often")
        obj["status"]["scheduledUntil"] = moment
        words = ("replace", "--subresource=status", "--filename=-")
        done = lab.cluster.kubectl(*words, input=json.dumps(obj), as_user=OPERATOR, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr


def _dies_at_work(lab: Lab, audit: Audit, slow: Json) -> None:
    lab.start(workflow("interrupted", slow))
    lab.cluster.wait(
        "workflow",
        "interrupted",
        lambda w: w.get("status", {}).get("phase") == "Running",
        "at work",
    )
    lab.cluster.wait(
        "agentpool", "plain", lambda p: p["status"].get("runningSteps", 0) == 1, "at work"
    )
    [worker] = lab.workers("plain")
    processes.kill(processes.of_pod(worker))
    until_used(audit, [Right("", "pods", "get")], "a worker that is gone")


def pod(**changes: object) -> Json:
    """A pod as the operator makes them, but for the changes to its spec (or its owner)."""
    owner = changes.pop("owner", "AgentPool")
    container = {
        "name": "worker",
        "image": "localhost/corral:dev",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            **changes.pop("container", {}),  # type: ignore[dict-item]
        },
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "nodeSelector": {"no-such": "node"},
        **changes,
    }
    reference = {
        "apiVersion": "corral.dev/v1alpha1" if owner == "AgentPool" else "apps/v1",
        "kind": owner,
        "name": "p",
        "uid": "1f0e5f0a-0000-4000-8000-000000000000",
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "made-", "ownerReferences": [reference]},
        "spec": spec,
    }


def volume(**source: object) -> list[Json]:
    return [{"name": "v", **source}]


def projected(**source: object) -> list[Json]:
    return volume(projected={"sources": [source]})


OTHER_PODS = {
    "of nobody": (pod(owner="ReplicaSet"), "only pods of an AgentPool"),
    "as another account": (pod(serviceAccountName="other"), "the account default"),
    "with its account's token": (pod(automountServiceAccountToken=True), "no token of it"),
    "on the host's network": (pod(hostNetwork=True), "nothing of its host"),
    "with a second container": (
        pod(initContainers=[{"name": "i", "image": "x"}]),
        "one container",
    ),
    "privileged": (
        pod(container={"privileged": True, "allowPrivilegeEscalation": True}),
        "no privileges",
    ),
    "with a capability": (
        pod(container={"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}),
        "no privileges",
    ),
    "as root": (pod(container={"runAsUser": 0}), "no privileges"),
    "that writes to its image": (pod(container={"readOnlyRootFilesystem": False}), "no privileges"),
    "with the host's files": (pod(volumes=volume(hostPath={"path": "/"})), "volumes are"),
    "with a token for the API server": (
        pod(volumes=projected(serviceAccountToken={"path": "t"})),
        "volumes are",
    ),
    "with a token for somebody else": (
        pod(volumes=projected(serviceAccountToken={"path": "t", "audience": "vault"})),
        "volumes are",
    ),
}


def test_the_operators_account_makes_no_other_pods_and_ends_none() -> None:
    with fresh_namespace() as cluster:
        # Without Pod Security: what is refused is refused by the operator's own bounds.
        label = "pod-security.kubernetes.io/enforce=privileged"
        cluster.kubectl("label", "namespace", cluster.namespace, label, "--overwrite")
        cluster.kubectl("create", "serviceaccount", "other")
        words = ("create", "--dry-run=server", "--filename=-")
        done = cluster.kubectl(*words, input=json.dumps(pod()), as_user=OPERATOR, check=False)
        assert done.returncode == 0, done.stderr
        for what, (manifest, why) in OTHER_PODS.items():
            done = cluster.kubectl(
                *words, input=json.dumps(manifest), as_user=OPERATOR, check=False
            )
            assert done.returncode != 0, what
            assert why in done.stderr, what
        users = pod(owner="ReplicaSet")
        users["metadata"] = {"name": "users"}
        cluster.apply(json.dumps(users))
        done = cluster.kubectl("delete", "pod", "users", as_user=OPERATOR, check=False)
        assert "only pods of an AgentPool" in done.stderr


def test_the_operators_account_touches_no_run_that_is_not_its_own(lab: Lab) -> None:
    mine = workflow("mine", {"name": "a", "wait": {"duration": "1h"}})
    made = lab.cluster.get("ccron", "often")
    owned = run_of(made, 1, mine["spec"])
    pool = agent("mine", "said", replicas=0)[1]
    lab.make(mine, owned, pool)

    def refused(*words: str, because: str) -> None:
        done = lab.cluster.kubectl(*words, as_user=OPERATOR, check=False)
        assert done.returncode != 0, words
        assert because in done.stderr, words

    refused("delete", "workflow", "mine", because="deletes those of CronWorkflows")
    stop = '--patch={"spec":{"shutdown":"Stop"}}'
    refused("patch", "workflow", "mine", "--type=merge", stop, because="makes Workflows of")
    for changes in (
        {"spec": {"suspend": True}},
        {"spec": {"shutdown": "Stop", "parallelism": 1}},
        {"metadata": {"labels": {"team": "other"}}},
        {"metadata": {"annotations": {"corral.dev/created-by": "somebody"}}},
    ):
        refused(
            *("patch", "workflow", owned["metadata"]["name"], "--type=merge"),
            f"--patch={json.dumps(changes)}",
            because="nothing of a Workflow but spec.shutdown",
        )
    refused("delete", "agentpool", "mine", because="only default pools")
    forged = json.dumps(workflow("forged", {"name": "a", "transform": "x"}))
    done = lab.cluster.kubectl(
        "create", "--filename=-", input=forged, as_user=OPERATOR, check=False
    )
    assert "makes Workflows of CronWorkflows" in done.stderr


def test_the_operators_account_has_no_right_on_secrets_and_none_on_everything() -> None:
    for namespace in ("default", "corral-system"):
        words = ("auth", "can-i", "--list", "--no-headers", f"--namespace={namespace}")
        listed = SYSTEM.kubectl(*words, f"--as={OPERATOR}").stdout.splitlines()
        resources = {line.split()[0].partition(".")[0] for line in listed}
        assert "pods" in resources
        assert not resources & {"secrets", "*", "*/*"}
        verbs = {verb for line in listed for verb in line[line.rindex("[") + 1 : -1].split()}
        assert not verbs & {"*", "escalate", "bind", "impersonate", "deletecollection"}
