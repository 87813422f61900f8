"""The command line against a real cluster, as a person and as a script uses it."""

import json

import pytest

from tests.cluster.harness import (
    Cluster,
    agent,
    condition,
    manifest,
    phases,
    pool,
    simulated,
    workflow,
)
from tests.cluster.terminal import corral

TEAM = (
    simulated("fast", "reply: hello")
    + simulated("down", "failurePercent: 100")
    + simulated("asleep", "latency: 50s")
    + "".join(agent(name, name) + pool(name) for name in ("fast", "down", "asleep"))
)


@pytest.fixture(scope="module", autouse=True)
def _a_team(team: Cluster) -> None:
    team.apply(TEAM)
    team.kubectl("wait", "--for=condition=Ready", "agentpool", "--all", "--timeout=90s")


def calls(who: str) -> str:
    return f"steps: [{{name: a, agentRef: {{name: {who}}}, input: go}}]\noutput: $(steps.a.output)"


RUNS = {
    "well": (0, "Succeeded", calls("fast")),
    "badly": (1, "Failed", calls("down")),
    "stopped": (3, "Stopped", "shutdown: Stop\n" + calls("fast")),
    "wrong": (4, "there is no step 'b'", "steps: [{name: a, transform: $(steps.b.output)}]"),
    "refused": (4, "pods is no", "steps: [{name: a, transform: x}]\npods: 1"),
    "late": (5, "--timeout is over; the run goes on", calls("asleep")),
}


@pytest.mark.parametrize("name", ["well", "badly", "stopped", "late"])
def test_run_shows_a_run_as_a_tree_and_tells_the_shell_how_it_ended(
    team: Cluster, name: str
) -> None:
    code, shown, spec = RUNS[name]
    limit = "3s" if name == "late" else "90s"
    done = corral(team, "run", "--timeout", limit, "-", stdin=workflow(name, spec))
    assert (done.returncode, done.stderr) == (code, "")
    assert f"Workflow {name}" in done.stdout
    assert shown in done.stdout
    assert "a" in done.stdout.split()
    if name == "well":
        assert "hello" in done.stdout


@pytest.mark.parametrize("name", ["well", "badly", "stopped"])
def test_run_prints_the_object_for_scripts(team: Cluster, name: str) -> None:
    code, phase, spec = RUNS[name]
    done = corral(team, "run", "-o", "json", "-", stdin=workflow(f"{name}-json", spec))
    assert (done.returncode, done.stderr) == (code, "")
    found = json.loads(done.stdout)
    assert found["kind"] == "Workflow"
    assert found["status"]["phase"] == phase
    assert found["status"].get("output") == ("hello" if name == "well" else None)
    assert "managedFields" not in found["metadata"]


@pytest.mark.parametrize("name", ["wrong"])
def test_run_starts_nothing_of_what_is_wrong(team: Cluster, name: str) -> None:
    code, _, spec = RUNS[name]
    done = corral(team, "run", "-", stdin=workflow(f"{name}-file", spec))
    assert done.returncode == code
    assert "nothing was started" in done.stderr
    gone = team.kubectl("get", "workflow", f"{name}-file", check=False)
    assert gone.returncode != 0


def test_run_ends_where_the_cluster_finds_the_run_stalled(team: Cluster) -> None:
    # What this corral knows to be wrong it does not send: somebody else has, before.
    _, _, spec = RUNS["wrong"]
    team.apply(workflow("stalled", spec))
    team.wait("workflow", "stalled", lambda w: condition(w, "Stalled") == "True", "stalled")
    tree = corral(team, "get", "workflow", "stalled", "-o", "tree")
    assert tree.returncode == 0
    assert "there is no step 'b'" in tree.stdout
    stopped = corral(team, "stop", "stalled")
    assert stopped.returncode == 0, stopped.stderr
    assert team.finished("stalled")["status"]["phase"] == "Stopped"


def test_run_makes_names_replaces_and_refuses(team: Cluster) -> None:
    text = workflow("again", calls("fast"))
    assert corral(team, "run", "-", stdin=text).returncode == 0
    first = team.get("workflow", "again")["metadata"]["uid"]
    refused = corral(team, "run", "-", stdin=text)
    assert refused.returncode == 4
    assert "has ended (Succeeded); --generate-name or --name" in refused.stderr
    assert corral(team, "run", "--replace", "-", stdin=text).returncode == 0
    assert team.get("workflow", "again")["metadata"]["uid"] != first
    made = corral(team, "run", "--generate-name", "--no-follow", "-", stdin=text)
    assert made.returncode == 0
    assert "workflow.corral.dev/again-" in made.stdout


def test_get_shows_tables_and_objects(team: Cluster) -> None:
    corral(team, "run", "-", stdin=workflow("shown", calls("fast")))
    table = corral(team, "get")
    head, *lines = table.stdout.splitlines()
    assert head.split()[:3] == ["NAME", "PHASE", "PROGRESS"]
    assert any(line.split()[:3] == ["shown", "Succeeded", "1/1"] for line in lines)
    for kind in ("agents", "agentpools", "models"):
        done = corral(team, "get", kind)
        assert done.returncode == 0
        assert {"fast", "down", "asleep"} <= {line.split()[0] for line in done.stdout.splitlines()}
    found = json.loads(corral(team, "get", "workflow", "shown", "-o", "json").stdout)
    assert found["status"]["output"] == "hello"
    assert "Succeeded" in corral(team, "get", "workflow", "shown", "-o", "tree").stdout


def test_logs_tell_what_happened_and_what_workers_wrote(team: Cluster) -> None:
    retried = (
        "steps: [{name: a, agentRef: {name: down}, input: go,"
        " retryStrategy: {limit: 1, backoff: {duration: 10ms}}}]"
    )
    corral(team, "run", "-", stdin=workflow("logged", retried))
    done = corral(team, "logs", "logged")
    assert done.returncode == 0, done.stderr
    assert "Model down failed, as its failurePercent asks for." in done.stdout
    assert "An attempt failed" in done.stdout
    told = json.loads(corral(team, "logs", "logged", "-o", "json").stdout)
    (record,) = told["records"]
    assert (record["step"], record["phase"], record["attempts"]) == ("a", "Failed", 2)
    assert len(told["workerLogs"]) >= 2
    nothing = corral(team, "logs", "logged", "--step", "b")
    assert nothing.returncode != 0
    assert nothing.stderr.startswith("error: ")


def test_suspend_resume_and_stop_change_a_run(team: Cluster) -> None:
    spec = (
        "steps: [{name: pause, wait: {duration: 8s}},"
        " {name: a, dependsOn: [pause], agentRef: {name: asleep}, input: go}]"
    )
    team.apply(workflow("steered", spec))
    assert corral(team, "suspend", "steered").stdout == (
        "workflow.corral.dev/steered is suspended\n"
    )
    team.wait("workflow", "steered", lambda w: phases(w).get("pause") == "Succeeded", "past pause")
    found = team.wait(
        "workflow", "steered", lambda w: w["status"]["phase"] == "Suspended", "Suspended"
    )
    assert phases(found)["a"] == "Pending"
    assert corral(team, "resume", "steered").stdout == "workflow.corral.dev/steered goes on\n"
    team.wait("workflow", "steered", lambda w: phases(w)["a"] == "Running", "running a")
    assert corral(team, "stop", "steered").returncode == 0
    assert phases(team.finished("steered")) == {"pause": "Succeeded", "a": "Cancelled"}
    for command in ("stop", "suspend", "resume"):
        done = corral(team, command, "steered")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "error: Workflow 'steered' has ended: Stopped\n"


ERRORS = {
    "no such workflow to get": (["get", "workflow", "nobody"], 1, "nobody"),
    "no such workflow to stop": (["stop", "nobody"], 1, "there is no Workflow 'nobody'"),
    "no such workflow to show": (["logs", "nobody"], 1, "there is no Workflow 'nobody'"),
    "no such kind": (["get", "herds"], 2, "herds"),
    "no such file": (["run", "nowhere.yaml"], 2, "nowhere.yaml"),
    "no such context": (["get", "--context", "mars"], 2, "mars"),
    "no such kubeconfig": (["get", "--kubeconfig", "/nowhere"], 2, "/nowhere"),
    "no duration": (["run", "-", "--timeout", "soon"], 2, "'soon' is not a duration"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(team: Cluster, case: str) -> None:
    arguments, code, said = ERRORS[case]
    done = corral(team, *arguments, stdin="")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


TEMPLATE = manifest(
    "WorkflowTemplate",
    "greet",
    """
    parameters:
      type: object
      required: [who]
      properties: {who: {type: string}, times: {type: integer, default: 1}}
    steps:
    - {name: a, agentRef: {name: fast}, input: "Greet $(arguments.who)"}
    output: $(steps.a.output) $(arguments.who)
    """,
)


def test_a_template_is_submitted_with_parameters_and_watched(team: Cluster) -> None:
    team.apply(TEMPLATE)
    wrong = corral(team, "submit", "--from", "template/greet", "-p", "times=often")
    assert wrong.returncode == 4
    assert "parameter 'times': 'often' is not of type 'integer'" in wrong.stderr
    assert "parameter 'who': must be given" in wrong.stderr
    words = ["submit", "--from", "template/greet", "-p", "who=Ann"]
    dry = corral(team, *words, "--dry-run", "server", "-o", "name")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith("workflow.corral.dev/greet-")
    done = corral(team, *words, "--name", "greeted", "--watch", "--timeout", "90s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Workflow greeted: Succeeded" in done.stdout
    assert "hello Ann" in done.stdout
    found = team.get("workflow", "greeted")
    assert found["metadata"]["annotations"]["corral.dev/created-by"]
    tree = corral(team, "get", "workflow/greeted", "-o", "tree").stdout
    assert "✓ a" in tree
    again = corral(team, "resubmit", "greeted", "-p", "who=Bob", "--wait", "-o", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["status"]["output"] == "hello Bob"


def test_watch_tells_the_end_of_a_run_that_somebody_else_started(team: Cluster) -> None:
    team.apply(workflow("watched", calls("down")))
    done = corral(team, "watch", "watched", "--timeout", "90s")
    assert done.returncode == 1
    assert "Workflow watched: Failed" in done.stdout
    lines = corral(team, "watch", "watched", "-o", "json").stdout.splitlines()
    assert json.loads(lines[-1])["status"]["phase"] == "Failed"


def test_a_retry_does_not_repeat_what_succeeded(team: Cluster) -> None:
    spec = (
        "steps: [{name: first, agentRef: {name: fast}, input: go},"
        " {name: second, dependsOn: [first], agentRef: {name: down}, input: go}]"
    )
    assert corral(team, "run", "-", stdin=workflow("broken", spec)).returncode == 1
    team.apply(simulated("down", "reply: up again"))
    try:
        done = corral(team, "retry", "broken", "--name", "mended", "--watch", "--timeout", "90s")
    finally:
        team.apply(simulated("down", "failurePercent: 100"))
    assert done.returncode == 0, done.stdout + done.stderr
    mended = team.get("workflow", "mended")
    assert mended["spec"]["retryOf"] == {"name": "broken"}
    assert mended["status"]["usage"]["requests"] == 1, "only of the second step"
    assert "taken over" in corral(team, "get", "workflow/mended", "-o", "tree").stdout
    refused = corral(team, "retry", "mended")
    assert refused.returncode == 1
    assert "there is nothing to retry" in refused.stderr


def test_logs_are_followed_to_the_end(team: Cluster) -> None:
    spec = (
        "steps: [{name: a, agentRef: {name: fast}, input: go},"
        " {name: pause, dependsOn: [a], wait: {duration: 2s}},"
        " {name: b, dependsOn: [pause], agentRef: {name: fast}, input: go}]"
    )
    team.apply(workflow("followed", spec))
    done = corral(team, "logs", "-f", "followed")
    assert done.returncode == 0, done.stderr
    assert "a: Succeeded" in done.stdout
    assert "b: Succeeded" in done.stdout


def test_a_graph_has_the_phases_of_the_run(team: Cluster) -> None:
    corral(team, "run", "-", stdin=workflow("drawn", calls("fast")))
    assert 's_a("a<br/>Agent fast"):::Succeeded' in corral(team, "graph", "drawn").stdout


def test_the_api_server_checks_what_files_alone_cannot_tell(team: Cluster) -> None:
    text = workflow("asked", calls("fast"))
    fine = corral(team, "validate", "--server", "-", stdin=text)
    assert fine.returncode == 0, fine.stdout
    assert team.kubectl("get", "workflow", "asked", check=False).returncode != 0
    made_up = text.replace("name: asked}", "name: asked, annotations: {corral.dev/created-by: x}}")
    refused = corral(team, "validate", "--server", "-", stdin=made_up)
    assert refused.returncode == 1
    assert "corral.dev/created-by must be" in refused.stdout
