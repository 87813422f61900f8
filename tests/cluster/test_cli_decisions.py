"""Decisions by people, each with credentials of their own."""

from pathlib import Path

import yaml

from tests.cluster.harness import Cluster, manifest, phases, workflow
from tests.cluster.terminal import corral

OPERATOR = "system:serviceaccount:corral-system:corral-operator"


def person(cluster: Cluster, name: str, folder: Path, *roles: str) -> str:
    """A kubeconfig of somebody with these roles in the namespace."""
    namespace = cluster.namespace
    cluster.kubectl("create", "serviceaccount", name)
    for role in roles:
        account = f"--serviceaccount={namespace}:{name}"
        cluster.kubectl("create", "rolebinding", f"{name}-{role}", f"--clusterrole={role}", account)
    token = cluster.kubectl("create", "token", name).stdout.strip()
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--minify").stdout)
    config["users"][0]["user"] = {"token": token}
    file = folder / name
    file.write_text(yaml.safe_dump(config))
    return str(file)


def request(cluster: Cluster, step: str, uid: str, *approvers: str) -> None:
    """Asks for a decision, as the operator does."""
    users = ", ".join(
        f"{{kind: User, name: 'system:serviceaccount:{cluster.namespace}:{name}'}}"
        for name in approvers
    )
    text = manifest(
        "ApprovalRequest",
        f"decided-{step}",
        f"""
        workflowRef: {{name: decided, uid: {uid}}}
        step: {step}
        prompt: May {step} go on?
        requestedBy: somebody
        allowEdit: [title]
        approvers: [{users}]
        """,
    )
    cluster.kubectl("create", f"--as={OPERATOR}", "--filename=-", input=text)


def test_only_whom_the_cluster_lets_decide_decides(cluster: Cluster, tmp_path: Path) -> None:
    roles = ("corral-approver", "corral-view")
    ann = person(cluster, "ann", tmp_path, *roles)
    bob = person(cluster, "bob", tmp_path, "corral-view")
    carol = person(cluster, "carol", tmp_path, *roles)
    cluster.apply(
        workflow("decided", "suspend: true\nsteps: [{name: first, wait: {duration: 1h}}]")
    )
    uid = cluster.get("workflow", "decided")["metadata"]["uid"]
    request(cluster, "first", uid, "ann", "bob")
    request(cluster, "second", uid, "ann")

    several = corral(cluster, "approve", "decided", "--yes", "--kubeconfig", ann)
    assert several.returncode == 2
    assert "--step second: May second go on?" in several.stderr
    words = ["approve", "decided", "--step", "first", "--kubeconfig"]
    asked = corral(cluster, *words, ann)
    assert (asked.returncode, "--yes decides without" in asked.stderr) == (2, True)
    no_right = corral(cluster, *words, bob, "--yes")
    assert no_right.returncode == 4
    assert no_right.stderr.startswith("error: you may not decide in namespace")
    not_named = corral(cluster, *words, carol, "--yes")
    assert not_named.returncode == 4
    assert not_named.stderr.startswith("error: it can't be approved: ")
    assert "ValidatingAdmissionPolicy" not in not_named.stderr
    assert "--set titel: the request has no such value" in (
        corral(cluster, *words, ann, "--yes", "--set", "titel=x").stderr
    )

    could = corral(cluster, *words, ann, "--dry-run")
    assert (could.returncode, could.stderr) == (0, "")
    assert "decision" not in cluster.get("approvalrequest", "decided-first")["spec"]
    done = corral(cluster, *words, ann, "--yes", "-m", "Fine.", "--set", "title=Q3")
    assert (done.returncode, done.stderr) == (0, "")
    decision = cluster.get("approvalrequest", "decided-first")["spec"]["decision"]
    by = f"system:serviceaccount:{cluster.namespace}:ann"
    assert decision == {
        "verdict": "Approve",
        "by": by,
        "comment": "Fine.",
        "values": {"title": "Q3"},
    }
    twice = corral(cluster, *words, ann, "--yes")
    assert twice.returncode == 1
    assert f"was approved by {by}: Fine." in twice.stderr
    rejected = corral(cluster, "reject", "decided-second", "--yes", "--kubeconfig", ann)
    assert rejected.returncode == 0, rejected.stderr
    table = corral(cluster, "get", "approvals").stdout
    assert {"Approve", "Reject"} <= set(table.split())
    corral(cluster, "stop", "decided")


def test_a_run_waits_for_a_person_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    ann = person(cluster, "ann", tmp_path, "corral-approver", "corral-view")
    by = f"system:serviceaccount:{cluster.namespace}:ann"
    spec = f"""
    steps:
    - {{name: one, transform: "1"}}
    - name: sure
      dependsOn: [one]
      approval:
        prompt: "Is $(steps.one.output) enough?"
        approvers: [{{kind: User, name: "{by}"}}]
        allowEdit: [title]
    - name: two
      dependsOn: [sure]
      transform: $(steps.sure.output.by) $(steps.sure.output.values.title)
    output: $(steps.two.output)
    """
    made = corral(cluster, "run", "--no-follow", "-", stdin=workflow("waits", spec))
    assert made.returncode == 0, made.stderr
    cluster.wait(
        "workflow", "waits", lambda w: phases(w).get("sure") == "Waiting", "waiting for a person"
    )
    tree = corral(cluster, "get", "workflow/waits", "-o", "tree").stdout
    assert "waits for approval" in tree
    done = corral(cluster, "approve", "waits", "--yes", "--set", "title=Q3", "--kubeconfig", ann)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Question   Is 1 enough?" in done.stdout
    ended = corral(cluster, "watch", "waits", "--timeout", "60s")
    assert ended.returncode == 0, ended.stdout
    assert f"{by} Q3" in ended.stdout
