"""``corral approve`` and ``corral reject``: a decision in one's own name.

It is written with the person's own credentials, and the API server checks who they are; nothing
here could make somebody else of them.
"""

import json
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.kinds import kind_named
from corral.cli.lookup import workflow_of
from corral.cli.output import tidy, write
from corral.cli.view import duration
from corral.cli.words import similar
from corral.plan.times import parse


@dataclass(frozen=True)
class Decision:
    """What a person decides, and how they want to be asked."""

    verdict: str
    """``Approve`` or ``Reject``."""
    comment: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None
    yes: bool = False
    dry_run: bool = False
    output: str = "text"

    @property
    def done(self) -> str:
        """``approved`` or ``rejected``."""
        return {"Approve": "approved", "Reject": "rejected"}[self.verdict]


def decide(cluster: Cluster, namespace: str, name: str, decision: Decision) -> Exit:
    """Finds the request, shows it, asks, and writes the decision.

    Args:
        name: of a Workflow, or of an ApprovalRequest.

    Raises:
        CliError: there is nothing to decide (exit code 1), it is not clear what (2), or the API
            server refuses the decision (4).
    """
    request = pending(cluster, namespace, name, decision.step)
    _values_fit(request, decision)
    user = cluster.username()
    if user is None:
        raise CliError("the cluster does not say who you are to it, so you can't decide there")
    for_people = sys.stderr if decision.output == "json" else sys.stdout
    print("\n".join(shown(request, decision, user, time.time())), file=for_people)
    if not decision.yes and not decision.dry_run and not _asked(decision):
        print("nothing was decided", file=sys.stderr)
        return Exit.FAILED
    decided = _write(cluster, namespace, request, decision, user)
    if decision.output == "json":
        write(tidy(decided), "json")
    else:
        would = "could be" if decision.dry_run else "was"
        spec = request["spec"]
        print(
            f"step {spec['step']} of Workflow {spec['workflowRef']['name']} {would} "
            f"{decision.done} by {user}"
        )
    return Exit.OK


def pending(cluster: Cluster, namespace: str, name: str, step: str | None) -> dict[str, Any]:
    """The one undecided ApprovalRequest that is meant.

    Raises:
        CliError: there is none, or there are several.
    """
    requests = cluster.objects(kind_named("approvalrequest"), namespace)
    by_name = [request for request in requests if request["metadata"]["name"] == name]
    if by_name and step in (None, by_name[0]["spec"]["step"]):
        return _undecided(by_name[0])
    of_workflow = _of_workflow(cluster, namespace, name, requests)
    if step is not None:
        steps = [request["spec"]["step"] for request in of_workflow]
        of_workflow = [request for request in of_workflow if request["spec"]["step"] == step]
        if not of_workflow:
            hint = similar(step, steps) or (f"; there are {', '.join(steps)}" if steps else "")
            raise CliError(f"no step {step!r} of Workflow {name!r} asks for approval{hint}")
    waiting = [request for request in of_workflow if "decision" not in request["spec"]]
    if len(waiting) == 1:
        return waiting[0]
    if waiting:
        raise CliError(_choice(name, waiting), Exit.USAGE)
    if step is not None:
        return _undecided(of_workflow[-1])
    raise CliError(f"nothing of Workflow {name!r} waits for a decision")


def _choice(name: str, waiting: list[dict[str, Any]]) -> str:
    """A line for each; where a step asks for several things, by their own names."""
    steps = [request["spec"]["step"] for request in waiting]
    lines = [f"{len(waiting)} decisions are waited for by Workflow {name!r}; choose one:"]
    for request, step in zip(waiting, steps, strict=True):
        option = f"--step {step}" if steps.count(step) == 1 else f"{_name(request)} (step {step})"
        lines.append(f"  {option}: {_first_line(request['spec']['prompt'])}")
    return "\n".join(lines)


def _of_workflow(
    cluster: Cluster, namespace: str, name: str, requests: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Those of the Workflow that has the name now: an earlier one's are as good as gone."""
    found = [r for r in requests if r["spec"]["workflowRef"]["name"] == name]
    found.sort(key=lambda r: (r["metadata"].get("creationTimestamp", ""), _name(r)))
    try:
        uid = workflow_of(cluster, namespace, name)["metadata"]["uid"]
    except ApiError as error:
        if error.status != 403 or not found:
            raise
        uid = found[-1]["spec"]["workflowRef"]["uid"]  # an approver need not see Workflows
    return [r for r in found if r["spec"]["workflowRef"]["uid"] == uid]


def _name(request: dict[str, Any]) -> str:
    name: str = request["metadata"]["name"]
    return name


def _undecided(request: dict[str, Any]) -> dict[str, Any]:
    decision = request["spec"].get("decision")
    if decision is None:
        return request
    comment = f": {decision['comment']}" if decision.get("comment") else ""
    verdict = {"Approve": "approved", "Reject": "rejected"}[decision["verdict"]]
    raise CliError(f"ApprovalRequest {_name(request)!r} was {verdict} by {decision['by']}{comment}")


def _values_fit(request: dict[str, Any], decision: Decision) -> None:
    allowed = request["spec"].get("allowEdit") or []
    for name in decision.values:
        if name not in allowed:
            listed = f"; there are {', '.join(allowed)}" if allowed else "; it lets you set none"
            hint = similar(name, allowed) or listed
            raise CliError(f"--set {name}: the request has no such value{hint}", Exit.REFUSED)


def shown(request: dict[str, Any], decision: Decision, user: str, now: float) -> list[str]:
    """What is decided, in full: nobody should approve what they have not seen."""
    spec = request["spec"]
    lines = [
        f"Workflow   {request['metadata']['namespace']}/{spec['workflowRef']['name']}",
        f"Step       {spec['step']}",
        *_labelled("Question", spec["prompt"]),
    ]
    if tool := spec.get("tool"):
        lines.append(f"Tool       {_printable(tool['name'])}")
        lines += _labelled("Arguments", _arguments(tool.get("arguments", "")))
    if requested_by := spec.get("requestedBy"):
        lines.append(f"Asked by   {requested_by}")
    if expires_at := spec.get("expiresAt"):
        left = parse(expires_at) - now
        when = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago: too late, maybe"
        lines.append(f"Expires    {expires_at} ({when})")
    if allowed := spec.get("allowEdit"):
        lines.append(f"Values     {', '.join(allowed)} can be --set")
    lines += [f"  {name} = {value}" for name, value in decision.values.items()]
    if decision.comment:
        lines += _labelled("Comment", decision.comment)
    lines.append(f"You are    {user}")
    return lines


def _labelled(label: str, text: str) -> list[str]:
    first, *rest = _printable(text).splitlines() or [""]
    return [
        f"{label:<10} {first}".rstrip(),
        *textwrap.indent("\n".join(rest), " " * 11).splitlines(),
    ]


def _printable(text: str) -> str:
    """A model may have written it: no escape sequence of its may rewrite what is on the screen."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _arguments(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _first_line(text: str) -> str:
    line = _printable(text.strip().split("\n", 1)[0])
    return line if len(line) <= 70 else line[:69] + "…"


def _asked(decision: Decision) -> bool:
    if not sys.stdin.isatty():
        raise CliError("there is no terminal to ask at; --yes decides without", Exit.USAGE)
    print(f"{decision.verdict}? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _write(
    cluster: Cluster, namespace: str, request: dict[str, Any], decision: Decision, user: str
) -> dict[str, Any]:
    """Writes it into that very request: one of the same name made since is not what was shown."""
    written: dict[str, Any] = {"verdict": decision.verdict, "by": user}
    if decision.comment:
        written["comment"] = decision.comment
    if decision.values:
        written["values"] = dict(decision.values)
    patch = {
        "metadata": {"uid": request["metadata"]["uid"]},
        "spec": {"decision": written},
    }
    kind, name = kind_named("approvalrequest"), _name(request)
    try:
        return cluster.merge(kind, namespace, name, patch, dry_run=decision.dry_run)
    except ApiError as error:
        if error.status == 409:
            raise CliError(
                f"ApprovalRequest {name!r} has changed since; look at it again"
            ) from None
        if error.status == 403 and error.code is Exit.FAILED:
            raise CliError(
                f"you may not decide in namespace {namespace!r}: {error.message}", Exit.REFUSED
            ) from None
        raise CliError(f"it can't be {decision.done}: {error.message}", Exit.REFUSED) from None
