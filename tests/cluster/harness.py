"""What tests on a cluster need: kubectl in a namespace, waiting, and a look at conditions."""

import json
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
OPERATOR = "system:serviceaccount:corral-system:corral-operator"
Json = dict[str, Any]


OURS = ("workflows", "agents", "agentpools", "models", "pods")
"""What the operator writes to in a namespace."""


class Cluster:
    """kubectl in one namespace of its own."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 (subprocess calls it so)
        check: bool = True,
        as_user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl; with ``check`` a failure raises an error that shows what it printed."""
        words = [str(REPO / ".cluster/bin/kubectl"), f"--namespace={self.namespace}", *arguments]
        if as_user:
            words += [f"--as={as_user}", "--as-group=system:authenticated"]
        done = subprocess.run(words, input=input, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done

    def apply(self, manifest: str) -> None:
        """Applies YAML; names of this test's namespace are filled in by kubectl."""
        self.kubectl("apply", "--filename=-", input=manifest)

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", kind, name, "--output=json").stdout)
        return found

    def list(self, kind: str, *arguments: str) -> list[Json]:
        answer = json.loads(self.kubectl("get", kind, "--output=json", *arguments).stdout)
        items: list[Json] = answer["items"]
        return items

    def wait(
        self,
        kind: str,
        name: str,
        condition: Callable[[Json], bool],
        what: str,
        timeout: float = 60,
    ) -> Json:
        """Waits until the object is as it should be; the failure shows how it was instead."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.kubectl("get", kind, name, "--output=json", check=False)
            found: Json = json.loads(done.stdout) if done.returncode == 0 else {}
            if found and condition(found):
                return found
            if time.monotonic() > deadline:
                found.get("status", {}).pop("journal", None)
                raise AssertionError(
                    f"{kind} {name}: not {what} within {timeout:g} s:\n"
                    + yaml.safe_dump(found.get("status", done.stderr))
                )
            time.sleep(0.1)

    def finished(self, name: str, timeout: float = 90) -> Json:
        """A Workflow once it has ended."""
        return self.wait(
            "workflow", name, lambda w: condition(w, "Finished") == "True", "finished", timeout
        )

    def all_finished(self, *names: str, timeout: float = 90) -> dict[str, Json]:
        """Workflows by name, once all of these have ended (or all that there are)."""
        which = names or ("--all",)
        waiting = ("wait", "--for=condition=Finished", f"--timeout={timeout:g}s", "workflow")
        self.kubectl(*waiting, *which)
        found = {obj["metadata"]["name"]: obj for obj in self.list("workflow")}
        return {name: found[name] for name in names or found}

    @contextmanager
    def watching(self, kind: str, name: str) -> Iterator["list[Json]"]:
        """Every state of an object that the API server tells of until the end of the block."""
        words = [str(REPO / ".cluster/bin/kubectl"), f"--namespace={self.namespace}"]
        words += ["get", kind, "--watch", "--output=json", f"--field-selector=metadata.name={name}"]
        seen: list[Json] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield seen
                time.sleep(0.5)
            finally:
                process.terminate()
                printed = process.stdout.read() if process.stdout else ""
        seen += documents(printed)

    def post(self, manifest: str) -> subprocess.CompletedProcess[str]:
        """Creates what is too large for ``apply``, or is to be refused."""
        return self.kubectl("create", "--filename=-", input=manifest, check=False)

    def patch(self, kind: str, name: str, changes: Json) -> None:
        """A merge patch."""
        self.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(changes)}")

    def versions(self, *kinds: str) -> dict[str, str]:
        """The resourceVersion of everything of these kinds."""
        answer = json.loads(self.kubectl("get", ",".join(kinds), "--output=json").stdout)
        return {
            f"{obj['kind']}/{obj['metadata']['name']}": obj["metadata"]["resourceVersion"]
            for obj in answer["items"]
        }

    def events(self, name: str, until: str, timeout: float = 10) -> dict[str, Json]:
        """An object's Events by reason, once there is one of reason ``until``."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.list("events", f"--field-selector=involvedObject.name={name}")
            by_reason = {event["reason"]: event for event in found}
            if until in by_reason or time.monotonic() > deadline:
                return by_reason
            time.sleep(0.1)

    def gone(self, kind: str, selector: str, timeout: float = 30) -> None:
        """Waits until nothing of a kind is left."""
        deadline = time.monotonic() + timeout
        while left := self.list(kind, f"--selector={selector}"):
            names = ", ".join(obj["metadata"]["name"] for obj in left)
            assert time.monotonic() < deadline, f"{kind} left after {timeout:g} s: {names}"
            time.sleep(0.2)


def documents(text: str) -> list[Json]:
    """JSON objects that were printed one after the other."""
    decoder, position, found = json.JSONDecoder(), 0, []
    while position < len(text.rstrip()):
        one, position = decoder.raw_decode(text, position)
        found.append(one)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def condition(obj: Json, kind: str) -> str | None:
    """A condition's status; None if there is no such condition."""
    found = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0]["status"] if found else None


def why(obj: Json, kind: str) -> str:
    """A condition's reason and message."""
    found = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind]
    return f"{found[0]['reason']}: {found[0]['message']}" if found else ""


def rows(workflow: Json) -> dict[str, Json]:
    """A Workflow's status rows by step."""
    return {row["name"]: row for row in workflow["status"].get("steps", [])}


def phases(workflow: Json) -> dict[str, str]:
    """The phase of every step."""
    return {name: row["phase"] for name, row in rows(workflow).items()}


def reason(obj: Json, kind: str) -> str | None:
    """A condition's reason."""
    found = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0]["reason"] if found else None


def manifest(kind: str, name: str, spec: str) -> str:
    """A manifest as a document of a stream."""
    head = (
        f"---\napiVersion: corral.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    )
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def workflow(name: str, spec: str) -> str:
    """A Workflow's manifest."""
    return manifest("Workflow", name, spec)


def agent(name: str, model: str, more: str = "") -> str:
    """An Agent's manifest."""
    return manifest("Agent", name, f"modelRef: {{name: {model}}}\n" + textwrap.dedent(more))


def pool(name: str, more: str = "") -> str:
    """The manifest of a pool of the Agent of the same name."""
    return manifest("AgentPool", name, f"agentRef: {{name: {name}}}\n" + textwrap.dedent(more))


def simulated(name: str, simulation: str = "", price: str = "") -> str:
    """The manifest of a Model that answers what ``simulation`` says, ``ok`` by itself."""
    spec = "provider: simulated\n" + (f"price: {price}\n" if price else "")
    body = textwrap.indent(textwrap.dedent(simulation).strip("\n"), "  ")
    return manifest("Model", name, spec + (f"simulation:\n{body}\n" if body.strip() else ""))


def model_server(rules: str) -> str:
    """A model server that answers by rules, and the Model ``served`` that leads to it."""
    source = (REPO / "manifests/samples/research-team/model-server.yaml").read_text()
    documents = list(yaml.safe_load_all(source))
    documents[0]["data"]["rules.yaml"] = textwrap.dedent(rules)
    container = documents[1]["spec"]["template"]["spec"]["containers"][0]
    container["args"] = [word for word in container["args"] if "api-key" not in word]
    container["readinessProbe"]["periodSeconds"] = 1
    model = """
        provider: openai
        name: gpt-5-mini
        baseURL: http://model-server:8080/v1
        apiKeySecretRef: {name: model-key, key: key}
        price: {inputPerMillionUSD: "1.00", outputPerMillionUSD: "2.00"}
        timeout: 20s
    """
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "model-key"},
        "stringData": {"key": "k"},
    }
    return yaml.safe_dump_all([*documents, secret]) + manifest("Model", "served", model)


def journal(cluster: Cluster) -> list[Json]:
    """What the model server was asked."""
    path = f"/api/v1/namespaces/{cluster.namespace}/services/model-server:8080/proxy/journal"
    found: list[Json] = json.loads(cluster.kubectl("get", f"--raw={path}").stdout)["requests"]
    return found
