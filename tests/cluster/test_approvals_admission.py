"""Who may decide an ApprovalRequest, tried by people of all kinds on the real API server."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import OPERATOR, Cluster, Json

ANNA, BERT, CARLA, DAVE, ERIN = "anna", "bert", "carla", "dave", "erin"
"""Anna makes runs and is an editor; Bert is an editor; Carla is named herself; Dave is an editor
without the right to approve; Erin has the right, and is not named."""
EDITORS = (ANNA, BERT, DAVE)
DENIED = "ValidatingAdmissionPolicy 'corral-approvals'"


def spec(**more: Any) -> Json:
    approvers = [{"kind": "Group", "name": "editors"}, {"kind": "User", "name": CARLA}]
    return {
        "workflowRef": {"name": "report", "uid": "0b7e"},
        "step": "review",
        "prompt": "Publish 3 findings?",
        "requestedBy": ANNA,
        "approvers": approvers,
        "allowEdit": ["title", "copies"],
        **more,
    }


def decision(by: str, verdict: str = "Approve", **more: Any) -> Json:
    return {"verdict": verdict, "by": by, **more}


class Office:
    """A namespace with people in it, and requests that the operator makes."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._count = 0
        for person in (ANNA, BERT, CARLA, ERIN):
            self.bind("corral-approver", person)
        for person in (ANNA, BERT, CARLA, DAVE, ERIN):
            self.bind("edit", person)
        # What approving needs, without approving.
        rule = ("--verb=get,list,update,patch", "--resource=approvalrequests.corral.dev")
        cluster.kubectl("create", "role", "writer", *rule)
        cluster.kubectl("create", "rolebinding", "writer", "--role=writer", f"--user={DAVE}")

    def bind(self, role: str, person: str) -> None:
        name = f"{role}-{person}"
        self.cluster.kubectl(
            "create", "rolebinding", name, f"--clusterrole={role}", f"--user={person}"
        )

    def run(self, who: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        groups = ["system:authenticated", *(["editors"] if who in EDITORS else [])]
        if who == OPERATOR:
            groups += ["system:serviceaccounts"]
        identity = [f"--as={who}", *(f"--as-group={group}" for group in groups)]
        return self.cluster.kubectl(*words, *identity, input=text or None, check=False)

    def create(self, who: str = OPERATOR, **more: Any) -> tuple[str, str]:
        """(the request's name, the message if it was refused)."""
        self._count += 1
        name = f"report-review-{self._count}"
        body = {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "ApprovalRequest",
            "metadata": {"name": name},
            "spec": spec(**more),
        }
        done = self.run(who, "create", "--filename=-", text=json.dumps(body))
        return name, "" if done.returncode == 0 else done.stderr

    def made(self, **more: Any) -> str:
        name, message = self.create(**more)
        assert message == ""
        return name

    def change(self, who: str, name: str, **fields: Any) -> str:
        """The message if it was refused, else nothing."""
        change = json.dumps({"spec": fields})
        done = self.run(who, "patch", "capproval", name, "--type=merge", f"--patch={change}")
        return "" if done.returncode == 0 else done.stderr

    def decided(self, name: str) -> Json:
        found: Json = self.cluster.get("capproval", name)["spec"].get("decision", {})
        return found


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with fresh_namespace() as cluster:
        made = Office(cluster)
        # Policies and summed-up roles are in force a moment after they were applied.
        end = time.monotonic() + 30
        while made.change(BERT, made.made(), decision=decision(BERT)):
            assert time.monotonic() < end, "nobody can decide"
            time.sleep(0.2)
        while not made.create(who="system:admin")[1]:
            assert time.monotonic() < end, "the policy is not in force"
            time.sleep(0.2)
        yield made


GOOD: dict[str, tuple[Json, str, Json]] = {
    "a member of a named group approves": ({}, BERT, decision(BERT)),
    "a named user approves": ({}, CARLA, decision(CARLA)),
    "a named user rejects, and says why": (
        {},
        CARLA,
        decision(CARLA, "Reject", comment="Not today."),
    ),
    "values that may be set": ({}, BERT, decision(BERT, values={"title": "Tea", "copies": "3"})),
    "whoever made the run, where that is allowed": (
        {"allowSelfApproval": True},
        ANNA,
        decision(ANNA),
    ),
    "a run that nobody is known to have made, where that is allowed": (
        {"allowSelfApproval": True, "requestedBy": None},
        BERT,
        decision(BERT),
    ),
    "an agent's tool call": (
        {"tool": {"name": "delete", "arguments": '{"id": 7}'}},
        BERT,
        decision(BERT),
    ),
}


@pytest.mark.parametrize("what", GOOD)
def test_lets_decide(office: Office, what: str) -> None:
    more, who, wanted = GOOD[what]
    name = office.made(**{key: value for key, value in more.items() if value is not None})
    if more.get("requestedBy", ANNA) is None:
        anonymous = {key: value for key, value in spec(**more).items() if value is not None}
        name = made_as_given(office, anonymous)
    assert office.change(who, name, decision=wanted) == ""
    assert office.decided(name) == wanted


def made_as_given(office: Office, given: Json) -> str:
    body = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "ApprovalRequest",
        "metadata": {"generateName": "report-review-"},
        "spec": given,
    }
    done = office.run(OPERATOR, "create", "--filename=-", "--output=name", text=json.dumps(body))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().partition("/")[2]


BAD: dict[str, tuple[Json, str, Json, str]] = {
    "somebody with the right who is not named": (
        {},
        ERIN,
        decision(ERIN),
        "spec.approvers names neither erin nor a group of theirs",
    ),
    "a member of the group without the verb approve": (
        {},
        DAVE,
        decision(DAVE),
        "the verb approve on approvalrequests.corral.dev is not yours",
    ),
    "whoever made the run": (
        {},
        ANNA,
        decision(ANNA),
        "anna made the Workflow, and allowSelfApproval is false",
    ),
    "in the name of somebody else": (
        {},
        BERT,
        decision(CARLA),
        "spec.decision.by must be bert, who decides",
    ),
    "the cluster's admin, who is not named": (
        {},
        "system:admin",
        decision("system:admin"),
        "spec.approvers names neither system:admin nor",
    ),
    "the operator, who is not named": ({}, OPERATOR, decision(OPERATOR), "cannot patch resource"),
    "values that may not be set": (
        {},
        BERT,
        decision(BERT, values={"price": "0"}),
        "decision.values may only have names that are in allowEdit",
    ),
    "any values where none may be set": (
        {"allowEdit": []},
        BERT,
        decision(BERT, values={"title": "x"}),
        "decision.values may only have names that are in allowEdit",
    ),
    "a verdict that there isn't": ({}, BERT, decision(BERT, "Perhaps"), "Unsupported value"),
    "a value that is no text": (
        {},
        BERT,
        decision(BERT, values={"copies": 3}),
        "must be of type string",
    ),
    "a value that is too long": (
        {},
        BERT,
        decision(BERT, values={"title": "x" * 4097}),
        "may not be more than 4096",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_does_not_let_decide(office: Office, what: str) -> None:
    more, who, wanted, message = BAD[what]
    name = office.made(**more)
    if who == "system:admin":
        change = json.dumps({"spec": {"decision": wanted}})
        words = ("patch", "capproval", name, "--type=merge", f"--patch={change}")
        groups = ("--as=system:admin", "--as-group=system:masters")
        found = office.cluster.kubectl(*words, *groups, check=False).stderr
    else:
        found = office.change(who, name, decision=wanted)
    assert message in found
    assert office.decided(name) == {}


def test_a_run_that_nobody_is_known_to_have_made_is_decided_by_nobody(office: Office) -> None:
    given = spec()
    del given["requestedBy"]
    name = made_as_given(office, given)
    assert "who made the Workflow is not known" in office.change(
        BERT, name, decision=decision(BERT)
    )


def test_who_is_in_the_group_and_has_no_right_here_gets_nowhere(office: Office) -> None:
    stranger = "--as=zoe", "--as-group=editors", "--as-group=system:authenticated"
    change = json.dumps({"spec": {"decision": decision("zoe")}})
    words = ("patch", "capproval", office.made(), "--type=merge", f"--patch={change}")
    assert "cannot get resource" in office.cluster.kubectl(*words, *stranger, check=False).stderr


CHANGES: dict[str, Json] = {
    "another verdict": {"decision": {"verdict": "Reject"}},
    "another comment": {"decision": {"comment": "On second thoughts."}},
    "other values": {"decision": {"values": {"title": "y"}}},
    "another name": {"decision": {"by": CARLA}},
    "no decision": {"decision": None},
}


@pytest.mark.parametrize("who", [BERT, CARLA])
@pytest.mark.parametrize("what", CHANGES)
def test_a_decision_is_for_ever(office: Office, what: str, who: str) -> None:
    name = office.made()
    first = decision(BERT, values={"title": "x"})
    assert office.change(BERT, name, decision=first) == ""
    message = office.change(who, name, **CHANGES[what])
    assert "a decision can't be changed or taken back" in message
    assert office.decided(name) == first


FIXED: dict[str, Any] = {
    "workflowRef": {"uid": "another"},
    "step": "other",
    "prompt": "Anything?",
    "requestedBy": ERIN,
    "allowSelfApproval": True,
    "approvers": [{"kind": "User", "name": ERIN}],
    "allowEdit": ["title", "copies", "price"],
    "expiresAt": "2099-01-01T00:00:00Z",
    "tool": {"name": "delete"},
}


@pytest.mark.parametrize("field", FIXED)
@pytest.mark.parametrize("deciding", [False, True], ids=["alone", "with a decision"])
def test_nothing_else_ever_changes(office: Office, field: str, deciding: bool) -> None:
    name = office.made()
    more = {"decision": decision(ERIN)} if deciding else {}
    message = office.change(ERIN, name, **{field: FIXED[field]}, **more)
    assert f"{field} of an ApprovalRequest can't change" in message


@pytest.mark.parametrize("field", ["requestedBy", "allowEdit", "approvers"])
def test_nothing_else_ever_disappears(office: Office, field: str) -> None:
    assert office.change(BERT, office.made(), **{field: None}) != ""


def test_people_make_no_requests(office: Office) -> None:
    for who in (ANNA, BERT, ERIN):
        assert "cannot create resource" in office.create(who=who)[1]
    body = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "ApprovalRequest",
        "metadata": {"name": "own"},
        "spec": spec(),
    }
    admin = ("--as=root", "--as-group=system:masters")
    done = office.cluster.kubectl(
        "create", "--filename=-", *admin, input=json.dumps(body), check=False
    )
    assert DENIED in done.stderr
    assert "only the operator's account makes ApprovalRequests" in done.stderr


def test_a_request_is_not_born_decided(office: Office) -> None:
    _, message = office.create(decision=decision(OPERATOR))
    assert "only the operator's account makes ApprovalRequests, and without a decision" in message


def test_people_delete_no_requests(office: Office) -> None:
    name = office.made()
    for who in (ANNA, BERT, ERIN):
        assert "cannot delete resource" in office.run(who, "delete", "capproval", name).stderr


def test_the_table_says_what_was_decided_and_by_whom(office: Office) -> None:
    name = office.made()
    assert office.change(BERT, name, decision=decision(BERT, "Reject")) == ""
    head, row = office.cluster.kubectl("get", "capproval", name).stdout.splitlines()
    assert head.split() == ["NAME", "WORKFLOW", "STEP", "VERDICT", "BY", "AGE"]
    assert row.split()[:5] == [name, "report", "review", "Reject", BERT]
