"""An agent on a model server whose journal tells what was really called, and how often."""

import json
import time
from collections import Counter
from typing import Any

import yaml

from tests.cluster import processes
from tests.cluster.harness import REPO, Cluster, Json, documents

IMAGE = "localhost/corral:dev"
SYSTEM = Cluster("corral-system")
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _named(kind: str, name: str, **fields: Any) -> Json:
    group = "apps/v1" if kind == "Deployment" else "v1"
    if kind in ("Model", "Agent", "AgentPool", "Workflow", "WorkflowTemplate"):
        group = "corral.dev/v1alpha1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name}, **fields}


def _server(program: str, *args: str, name: str = "", volumes: Json | None = None) -> list[Json]:
    """A program of the image that serves HTTP; ``volumes``: ConfigMaps by where they are."""
    name = name or program
    labels = {"app": name}
    mounts = volumes or {}
    container = {
        "name": name,
        "image": IMAGE,
        "args": [program, *args],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        "securityContext": _RESTRICTED,
        "volumeMounts": [{"name": made, "mountPath": at} for at, made in mounts.items()],
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": made, "configMap": {"name": made}} for made in mounts.values()],
    }
    return [
        _named(
            "Deployment",
            name,
            spec={
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        ),
        _named(
            "Service", name, spec={"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
        ),
    ]


def model_server(rules: Json) -> list[Json]:
    """A model server that answers by these rules."""
    return [
        _named("ConfigMap", "rules", data={"rules.yaml": yaml.safe_dump(rules)}),
        *_server("model-server", "--rules=/etc/rules/rules.yaml", volumes={"/etc/rules": "rules"}),
    ]


def keyed_server(name: str, rules: Json, key: str) -> list[Json]:
    """One more model server, which answers those alone that have a key."""
    args = ("--rules=/etc/keyed/rules.yaml", "--api-key-file=/etc/keyed/key")
    return [
        _named("ConfigMap", name, data={"rules.yaml": yaml.safe_dump(rules), "key": key}),
        *_server("model-server", *args, name=name, volumes={"/etc/keyed": name}),
    ]


def tool_server() -> list[Json]:
    """A server of tools that keeps a journal."""
    return _server("tool-server")


def agent(
    name: str = "worker", model: str = "served", more: Json | None = None, **pool: Any
) -> list[Json]:
    """An Agent of that Model, with ``more`` in its spec, and a pool for it."""
    resources = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
    spec = {
        "agentRef": {"name": name},
        "template": {"resources": resources},
        "drainTimeout": "20s",
        **({"replicas": 1} if "autoscaling" not in pool else {}),
        **pool,
    }
    of = {"description": "Answers.", "modelRef": {"name": model}, **(more or {})}
    return [_named("Agent", name, spec=of), _named("AgentPool", name, spec=spec)]


def served_model(name: str = "served", more: Json | None = None) -> Json:
    """A Model that leads to the model server of its namespace, with ``more`` in its spec."""
    spec = {
        "provider": "openai",
        "name": "gpt-5-mini",
        "baseURL": "http://model-server/v1",
        "timeout": "30s",
        "price": {"inputPerMillionUSD": "1", "outputPerMillionUSD": "1"},
        **(more or {}),
    }
    return _named("Model", name, spec=spec)


def step(name: str, *after: str, agent: str = "worker", **fields: Any) -> Json:
    """A step whose input tells it from all others."""
    made: Json = {"name": name, "agentRef": {"name": agent}, **fields}
    made.setdefault("input", f"{name}: go")
    return made | ({"dependsOn": list(after)} if after else {})


def workflow(name: str, *steps: Json, **spec: Any) -> Json:
    return _named("Workflow", name, spec={"steps": list(steps), **spec})


def template(name: str, *steps: Json, **spec: Any) -> Json:
    return _named("WorkflowTemplate", name, spec={"steps": list(steps), **spec})


def from_template(name: str, of: str, **spec: Any) -> Json:
    """A Workflow of a template."""
    return _named("Workflow", name, spec={"workflowTemplateRef": {"name": of}, **spec})


def each(*items: Any, **more: Any) -> Json:
    """A step's forEach."""
    return {"forEach": {"items": list(items), **more}}


def searches(*items: Any, **fields: Any) -> Json:
    """A step that asks the tool server once for each item."""
    called = {
        "mcp": {"url": "http://tool-server/mcp"},
        "name": "search",
        "arguments": {"query": "$(item)"},
    }
    return {"name": "search", "tool": called, **each(*items), **fields}


class Lab:
    """A namespace with a model server, an Agent and its workers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def build(self, rules: Json, *objects: Json) -> None:
        """Makes it, and waits for the model server and for every pool's workers."""
        made = [*model_server(rules), served_model(), *objects]
        self.cluster.apply(yaml.safe_dump_all(made))
        for obj in made:
            if obj["kind"] == "Deployment":
                name = f"deployment/{obj['metadata']['name']}"
                self.cluster.kubectl("rollout", "status", name, "--timeout=60s")
        for obj in objects:
            if obj["kind"] == "AgentPool":
                self.ready(obj["metadata"]["name"], obj["spec"].get("replicas", 0))

    def ready(self, pool: str, workers: int) -> None:
        self.cluster.wait(
            "agentpool",
            pool,
            lambda p: p.get("status", {}).get("readyReplicas", 0) >= workers,
            f"ready with {workers} workers",
        )

    def start(self, obj: Json) -> str:
        """Makes a Workflow; its UID."""
        done = self.cluster.kubectl(
            "create", "--filename=-", "--output=json", input=yaml.safe_dump(obj)
        )
        uid: str = json.loads(done.stdout)["metadata"]["uid"]
        return uid

    def make(self, *objects: Json) -> dict[str, str]:
        """Makes objects; their UIDs by name."""
        # JSON: in YAML kubectl would read an unquoted y or n as a boolean.
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        words = ("create", "--filename=-", "--output=json")
        done = self.cluster.kubectl(*words, input=text, check=False)
        assert done.returncode == 0, done.stderr
        made = documents(done.stdout)
        return {obj["metadata"]["name"]: obj["metadata"]["uid"] for obj in made}

    def journal(self, server: str = "model-server") -> list[Json]:
        """What a server was asked, oldest first."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/services/{server}:80/proxy/journal"
        answer = json.loads(self.cluster.kubectl("get", f"--raw={path}").stdout)
        found: list[Json] = answer["requests" if server == "model-server" else "calls"]
        return found

    def answer_by(self, rules: Json) -> None:
        """Gives the model server other rules; they may be more than a ConfigMap holds."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/services/model-server:80/proxy/rules"
        self.cluster.kubectl("replace", f"--raw={path}", "--filename=-", input=json.dumps(rules))

    def calls(self, run: str, server: str = "model-server") -> list[Json]:
        """What the model server, or another, was asked in a run, oldest first."""
        found = self.journal(server)
        return [one for one in found if (one.get("attemptID") or "").startswith(f"{run}.")]

    def family(self, name: str) -> list[Json]:
        """A Workflow and those that were made for it, and for these."""
        everything = self.cluster.list("workflows")
        found = [obj for obj in everything if obj["metadata"]["name"] == name]
        for parent in found:
            uid = parent["metadata"]["uid"]
            found += [
                obj
                for obj in everything
                if any(one["uid"] == uid for one in obj["metadata"].get("ownerReferences", []))
            ]
        return found

    def family_calls(self, name: str) -> list[Json]:
        """What the model server was asked in a run and in its children."""
        return [
            call for run in self.family(name) for call in self.calls(str(run["metadata"]["uid"]))
        ]

    def until_called(self, run: str, count: int = 1, timeout: float = 30) -> None:
        """Waits until so many calls of the run have arrived."""
        deadline = time.monotonic() + timeout
        while len(self.calls(run)) < count:
            assert time.monotonic() < deadline, f"{len(self.calls(run))} of {count} calls came"
            time.sleep(0.05)

    def called_once_each(self, run: str, inputs: set[str]) -> None:
        """Every input was asked once, by one attempt."""
        calls = self.calls(run)
        assert Counter(call["lastUser"] for call in calls) == dict.fromkeys(inputs, 1)
        assert len({call["attemptID"] for call in calls}) == len(calls)

    def workers(self, pool: str = "worker") -> list[Json]:
        """A pool's pods that are not going."""
        pods = self.cluster.list("pods", f"--selector=corral.dev/pool={pool}")
        return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def operators() -> list[Json]:
    """The operator's pods that are not going."""
    pods = SYSTEM.list("pods", "--selector=app.kubernetes.io/component=operator")
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def lease() -> Json:
    """The Lease's spec."""
    spec: Json = SYSTEM.get("lease", "corral-operator")["spec"]
    return spec


def led_since(epoch: int, timeout: float) -> Json:
    """Waits for a term later than that epoch; the Lease's spec."""
    deadline = time.monotonic() + timeout
    while True:
        done = SYSTEM.kubectl("get", "lease", "corral-operator", "--output=json", check=False)
        spec: Json = json.loads(done.stdout)["spec"] if done.returncode == 0 else {}
        if spec.get("leaseTransitions", 0) > epoch and spec.get("holderIdentity"):
            return spec
        assert time.monotonic() < deadline, f"nobody leads after {timeout:g} s: {spec}"
        time.sleep(0.1)


def restarts() -> int:
    """How often the operators' containers have been started again."""
    return sum(
        status["restartCount"]
        for pod in operators()
        for status in pod["status"].get("containerStatuses", [])
    )


def replace_operator(pod: Json) -> None:
    """Has a new pod made for one that was killed, without the kubelet's ever longer waits."""
    SYSTEM.kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
    # What the dead process would have done, had it been asked to end: the next need not wait.
    SYSTEM.kubectl(
        "patch",
        "lease",
        "corral-operator",
        "--type=merge",
        '--patch={"spec":{"holderIdentity":""}}',
    )


def kill_operator() -> None:
    """Kills the operator, and waits until another leads."""
    epoch = lease()["leaseTransitions"]
    [pod] = operators()
    processes.kill(processes.of_pod(pod))
    replace_operator(pod)
    led_since(epoch, 40)


def operator_metrics(pod: Json | None = None) -> str:
    """The operator's metrics page."""
    name = (pod or operators()[0])["metadata"]["name"]
    return SYSTEM.kubectl(
        "get", f"--raw=/api/v1/namespaces/corral-system/pods/{name}:9090/proxy/metrics"
    ).stdout


__all__ = ["REPO", "Lab", "agent", "model_server", "step", "workflow"]
