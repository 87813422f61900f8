"""What a cluster's users, pods and workers can't do."""

import base64
import json
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cluster.config import VOLUME
from corral.api.attempt import EXTENSION, IDENTITY_FILE, WORKER_AUDIENCE, WORKER_PORT
from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, why
from tests.cluster.lab import SYSTEM, Lab, agent, operator_metrics, operators, step, workflow

CANARY = "sk-canary-3f9a1c77e0"
RULES = {"latency": "100ms", "rules": [{"match": "^fail", "fault": "ServerError"}]}

# Reads the arguments as JSON, makes the calls, prints their statuses and bodies.
CALLER = """
import json, sys, urllib.request, urllib.error
out = []
for call in json.loads(sys.argv[1]):
    headers = dict(call["headers"])
    if call.get("file"):
        headers["Authorization"] = "Bearer " + open(call["file"]).read().strip()
    data = json.dumps(call["body"]).encode() if call.get("body") is not None else None
    request = urllib.request.Request(call["url"], data, headers, method=call["method"])
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            out.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        out.append([error.code, error.read().decode()])
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "key"},
            "stringData": {"key": CANARY},
        }
        cluster.apply(yaml.safe_dump(secret))
        made = Lab(cluster)
        objects = agent("worker", model="secret", replicas=2, concurrency=4)
        spec = {
            "provider": "openai",
            "name": "gpt-5-mini",
            "baseURL": "http://model-server/v1",
            "apiKeySecretRef": {"name": "key", "key": "key"},
        }
        model = {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "Model",
            "metadata": {"name": "secret"},
            "spec": spec,
        }
        made.build(RULES, model, *objects)
        yield made


def test_nobody_but_the_operator_writes_status(lab: Lab) -> None:
    lab.start(workflow("forged", step("one")))
    lab.cluster.finished("forged")
    for kind, name in (("workflow", "forged"), ("agent", "worker"), ("agentpool", "worker")):
        forged = {"status": {"phase": "Failed", "message": "forged", "replicas": 9}}
        done = lab.cluster.kubectl(
            "patch", kind, name, "--subresource=status", "--type=merge",
            f"--patch={json.dumps(forged)}", check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "only the operator's account" in done.stderr


def test_no_pod_without_the_operators_token_for_it_gets_anything_from_a_worker(lab: Lab) -> None:
    one, other = lab.workers()
    address = f"http://{one['status']['podIP']}:8080"
    # The operator's own tokens, as only the operator can ask for them.
    right, wrong = (
        SYSTEM.kubectl(
            "create", "token", "corral-operator", f"--audience={pod['metadata']['uid']}"
        ).stdout.strip()
        for pod in (one, other)
    )
    default = SYSTEM.kubectl("create", "token", "corral-operator").stdout.strip()
    body = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
    paths = [("POST", "/message:send", body), ("GET", "/corral/v1/inventory", None)]
    paths += [("POST", "/corral/v1/drain", {}), ("POST", "/", {"jsonrpc": "2.0"})]
    tokens = [None, "garbage", wrong, default, "FILE", "AUDIENCE"]
    calls: list[Json] = []
    for method, path, content in paths:
        for token in tokens:
            call: Json = {"method": method, "url": address + path, "body": content}
            call["headers"] = {"Content-Type": "application/json", "A2A-Version": "1.0"}
            if token == "FILE":
                call["file"] = "/tokens/plain"
            elif token == "AUDIENCE":
                call["file"] = "/tokens/aimed"
            elif token is not None:
                call["headers"]["Authorization"] = f"Bearer {token}"
            calls.append(call)
    good = {"method": "GET", "url": f"{address}/corral/v1/inventory", "body": None}
    good["headers"] = {"Authorization": f"Bearer {right}"}
    *refused, answered = _from_a_pod(lab, [*calls, good], one["metadata"]["uid"])
    assert len(refused) == len(paths) * len(tokens)
    assert {status for status, _ in refused} == {401}
    assert len({text for _, text in refused}) == 1, "the answers tell what is wrong with a token"
    assert answered[0] == 200
    assert json.loads(answered[1])["draining"] is False


def _program(name: str, audience: str, source: str, *arguments: str) -> Json:
    """A pod of a user that runs Python, with tokens of its own account in /tokens."""
    projected = [
        {"serviceAccountToken": {"path": "plain"}},
        {"serviceAccountToken": {"path": "aimed", "audience": audience}},
    ]
    container = {
        "name": name,
        "image": "localhost/corral:dev",
        "command": ["/opt/corral/bin/python", "-c", source, *arguments],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tokens", "mountPath": "/tokens"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tokens", "projected": {"sources": projected}}],
        },
    }


def _from_a_pod(lab: Lab, calls: list[Json], audience: str) -> list[tuple[int, str]]:
    """Makes calls from a pod of a user in the same namespace."""
    pod = _program("caller", audience, CALLER, json.dumps(calls))
    lab.cluster.apply(yaml.safe_dump(pod))
    ended = lab.cluster.wait(
        "pod", "caller", lambda p: p["status"]["phase"] in ("Succeeded", "Failed"), "ended"
    )
    logs = lab.cluster.kubectl("logs", "caller").stdout
    assert ended["status"]["phase"] == "Succeeded", logs
    answers: list[tuple[int, str]] = json.loads(logs)
    return answers


def test_worker_pods_are_restricted_and_their_token_opens_nothing(lab: Lab) -> None:
    for pod in lab.workers():
        spec = pod["spec"]
        [container] = spec["containers"]
        security = container["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        [identity] = [v for v in spec["volumes"] if "projected" in v]
        [source] = identity["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == WORKER_AUDIENCE
        assert set(container["resources"]["limits"]) >= {"memory"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        name = pod["metadata"]["name"]
        status = lab.cluster.kubectl("exec", name, "--", "cat", "/proc/self/status").stdout
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert fields["CapEff"].strip() == fields["CapBnd"].strip() == "0" * 16
        assert fields["Uid"].split()[0] != "0"
        assert fields["NoNewPrivs"].strip() == "1"
        found = lab.cluster.kubectl("exec", name, "--", "find", "/var/run/secrets", "-type", "f")
        assert found.stdout == ""
        done = lab.cluster.kubectl("exec", name, "--", "touch", "/opt/x", check=False)
        assert "Read-only file system" in done.stderr
        token = lab.cluster.kubectl("exec", name, "--", "cat", IDENTITY_FILE).stdout.strip()
        words = ("auth", "whoami", f"--token={token}", "--kubeconfig=/dev/null")
        server = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["clusters"][0]
        address = f"--server={server['cluster']['server']}"
        done = lab.cluster.kubectl(*words, address, "--insecure-skip-tls-verify", check=False)
        assert "Unauthorized" in done.stderr + done.stdout


def test_a_key_appears_nowhere_but_at_the_provider(lab: Lab) -> None:
    names = [f"canary-{n}" for n in range(3)]
    lab.start(workflow(names[0], step("one")))
    lab.start(workflow(names[1], step("one", input="fail")))
    lab.start(workflow(names[2], step("one", input=f"say it back: {CANARY[:9]}")))
    for name in names:
        lab.cluster.finished(name)
    kinds = "workflows,agents,agentpools,models,pods,events,configmaps"
    texts = {"objects": lab.cluster.kubectl("get", kinds, "--output=json").stdout}
    texts["events"] = lab.cluster.kubectl("get", "events.events.k8s.io", "--output=json").stdout
    for pod in lab.workers():
        name = pod["metadata"]["name"]
        texts[name] = lab.cluster.kubectl("logs", name).stdout
        path = f"/api/v1/namespaces/{lab.cluster.namespace}/pods/{name}:8080/proxy/metrics"
        texts[f"metrics of {name}"] = lab.cluster.kubectl("get", f"--raw={path}").stdout
        seen = lab.cluster.kubectl(
            "exec", name, "--", "sh", "-c", "cat /etc/corral/keys/secret/key"
        )
        assert seen.stdout == CANARY, "the canary is not where it belongs"
        environment = lab.cluster.kubectl("exec", name, "--", "cat", "/proc/1/environ").stdout
        texts[f"environment of {name}"] = environment
    for pod in operators():
        texts["operator"] = SYSTEM.kubectl("logs", pod["metadata"]["name"]).stdout
    for where, text in texts.items():
        assert CANARY not in text, f"the key is in: {where}"


# A model server that sends back what it was sent: as an error, or within a large answer.
HOSTILE = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Hostile(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = self.headers["Authorization"]
        status, answer = 400, {"error": {"message": f"you sent {key}", "code": key}}
        if "answer" in asked:
            message = {"role": "assistant", "content": f"you sent {key} " * 200}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            status, answer = 200, {"id": key, "object": "chat.completion", "created": 1,
                                   "model": key, "choices": [choice], "usage": usage}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *args): pass

ThreadingHTTPServer(("", 8080), Hostile).serve_forever()
"""


def test_a_model_server_that_sends_the_key_back_does_not_spread_it(lab: Lab) -> None:
    program = _program("hostile", "nobody", HOSTILE)
    program["metadata"]["labels"] = {"app": "hostile"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hostile"},
        "spec": {"selector": {"app": "hostile"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    model = lab.cluster.get("model", "secret")
    model = {key: model[key] for key in ("apiVersion", "kind", "spec")}
    model["metadata"] = {"name": "hostile"}
    model["spec"]["baseURL"] = "http://hostile/v1"
    talkative = {"env": [{"name": "CORRAL_LOG_LEVEL", "value": "debug"}]}
    objects = agent("hostile", model="hostile", template=talkative)
    lab.cluster.apply(yaml.safe_dump_all([program, service, model, *objects]))
    lab.ready("hostile", 1)
    lab.cluster.wait("pod", "hostile", lambda p: p["status"]["phase"] == "Running", "running")
    uid = lab.start(
        workflow(
            "hostile",
            step("large", agent="hostile", input="answer"),
            step("error", "large", agent="hostile", allowFailure=True),
        )
    )
    done = lab.cluster.finished("hostile")
    large, error = done["status"]["steps"]
    assert error["phase"] == "Failed"
    assert "[redacted]" in error["message"]
    journal = base64.b64decode(done["status"]["journal"].partition(":")[2])
    [folder] = (processes.folder() / VOLUME).glob(f"artifacts/*/{uid}")
    stored = "".join(file.read_text() for file in folder.iterdir())
    assert stored.count("[redacted]") == 200
    [worker] = lab.workers("hostile")
    texts = {
        "objects": json.dumps(done) + lab.cluster.kubectl("get", "events", "--output=yaml").stdout,
        "journal": zlib.decompress(journal).decode(),
        "artifact": stored,
        "worker": lab.cluster.kubectl("logs", worker["metadata"]["name"]).stdout,
        "operator": SYSTEM.kubectl("logs", operators()[0]["metadata"]["name"]).stdout,
    }
    for where, text in texts.items():
        assert text
        assert CANARY not in text, f"the key is in: {where}"
    assert large["phase"] == "Succeeded"
    lab.cluster.kubectl("delete", "pod", "hostile", "--force", "--grace-period=0")


def test_operator_pods_are_restricted() -> None:
    namespace = SYSTEM.get("namespace", "corral-system")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in operators():
        spec = pod["spec"]
        [container] = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_metrics_name_no_runs(lab: Lab) -> None:
    uid = lab.start(workflow("a-run-with-a-name", step("stepWithAName")))
    lab.cluster.finished("a-run-with-a-name")
    texts = [operator_metrics()]
    for pod in lab.workers():
        path = f"/api/v1/namespaces/{lab.cluster.namespace}/pods/{pod['metadata']['name']}"
        texts.append(lab.cluster.kubectl("get", f"--raw={path}:8080/proxy/metrics").stdout)
    for text in texts:
        assert "corral_" in text
        for name in ("a-run-with-a-name", "stepWithAName", uid):
            assert name not in text


def test_a_pod_that_says_it_is_a_worker_is_given_no_work(lab: Lab) -> None:
    [real, _] = lab.workers()
    labels = {**real["metadata"]["labels"], "corral.dev/slot": "7"}
    impostor = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "impostor", "labels": labels},
        "spec": {**real["spec"], "nodeName": None},
    }
    for volume in list(impostor["spec"]["volumes"]):
        if volume["name"].startswith("kube-api-access"):
            impostor["spec"]["volumes"].remove(volume)
    lab.cluster.apply(yaml.safe_dump(impostor))
    time.sleep(2)
    runs = [lab.start(workflow(f"offered-{n}", step("one"), step("two"))) for n in range(4)]
    for n in range(4):
        done = lab.cluster.finished(f"offered-{n}")
        assert done["status"]["phase"] == "Succeeded", why(done, "Succeeded")
    assert runs
    assert lab.cluster.get("agentpool", "worker")["status"]["replicas"] == 2
    log = SYSTEM.kubectl("logs", operators()[0]["metadata"]["name"], "--since=30s").stdout
    assert not [line for line in log.splitlines() if "impostor" in line and "attempt" in line]
    lab.cluster.kubectl("delete", "pod", "impostor", "--force", "--grace-period=0")


# Answers whatever a worker is asked as that worker would, and shows a good token: its own.
IMPOSTOR = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Impostor(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        uid = self.headers.get("Corral-Worker-UID")
        print(self.path, flush=True)
        if self.path == "/message:send":
            asked = body["message"]
            report = {"attemptID": asked["messageId"], "podUID": uid, "agentRevision": "any"}
            answer = {"task": {
                "id": asked["messageId"], "contextId": asked["contextId"],
                "status": {"state": "TASK_STATE_COMPLETED"}, "metadata": {sys.argv[1]: report},
                "artifacts": [{"artifactId": "output", "parts": [{"text": "forged"}]}],
            }}
        else:
            answer = {"podUID": uid, "epoch": 1, "draining": False, "free": 9, "attempts": []}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Corral-Worker-Identity", open("/tokens/aimed").read().strip())
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
    do_GET = do_POST
    def log_message(self, *args): pass

ThreadingHTTPServer(("", 8080), Impostor).serve_forever()
"""


@contextmanager
def _answered_by(address: str) -> Iterator[None]:
    """The operator's new connections to any worker lead there: as if it had that worker's address.

    The rule is in the network namespace of the operator's pod.
    """
    [pod] = operators()
    inside = ["nsenter", f"--target={processes.of_pod(pod)[0]}", "--net", "nft"]
    rules = f"""
    table ip impostor {{
      chain output {{
        type nat hook output priority -100;
        tcp dport {WORKER_PORT} dnat to {address}:{WORKER_PORT}
      }}
    }}
    """
    subprocess.run([*inside, "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*inside, "delete", "table", "ip", "impostor"], check=True)


def test_who_answers_at_a_workers_address_is_not_believed(lab: Lab) -> None:
    program = _program("stranger", WORKER_AUDIENCE, IMPOSTOR, EXTENSION)
    lab.cluster.apply(yaml.safe_dump(program))
    pod = lab.cluster.wait(
        "pod", "stranger", lambda p: p["status"]["phase"] == "Running", "running"
    )
    [operator] = operators()

    def told() -> str:
        return SYSTEM.kubectl("logs", operator["metadata"]["name"], "--since=60s").stdout

    def sent() -> int:
        return lab.cluster.kubectl("logs", "stranger").stdout.count("/message:send")

    with _answered_by(pod["status"]["podIP"]):
        # A new worker: to it there is no connection from before.
        objects = agent("lured", model="secret")
        lab.cluster.apply(yaml.safe_dump_all(objects))
        lab.ready("lured", 1)
        lab.start(workflow("lured", step("one", agent="lured")))
        deadline = time.monotonic() + 30
        while sent() < 2:
            assert time.monotonic() < deadline, "the stranger was not asked twice"
            time.sleep(0.1)
        waiting = lab.cluster.get("workflow", "lured")["status"]
        assert waiting["phase"] == "Running"
        assert "forged" not in json.dumps(waiting)
        [worker] = lab.workers("lured")
        said = f"the answer is not signed by {worker['metadata']['name']}: its token is another pod"
        assert said in told()
    done = lab.cluster.finished("lured")
    assert done["status"]["phase"] == "Succeeded", why(done, "Succeeded")
    assert done["status"]["steps"][0]["output"].startswith("A simulated answer")
    lab.cluster.kubectl("delete", "pod", "stranger", "--force", "--grace-period=0")
