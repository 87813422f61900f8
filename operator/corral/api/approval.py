"""``ApprovalRequest``: a question of a run, decided by a person whom the API server knows."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from corral.api.types import Approver, Name, Resource, Text, Timestamp, rules

UserName = Annotated[str, Field(min_length=1, max_length=1024)]
"""A person or an account, as the API server knows them."""
ValueName = Annotated[str, Field(max_length=63)]


class WorkflowIdentity(Resource):
    """Names one run: another of the same name is not meant."""

    name: Name
    """The Workflow's name."""
    uid: Annotated[str, Field(min_length=1, max_length=63)]
    """The Workflow's UID."""


class ToolRequest(Resource):
    """A tool call that an agent may make only once a person has agreed."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """The tool's name."""
    arguments: Text = ""
    """What it would be called with, as JSON text."""


class Decision(Resource):
    """What the person decided. It never changes."""

    verdict: Literal["Approve", "Reject"]
    """Whether the step may go on."""
    by: UserName
    """Who decided: the API server makes sure that it is whoever writes the decision."""
    comment: Annotated[str, Field(max_length=4096)] | None = None
    """Why, for people."""
    values: (
        Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] | None
    ) = None
    """Values for the steps after this one, by the names in allowEdit. They are text; expressions
    turn it into numbers with int() and into anything with json()."""


def _unchanging() -> dict[str, Any]:
    """Rules that let a decision be made once, and nothing else ever change."""
    required = ("workflowRef", "step", "prompt")
    optional = ("approvers", "tool", "requestedBy", "allowSelfApproval", "allowEdit", "expiresAt")
    same = "self.{0} == oldSelf.{0}"
    perhaps = f"has(self.{{0}}) == has(oldSelf.{{0}}) && (!has(self.{{0}}) || {same})"
    fixed = dict.fromkeys(required, same) | dict.fromkeys(optional, perhaps)
    return rules(
        *(
            (rule.format(field), f"{field} of an ApprovalRequest can't change")
            for field, rule in fixed.items()
        ),
        ("has(self.approvers) || has(self.tool)", "a step's approval needs approvers"),
        (
            "!has(oldSelf.decision) || (has(self.decision) && self.decision == oldSelf.decision)",
            "a decision can't be changed or taken back",
        ),
        (
            "!has(self.decision) || !has(self.decision.values)"
            " || self.decision.values.all(name, has(self.allowEdit) && name in self.allowEdit)",
            "decision.values may only have names that are in allowEdit",
        ),
    )


class ApprovalRequestSpec(Resource):
    """What is asked, who may answer, and the answer."""

    model_config = ConfigDict(json_schema_extra=_unchanging())

    workflow_ref: WorkflowIdentity
    """The run that waits."""
    step: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-zA-Z0-9_.\[\]]+$")]
    """The run's step that waits."""
    prompt: Text
    """What the person is asked."""
    tool: ToolRequest | None = None
    """The tool call that is asked for; absent: the step itself waits."""
    requested_by: UserName | None = None
    """Who made the run; absent if that is not known."""
    allow_self_approval: bool = False
    """Whether whoever made the run may decide too; if false, who made it has to be known."""
    approvers: Annotated[list[Approver], Field(min_length=1, max_length=32)] | None = None
    """Who may decide; one decision is enough. Absent, which only a tool call's may be: whoever
    has the verb approve."""
    allow_edit: Annotated[list[ValueName], Field(max_length=32)] | None = None
    """Names of values that the person may set with the decision."""
    expires_at: Timestamp | None = None
    """A decision after this time has no effect; absent: never."""
    decision: Decision | None = None
    """What was decided; absent: nothing yet."""
