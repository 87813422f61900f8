"""Decisions: what is found, shown, asked and written."""

import io
import json
import sys
from typing import Any

import pytest

from corral.cli.approvals import Decision, shown
from corral.cli.cluster import Cluster
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import DEMO, WORKFLOWS, Api
from tests.unit.cli.test_cluster import MANIFEST

REQUESTS = f"{DEMO}/approvalrequests"


def request(api: Api, name: str, step: str, **spec: Any) -> dict[str, Any]:
    whole = {
        "workflowRef": {"name": "w", "uid": "u"},
        "step": step,
        "prompt": f"May {step} go on?",
        "approvers": [{"kind": "User", "name": "ann"}],
        **spec,
    }
    metadata = {"name": name, "uid": f"uid-{name}"}
    return api.put(f"{REQUESTS}/{name}", {"metadata": metadata, "spec": whole})


@pytest.fixture(autouse=True)
def _a_run(api: Api) -> None:
    api.put(f"{WORKFLOWS}/w", MANIFEST)


@pytest.mark.parametrize("command", ["approve", "reject"])
@pytest.mark.parametrize("name", ["w", "w-review"])
def test_a_decision_is_written_in_ones_own_name(
    api: Api, corral: Corral, command: str, name: str
) -> None:
    request(api, "w-review", "review", allowEdit=["title"])
    words = [command, name, "--yes", "-m", "Read it.", "--set", "title=Q3"]
    code, out, err = corral(*words)
    assert (code, err) == (0, "")
    verdict = command.capitalize()
    assert api.asked[-1] == (
        "PATCH",
        f"{REQUESTS}/w-review",
        {
            "metadata": {"uid": "uid-w-review"},
            "spec": {
                "decision": {
                    "verdict": verdict,
                    "by": "ann",
                    "comment": "Read it.",
                    "values": {"title": "Q3"},
                }
            },
        },
    )
    done = {"approve": "approved", "reject": "rejected"}[command]
    assert "Question   May review go on?" in out
    assert out.endswith(f"step review of Workflow w was {done} by ann\n")


def test_of_several_one_has_to_be_chosen(api: Api, corral: Corral) -> None:
    request(api, "a", "first")
    request(api, "b", "second", prompt="Long.\nMuch more.")
    code, _, err = corral("approve", "w", "--yes")
    assert code == 2
    assert "2 decisions are waited for by Workflow 'w'; choose one:" in err
    assert "  --step second: Long.\n" in err
    assert corral("approve", "w", "--yes", "--step", "second")[0] == 0
    assert api.objects[f"{REQUESTS}/b"]["spec"]["decision"]["verdict"] == "Approve"
    assert "decision" not in api.objects[f"{REQUESTS}/a"]["spec"]
    assert corral("approve", "w", "--yes")[0] == 0, "one is left"


def test_of_several_of_one_step_one_is_chosen_by_its_own_name(api: Api, corral: Corral) -> None:
    request(api, "call-1", "publish", prompt="Delete x?")
    request(api, "call-2", "publish", prompt="Delete y?")
    code, _, err = corral("approve", "w", "--yes", "--step", "publish")
    assert code == 2
    assert "  call-2 (step publish): Delete y?\n" in err
    assert corral("approve", "call-2", "--yes")[0] == 0
    assert "decision" in api.objects[f"{REQUESTS}/call-2"]["spec"]
    assert "decision" not in api.objects[f"{REQUESTS}/call-1"]["spec"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["w", "--yes"], "nothing of Workflow 'w' waits for a decision"),
        (["w", "--yes", "--step", "reveiw"], "no step 'reveiw' of Workflow 'w' asks for approval"),
        (["ww", "--yes"], "there is no Workflow 'ww' in namespace 'demo'"),
    ],
)
def test_where_there_is_nothing_to_decide_it_is_said(
    corral: Corral, words: list[str], said: str
) -> None:
    code, out, err = corral("approve", *words)
    assert (code, out) == (1, "")
    assert said in err


def test_a_step_that_is_nearly_spelt_so_is_suggested(api: Api, corral: Corral) -> None:
    request(api, "a", "review")
    assert "did you mean 'review'?" in corral("approve", "w", "-y", "--step", "reveiw")[2]


def test_what_was_decided_stays_decided(api: Api, corral: Corral) -> None:
    decision = {"verdict": "Reject", "by": "bob", "comment": "No."}
    request(api, "a", "review", decision=decision)
    for words in (["w", "--step", "review"], ["a"]):
        code, _, err = corral("approve", *words, "--yes")
        assert code == 1
        assert "ApprovalRequest 'a' was rejected by bob: No." in err


def test_a_request_of_an_earlier_run_of_the_name_does_not_count(api: Api, corral: Corral) -> None:
    request(api, "old", "review", workflowRef={"name": "w", "uid": "another"})
    assert "nothing of Workflow 'w' waits" in corral("approve", "w", "--yes")[2]


def test_who_may_not_see_workflows_decides_on_the_latest_request(api: Api, corral: Corral) -> None:
    request(api, "a-old", "review", workflowRef={"name": "w", "uid": "another"})
    request(api, "b-new", "review")
    api.refusals["GET", f"{WORKFLOWS}/w"] = (403, {"message": "workflows is forbidden"})
    assert corral("approve", "w", "--yes")[0] == 0
    assert "decision" in api.objects[f"{REQUESTS}/b-new"]["spec"]
    assert "decision" not in api.objects[f"{REQUESTS}/a-old"]["spec"]


def test_values_that_may_not_be_set_are_not_sent(api: Api, corral: Corral) -> None:
    request(api, "a", "review", allowEdit=["title"])
    code, _, err = corral("approve", "w", "--yes", "--set", "titel=x")
    assert code == 4
    assert "--set titel: the request has no such value; did you mean 'title'?" in err


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (
            422,
            {
                "message": 'approvalrequests.corral.dev "a" is forbidden: '
                "ValidatingAdmissionPolicy 'corral-approvals' with binding 'corral-approvals' "
                "denied request: ann is not among the approvers"
            },
            4,
            "error: it can't be approved: ann is not among the approvers\n",
        ),
        (
            422,
            {
                "message": 'ApprovalRequest.corral.dev "a" is invalid: spec: long',
                "details": {
                    "causes": [
                        {
                            "field": "spec",
                            "message": 'Invalid value: "object": a decision can\'t be changed',
                        }
                    ]
                },
            },
            4,
            "error: it can't be approved: spec: a decision can't be changed\n",
        ),
        (
            403,
            {"message": 'User "ann" cannot patch resource "approvalrequests"'},
            4,
            "error: you may not decide in namespace 'demo': no rights: User \"ann\" cannot patch",
        ),
        (409, {"message": "uid mismatch"}, 1, "error: ApprovalRequest 'a' has changed since"),
    ],
)
def test_a_refusal_is_a_plain_sentence(
    api: Api, corral: Corral, status: int, body: dict[str, Any], code: int, said: str
) -> None:
    request(api, "a", "review")
    api.refusals["PATCH", f"{REQUESTS}/a"] = (status, body)
    found, _, err = corral("approve", "w", "--yes")
    assert found == code
    assert err.startswith(said)


def test_a_dry_run_decides_nothing(api: Api, corral: Corral) -> None:
    request(api, "a", "review")
    code, out, _ = corral("approve", "w", "--dry-run")
    assert code == 0
    assert out.endswith("could be approved by ann\n")
    assert api.queries[-1]["dryRun"] == ["All"]
    assert "decision" not in api.objects[f"{REQUESTS}/a"]["spec"]


def test_json_is_the_request_with_the_decision(api: Api, corral: Corral) -> None:
    request(api, "a", "review")
    code, out, err = corral("reject", "w", "--yes", "-o", "json")
    assert code == 0
    assert json.loads(out)["spec"]["decision"] == {"verdict": "Reject", "by": "ann"}
    assert "Question" in err


def test_without_a_terminal_nobody_can_be_asked(api: Api, corral: Corral) -> None:
    request(api, "a", "review")
    code, _, err = corral("approve", "w", stdin="y\n")
    assert code == 2
    assert "--yes decides without" in err


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("", 1)])
def test_a_person_is_asked_and_silence_is_no(
    api: Api, cluster: Cluster, answer: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corral.cli.approvals import decide

    request(api, "a", "review")
    monkeypatch.setattr(sys, "stdin", _Terminal(answer))
    assert decide(cluster, "demo", "w", Decision("Approve")) == code
    assert ("decision" in api.objects[f"{REQUESTS}/a"]["spec"]) is (code == 0)


def test_who_is_nobody_to_the_cluster_cannot_decide(api: Api, corral: Corral) -> None:
    request(api, "a", "review")
    api.user = ""
    assert "does not say who you are" in corral("approve", "w", "--yes")[2]


def test_everything_that_is_approved_is_shown_and_cannot_rewrite_the_screen(api: Api) -> None:
    found = request(
        api,
        "a",
        "publish",
        prompt="Fine?\x1b[2J\nSecond line.",
        tool={"name": "delete", "arguments": '{"path": "/x", "all": true}'},
        requestedBy="bob",
        expiresAt="2026-01-01T00:10:00Z",
        allowEdit=["title"],
    )
    lines = shown(found, Decision("Approve", values={"title": "Q3"}), "ann", 1_767_225_600.0)
    assert lines == [
        "Workflow   demo/w",
        "Step       publish",
        "Question   Fine?\\x1b[2J",
        "           Second line.",
        "Tool       delete",
        "Arguments  {",
        '             "path": "/x",',
        '             "all": true',
        "           }",
        "Asked by   bob",
        "Expires    2026-01-01T00:10:00Z (in 10m00s)",
        "Values     title can be --set",
        "  title = Q3",
        "You are    ann",
    ]
