"""What tests on a cluster need: kubectl in a namespace, waiting, and a look at conditions."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
OPERATOR = "system:serviceaccount:corral-system:corral-operator"
Json = dict[str, Any]


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

    def gone(self, kind: str, selector: str, timeout: float = 30) -> None:
        """Waits until nothing of a kind is left."""
        deadline = time.monotonic() + timeout
        while left := self.list(kind, f"--selector={selector}"):
            names = ", ".join(obj["metadata"]["name"] for obj in left)
            assert time.monotonic() < deadline, f"{kind} left after {timeout:g} s: {names}"
            time.sleep(0.2)


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
