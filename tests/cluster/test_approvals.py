"""Approvals as steps of real runs: asked by the operator, decided by people with names."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import OPERATOR, Json, condition, phases, reason, rows, why
from tests.cluster.lab import Lab, agent, each, kill_operator, step, workflow

ANNA, BERT, CARLA, DAVE, ERIN = "anna", "bert", "carla", "dave", "erin"
"""Anna makes the runs and is an editor; Bert is an editor; Carla is named herself; Dave is an
editor without the verb approve; Erin has the verb, and is not named."""
EDITORS = (ANNA, BERT, DAVE)
APPROVERS = [{"kind": "Group", "name": "editors"}, {"kind": "User", "name": CARLA}]


class Office(Lab):
    """A lab with people."""

    def hire(self) -> None:
        for person in (ANNA, BERT, CARLA, ERIN):
            self._bind(person, "--clusterrole=corral-approver")
        for person in (ANNA, DAVE):
            self._bind(person, "--clusterrole=edit")
        rule = ("--verb=get,list,update,patch", "--resource=approvalrequests.corral.dev")
        self.cluster.kubectl("create", "role", "writer", *rule)
        self._bind(DAVE, "--role=writer")

    def _bind(self, person: str, role: str) -> None:
        name = f"{person}-{role.partition('=')[2]}"
        self.cluster.kubectl("create", "rolebinding", name, role, f"--user={person}")

    def run(self, who: str, *words: str, text: str | None = None) -> str:
        """kubectl as somebody; the message if it was refused, else nothing."""
        group = ["--as-group=editors"] if who in EDITORS else []
        done = self.cluster.kubectl(*words, *group, input=text, check=False, as_user=who)
        return "" if done.returncode == 0 else done.stderr

    def submit(self, *runs: Json, who: str = ANNA) -> None:
        """Makes Workflows that say who made them."""
        for run in runs:
            run["metadata"]["annotations"] = {"corral.dev/created-by": who}
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(runs)})
        assert self.run(who, "create", "--filename=-", text=text) == ""

    def request(self, run: str, name: str = "ask") -> Json:
        """The ApprovalRequest of a step, once it is there."""
        end = time.monotonic() + 20
        while True:
            uid = self.cluster.get("workflow", run)["metadata"]["uid"]
            for found in self.cluster.list("approvalrequest"):
                spec = found["spec"]
                if spec["step"] == name and spec["workflowRef"] == {"name": run, "uid": uid}:
                    return found
            assert time.monotonic() < end, f"{run}: nobody is asked about {name}"
            time.sleep(0.1)

    def decide(
        self, who: str, run: str, verdict: str = "Approve", name: str = "ask", **more: Any
    ) -> str:
        """Writes a decision; the message if it was refused, else nothing."""
        found = self.request(run, name)["metadata"]["name"]
        change = {"spec": {"decision": {"verdict": verdict, "by": who, **more}}}
        words = ("patch", "approvalrequest", found, "--type=merge", f"--patch={json.dumps(change)}")
        return self.run(who, *words)


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with fresh_namespace() as cluster:
        made = Office(cluster)
        made.hire()
        made.build({"latency": "20ms"}, *agent("worker"))
        yield made


def ask(*after: str, name: str = "ask", **more: Any) -> Json:
    """An approval step."""
    outside = {key: more.pop(key) for key in ("when",) if key in more}
    approval = {"prompt": "May it go on?", "approvers": APPROVERS, **more}
    made: Json = {"name": name, "approval": approval, **outside}
    return made | ({"dependsOn": list(after)} if after else {})


def then(expression: str = "went on", *after: str, name: str = "after", **more: Any) -> Json:
    made = {"name": name, "transform": expression, "dependsOn": list(after or ("ask",))}
    return made | more


def test_a_run_asks_whom_it_should_and_goes_on_with_what_they_say(office: Office) -> None:
    office.submit(
        workflow(
            "asked",
            step("write"),
            ask(
                "write",
                prompt="Publish: $(steps.write.output)?",
                allowEdit=["title", "copies"],
            ),
            then("$(steps.ask.output)"),
            step("publish", "ask", input="publish $(int(steps.ask.output.values.copies) + 1)"),
            output="$(steps.after.output)",
        )
    )
    request = office.request("asked")
    assert request["spec"]["prompt"] == "Publish: A simulated answer to: write: go?"
    assert request["spec"]["requestedBy"] == ANNA
    assert request["spec"]["approvers"] == APPROVERS
    assert "expiresAt" not in request["spec"]
    [owner] = request["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Workflow", "asked")
    waiting = office.cluster.wait(
        "workflow", "asked", lambda w: phases(w).get("ask") == "Waiting", "waiting"
    )
    assert phases(waiting)["publish"] == "Pending"
    assert rows(waiting)["ask"]["approval"] == request["metadata"]["name"]
    assert why(waiting, "Reconciling").startswith("ApprovalPending: ask")
    events = office.cluster.events("asked", "ApprovalRequested")
    assert "corral approve asked" in events["ApprovalRequested"]["message"]

    refused = {
        ERIN: "names neither erin nor a group of theirs",
        DAVE: "the verb approve on approvalrequests.corral.dev is not yours",
        ANNA: "anna made the Workflow",
        OPERATOR: "cannot patch",
        "nobody": "cannot get",
    }
    for who, message in refused.items():
        assert message in office.decide(who, "asked"), who
    assert "must be bert" in office.run(
        BERT,
        "patch",
        "approvalrequest",
        request["metadata"]["name"],
        "--type=merge",
        '--patch={"spec":{"decision":{"verdict":"Approve","by":"carla"}}}',
    )
    assert "allowEdit" in office.decide(BERT, "asked", values={"price": "0"})
    # Whoever may change runs can't let one believe that it was approved.
    forged = '--patch={"status":{"phase":"Succeeded","journal":""}}'
    for who in (ANNA, DAVE):
        words = ("patch", "workflow", "asked", "--subresource=status", "--type=merge", forged)
        assert office.run(who, *words) != ""
    wider = '--patch={"spec":{"approvers":[{"kind":"User","name":"erin"}]}}'
    assert office.run(ERIN, "patch", "capproval", request["metadata"]["name"],
                      "--type=merge", wider) != ""  # fmt: skip
    time.sleep(0.5)
    assert phases(office.cluster.get("workflow", "asked"))["ask"] == "Waiting"

    values = {"title": "Tea $(1 + 1)", "copies": "3"}
    assert office.decide(BERT, "asked", comment="Fine.", values=values) == ""
    done = office.cluster.finished("asked")
    assert done["status"]["phase"] == "Succeeded"
    assert done["status"]["output"] == {
        "decision": "Approve",
        "by": BERT,
        "comment": "Fine.",
        "values": values,
    }
    assert rows(done)["publish"]["output"] == "A simulated answer to: publish 4"
    for who, verdict in ((BERT, "Reject"), (CARLA, "Approve")):
        assert office.decide(who, "asked", verdict) != "", "a decision is for good"


def test_what_a_decision_or_none_comes_to(office: Office) -> None:
    """Each of these is decided at once, or never; then they are looked at together."""
    skip: Json = {"onReject": "Skip"}
    hurried: Json = {"timeout": "1500ms"}
    runs = {
        "rejected": [ask(), then()],
        "skipped": [ask(**skip), then(), then("last", "after", name="last")],
        "proceeds": [ask(**skip, onSkip="Proceed"), then()],
        "rejected-handled": [ask(), then(triggerRule="AnyFailed")],
        "late": [ask(**hurried), then()],
        "late-approves": [ask(**hurried, onTimeout="Approve"), then("$(steps.ask.output.by)!")],
        "late-fails": [ask(**hurried, onTimeout="Fail"), then()],
        "late-skips": [ask(**hurried, **skip, onSkip="Proceed"), then()],
        "passed-by": [step("a"), ask("a", when="steps.a.output == 'risky'"), then()],
        "passed-by-proceeds": [
            step("a"),
            ask("a", when="steps.a.output == 'risky'", onSkip="Proceed"),
            then(),
        ],
        "self": [ask(allowSelfApproval=True), then("$(steps.ask.output.by)")],
    }
    office.submit(*(workflow(name, *steps) for name, steps in runs.items()))
    office.make(
        workflow("anonymous", ask()),
        workflow("anonymous-allowed", ask(allowSelfApproval=True), then()),
    )
    for name in ("rejected", "skipped", "proceeds", "rejected-handled"):
        assert office.decide(CARLA, name, "Reject", comment="Not today.") == ""
    assert office.decide(ANNA, "self") == ""
    for who in (ANNA, BERT, CARLA):
        assert office.decide(who, "anonymous") != "", "nobody knows that it is not their own"
    assert office.decide(BERT, "anonymous-allowed") == ""
    assert "requestedBy" not in office.request("anonymous-allowed")["spec"]

    found = office.cluster.all_finished(*runs, "anonymous-allowed")
    ends = {name: (obj["status"]["phase"], phases(obj)) for name, obj in found.items()}
    both = {"ask": "Succeeded", "after": "Succeeded"}
    passed = {"ask": "Skipped", "after": "Succeeded"}
    failed = {"ask": "Failed", "after": "Omitted"}
    assert ends == {
        "rejected": ("Failed", failed),
        "skipped": ("Succeeded", {"ask": "Skipped", "after": "Omitted", "last": "Omitted"}),
        "proceeds": ("Succeeded", passed),
        "rejected-handled": ("Failed", {"ask": "Failed", "after": "Succeeded"}),
        "late": ("Failed", failed),
        "late-approves": ("Succeeded", both),
        "late-fails": ("Failed", failed),
        "late-skips": ("Succeeded", passed),
        "passed-by": ("Succeeded", {"a": "Succeeded", "ask": "Skipped", "after": "Omitted"}),
        "passed-by-proceeds": ("Succeeded", {"a": "Succeeded", **passed}),
        "self": ("Succeeded", both),
        "anonymous-allowed": ("Succeeded", both),
    }
    assert rows(found["self"])["after"]["output"] == ANNA
    assert "rejected by carla: Not today." in found["rejected"]["status"]["message"]
    assert rows(found["rejected"])["ask"]["reason"] == "Rejected"
    assert rows(found["late"])["ask"]["reason"] == "Rejected"
    assert rows(found["late-fails"])["ask"]["reason"] == "Timeout"
    assert "no decision within 1500ms" in rows(found["late-fails"])["ask"]["message"]
    assert "expiresAt" in office.request("late")["spec"]
    asked = {obj["spec"]["workflowRef"]["name"] for obj in office.cluster.list("approvalrequest")}
    assert not asked & {"passed-by", "passed-by-proceeds"}
    # The API server has no clock: it takes what comes too late, and the run does not.
    assert office.decide(BERT, "late") == ""
    time.sleep(0.5)
    assert office.cluster.get("workflow", "late")["status"]["phase"] == "Failed"
    office.cluster.kubectl("delete", "workflow", "anonymous")


def test_a_request_that_is_deleted_is_made_again_and_goes_with_its_run(office: Office) -> None:
    office.submit(workflow("asked-again", ask(), then()))
    first = office.request("asked-again")["metadata"]
    office.cluster.kubectl("delete", "approvalrequest", first["name"])
    again = office.request("asked-again")["metadata"]
    assert again["uid"] != first["uid"]
    assert office.decide(BERT, "asked-again") == ""
    assert office.cluster.finished("asked-again")["status"]["phase"] == "Succeeded"
    # Once it is decided nobody is asked again.
    office.cluster.kubectl("delete", "approvalrequest", again["name"])
    time.sleep(1)
    names = {obj["metadata"]["name"] for obj in office.cluster.list("approvalrequest")}
    assert again["name"] not in names
    office.submit(workflow("given-up", ask(), then()))
    asked = office.request("given-up")["metadata"]["name"]
    office.cluster.kubectl("delete", "workflow", "given-up")
    end = time.monotonic() + 20
    while asked in {obj["metadata"]["name"] for obj in office.cluster.list("approvalrequest")}:
        assert time.monotonic() < end, "the request outlives its run"
        time.sleep(0.2)


def test_every_item_of_a_fan_out_is_asked_about_on_its_own(office: Office) -> None:
    inner = [
        ask(prompt="Do $(item)?", onReject="Skip"),
        step("do", "ask", input="do $(item)"),
    ]
    outer = {
        "name": "outer",
        "steps": inner,
        "output": "$(steps.do.?output.orValue('not done'))",
        **each("x", "y", "z"),
    }
    office.submit(workflow("many", outer, output="$(steps.outer.outputs)"))
    requests = [office.request("many", f"outer[{n}].ask") for n in range(3)]
    assert [one["spec"]["prompt"] for one in requests] == ["Do x?", "Do y?", "Do z?"]
    assert len({one["metadata"]["name"] for one in requests}) == 3
    for number, verdict in enumerate(("Approve", "Reject", "Approve")):
        assert office.decide(BERT, "many", verdict, f"outer[{number}].ask") == ""
    done = office.cluster.finished("many")
    answer = "A simulated answer to: do "
    assert done["status"]["output"] == [answer + "x", "not done", answer + "z"]
    office.called_once_each(done["metadata"]["uid"], {"do x", "do z"})


def test_time_stands_still_and_nothing_starts_while_people_think(office: Office) -> None:
    office.submit(
        workflow("patient", ask(), step("act", "ask"), activeDeadline="3s"),
        workflow("impatient", ask(), then(), deadline="3s"),
        workflow("paused", ask(), step("act", "ask")),
        workflow("stopped", ask(), then()),
    )
    for name in ("patient", "impatient", "paused", "stopped"):
        office.request(name)
    asked = time.monotonic()
    office.cluster.patch("workflow", "paused", {"spec": {"suspend": True}})
    office.cluster.patch("workflow", "stopped", {"spec": {"shutdown": "Stop"}})
    office.cluster.wait(
        "workflow", "paused", lambda w: condition(w, "Suspended") == "True", "suspended"
    )
    assert office.decide(BERT, "paused") == ""
    stopped = office.cluster.finished("stopped")
    assert phases(stopped) == {"ask": "Cancelled", "after": "Omitted"}
    late = office.cluster.finished("impatient")
    assert reason(late, "Succeeded") == "DeadlineExceeded"
    assert "the workflow's deadline of 3s passed" in late["status"]["message"]
    time.sleep(max(0.0, asked + 5 - time.monotonic()))
    paused = office.cluster.get("workflow", "paused")
    assert phases(paused)["act"] == "Pending"
    assert office.calls(paused["metadata"]["uid"]) == []
    office.cluster.patch("workflow", "paused", {"spec": {"suspend": None}})
    assert office.decide(BERT, "patient") == ""
    for found in office.cluster.all_finished("paused", "patient").values():
        assert found["status"]["phase"] == "Succeeded", found["status"].get("message")
        office.called_once_each(found["metadata"]["uid"], {"act: go"})


@pytest.mark.alone
def test_an_operator_that_is_killed_while_it_waits_asks_nobody_twice(office: Office) -> None:
    office.submit(workflow("outlasting", step("before"), ask("before"), step("act", "ask")))
    first = office.request("outlasting")
    kill_operator()
    assert office.request("outlasting")["metadata"]["uid"] == first["metadata"]["uid"]
    assert office.decide(BERT, "outlasting") == ""
    kill_operator()
    done = office.cluster.finished("outlasting")
    assert done["status"]["phase"] == "Succeeded"
    office.called_once_each(done["metadata"]["uid"], {"before: go", "act: go"})
    assert office.request("outlasting")["metadata"]["uid"] == first["metadata"]["uid"]
