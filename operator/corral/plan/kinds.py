"""What the items of each kind of step do that need no worker: how they begin, and go on.

Steps of agents and tool calls wait for a slot (``attempts``), nested steps are graphs of their
own (``steps``). The others are here: waits, transforms, approvals and child Workflows, and the
approvals of tool calls that an attempt asked for.
"""

from decimal import Decimal

from corral.api.errors import ErrorClass, Reason
from corral.api.types import seconds
from corral.api.workflow import Approval, StepPhase
from corral.plan import budget
from corral.plan.expressions import ExpressionError, Template, as_text, render_data
from corral.plan.facts import NotYetKnownError
from corral.plan.frames import Frame, StepSpec
from corral.plan.names import made_name
from corral.plan.nodes import INVALID_EXPRESSION, succeed
from corral.plan.observed import Pass, WantedApproval, WantedChild
from corral.plan.retry import wait_before_retry
from corral.plan.state import Consumption, Failure, Kept, Node, Step

MAX_DEPTH = 5
"""Workflows within one another."""
KEPT_ERRORS = 5


def begin(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    """Starts a queued item that needs no worker; says whether anything changed."""
    node = step.nodes[index]
    try:
        if spec.transform is not None:
            _transform(p, frame, spec, step, index)
        elif spec.wait is not None:
            node.phase = StepPhase.WAITING
            node.not_before = p.now + seconds(spec.wait.duration)
        elif spec.approval is not None:
            prompt_of(frame, spec, spec.approval, step, index)
            node.approval = made_name(p.name, p.run.run_id, frame.path + spec.name, node.iteration)
            node.phase = StepPhase.WAITING
            if spec.approval.timeout is not None:
                node.not_before = p.now + seconds(spec.approval.timeout)
        elif spec.workflow is not None:
            return _call(p, frame, spec, step, index)
        else:  # nested steps
            node.steps = {}
            node.phase = StepPhase.RUNNING
    except NotYetKnownError:
        return False
    except ExpressionError as error:
        node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, str(error))
    if node.started is None:
        node.started = p.now
    if node.not_before is not None and not node.final:
        p.wake.append(node.not_before)
    return True


def go_on(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    """Takes on an item that has begun and has no worker; says whether anything changed."""
    node = step.nodes[index]
    if node.calls and node.phase is StepPhase.WAITING and node.not_before is None:
        return _decide_calls(p, node)
    if node.approval is not None and spec.approval is not None and not node.final:
        view = p.approvals.get(node.approval)
        if view is not None and view.verdict is not None:
            values = dict(view.values)
            _decide(p, frame, spec, step, index, view.verdict, view.by, view.comment, values)
            return True
    if node.child is not None and node.phase is StepPhase.RUNNING:
        return _follow_child(p, frame, spec, step, index)
    if node.phase is not StepPhase.WAITING or node.not_before is None:
        return False
    if node.not_before > p.now:
        p.wake.append(node.not_before)
        return False
    node.not_before = None
    if spec.wait is not None:
        succeed(p, frame, spec, step, index, None)
    elif spec.approval is not None:
        why = f"no decision within {spec.approval.timeout}"
        if spec.approval.on_timeout == "Fail":
            node.end(StepPhase.FAILED, p.now, ErrorClass.TIMEOUT, why)
        else:
            _decide(p, frame, spec, step, index, spec.approval.on_timeout, "", why, {})
    else:
        node.phase = StepPhase.QUEUED
    return True


def _transform(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> None:
    template = Template(spec.transform or "", frame.input_names(spec))
    value = frame.scope.stored_output(template)
    if value is None:
        variables = frame.item_variables(spec, step, index)
        succeed(p, frame, spec, step, index, frame.scope.render(template, **variables))
    else:
        succeed(p, frame, spec, step, index, value)


def _decide(
    p: Pass,
    frame: Frame,
    spec: StepSpec,
    step: Step,
    index: int,
    verdict: str,
    by: str,
    comment: str,
    values: dict[str, str],
) -> None:
    node = step.nodes[index]
    if verdict == "Approve":
        output = {"decision": verdict, "by": by, "comment": comment, "values": values}
        succeed(p, frame, spec, step, index, output)
        return
    why = (f"rejected by {by}" if by else "rejected") + (f": {comment}" if comment else "")
    skips = spec.approval is not None and spec.approval.on_reject == "Skip"
    phase = StepPhase.SKIPPED if skips else StepPhase.FAILED
    node.end(phase, p.now, ErrorClass.REJECTED, why)


def _decide_calls(p: Pass, node: Node) -> bool:
    """Takes in what people said of an attempt's tool calls; it goes on once all are decided."""
    changed = False
    for call in node.calls:
        view = p.approvals.get(call.approval)
        if call.approved is None and view is not None and view.verdict is not None:
            call.approved = view.verdict == "Approve"
            call.comment = view.comment
            changed = True
    if all(call.approved is not None for call in node.calls):
        node.phase = StepPhase.QUEUED
        node.reason = node.message = None
        changed = True
    return changed


def _call(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    """Starts a child Workflow, which is made once the state that says so is written."""
    node = step.nodes[index]
    if p.depth >= MAX_DEPTH:
        why = f"Workflows are nested {MAX_DEPTH} deep at the most"
        node.started = p.now
        node.end(StepPhase.FAILED, p.now, ErrorClass.INTERNAL, why)
        return True
    cost: Decimal | None = None
    tokens: int | None = None
    if p.spec.budget is not None and not frame.is_exit:
        if not p.penniless:
            cost, tokens = budget.remaining(p.spec.budget, p.run)
            p.penniless = (cost is not None and cost < budget.SMALLEST_MONEY) or (
                tokens is not None and tokens < 1
            )
        if p.penniless:
            p.starved = True
            return False
    _arguments(frame, spec, step, index, node.attempt + 1)
    own = (p.templates or {}).get(spec.workflow.template_ref.name) if spec.workflow else None
    reserved = budget.stricter(cost, tokens, own)
    node.reserved, node.reserved_tokens = reserved.cost, reserved.tokens
    node.attempt += 1
    identity = frame.running_attempt_id(spec, index, node)
    node.child = made_name(p.name, identity)
    node.child_seen = False
    node.phase = StepPhase.RUNNING
    if node.started is None:
        node.started = p.now
    return True


def _arguments(
    frame: Frame, spec: StepSpec, step: Step, index: int, attempt: int
) -> dict[str, object]:
    given = (spec.workflow.arguments if spec.workflow else None) or {}
    variables = frame.item_variables(spec, step, index) | {"attempt": attempt}
    names = frame.input_names(spec)
    rendered: dict[str, object] = render_data(
        given, names, lambda template: frame.scope.render(template, **variables)
    )
    return rendered


def _follow_child(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    node = step.nodes[index]
    view = p.children.get(node.child or "")
    if view is None:
        if not node.child_seen:
            return False  # it is about to be made
        _child_failed(
            p, frame, spec, node, index, ErrorClass.INTERNAL, "the child Workflow was deleted"
        )
        return True
    if not view.finished:
        changed = not node.child_seen
        node.child_seen = True
        return changed
    used = node.used.model_copy()
    node.used.add(view.used)
    p.frames.values.forget_cost()
    if view.phase == "Succeeded":
        try:
            output = view.output if view.stored is None else Kept(stored=view.stored)
            succeed(p, frame, spec, step, index, output)
        except NotYetKnownError:
            node.used = used
            return False
        return True
    phase = view.phase.value if view.phase else "Failed"
    why = f"Workflow {node.child} ended {phase}: {view.message}"
    _child_failed(p, frame, spec, node, index, _error_of(view.reason), why)
    return True


def _error_of(reason: str) -> ErrorClass:
    """What a child's failure is to the step that called it."""
    if reason == Reason.BUDGET_EXCEEDED:
        return ErrorClass.BUDGET
    if reason == Reason.DEADLINE_EXCEEDED:
        return ErrorClass.TIMEOUT
    known = {error.value for error in ErrorClass}
    return ErrorClass(reason) if reason in known else ErrorClass.INTERNAL


def _child_failed(
    p: Pass,
    frame: Frame,
    spec: StepSpec,
    node: Node,
    index: int,
    error: ErrorClass,
    message: str,
) -> None:
    node.rest()
    identity = frame.running_attempt_id(spec, index, node)
    note_failure(node, error, message, p.now)
    retry(p, node, wait_before_retry(node, error, spec.retry_strategy, identity))


def note_failure(node: Node, error: ErrorClass, message: str, now: float) -> None:
    """Keeps what went wrong with an attempt."""
    node.reason = error.value
    node.message = message[:1024] or None
    failure = Failure(
        attempt=node.attempt,
        iteration=node.iteration,
        reason=error.value,
        message=message[:256],
        started=node.attempt_started,
        at=now,
    )
    node.errors = [*node.errors, failure][-KEPT_ERRORS:]


def retry(p: Pass, node: Node, wait: float | None) -> None:
    """Queues the item again after ``wait`` seconds; None ends it with what is noted."""
    if wait is None:
        node.end(StepPhase.FAILED, p.now, node.reason or "", node.message or "")
    elif wait > 0:
        node.phase = StepPhase.WAITING
        node.not_before = p.now + wait
    else:
        node.phase = StepPhase.QUEUED


def prompt_of(frame: Frame, spec: StepSpec, approval: Approval, step: Step, index: int) -> str:
    """What the person is asked.

    Raises:
        ExpressionError: it can't be rendered.
        NotYetKnownError: a value in it has not been loaded.
    """
    variables = frame.item_variables(spec, step, index)
    template = Template(approval.prompt, frame.input_names(spec))
    return as_text(frame.scope.render(template, **variables))[:16384]


def awaited_approvals(p: Pass) -> set[str]:
    """The ApprovalRequests on which something that has not ended depends, by name."""
    return {
        name
        for frame in p.frames.all()
        for step in frame.steps.values()
        for node in step.nodes
        if not node.final
        for name in (node.approval, *(call.approval for call in node.calls))
        if name is not None
    }


def wanted_approvals(p: Pass) -> list[WantedApproval]:
    """The ApprovalRequests that have to be made: those that are waited for and not there.

    Raises:
        NotYetKnownError: a prompt needs a value that has not been loaded.
    """
    wanted = []
    for frame in p.frames.all():
        for name, step in frame.steps.items():
            spec = frame.specs[name]
            for index, node in enumerate(step.nodes):
                if node.final or node.phase is not StepPhase.WAITING:
                    continue
                shown = frame.shown(spec, step, index)
                if spec.approval is not None and node.approval not in p.approvals:
                    wanted.append(_wanted(frame, spec, spec.approval, step, index, shown))
                wanted += [
                    _wanted_call(p, spec, node, number, shown)
                    for number, call in enumerate(node.calls)
                    if call.approved is None and call.approval not in p.approvals
                ]
    return wanted


def _wanted(
    frame: Frame, spec: StepSpec, approval: Approval, step: Step, index: int, shown: str
) -> WantedApproval:
    node = step.nodes[index]
    return WantedApproval(
        name=node.approval or "",
        step=shown,
        prompt=prompt_of(frame, spec, approval, step, index),
        approvers=tuple({"kind": one.kind, "name": one.name} for one in approval.approvers),
        allow_self_approval=approval.allow_self_approval,
        expires_at=node.not_before,
        allow_edit=tuple(approval.allow_edit or ()),
    )


def _wanted_call(p: Pass, spec: StepSpec, node: Node, number: int, shown: str) -> WantedApproval:
    call = node.calls[number]
    agent = node.agent or (spec.agent_ref.name if spec.agent_ref else "")
    view = p.agents.get(agent)
    return WantedApproval(
        name=call.approval,
        step=shown,
        prompt=f"Agent {agent} asks to call the tool {call.tool}.",
        approvers=view.approvers.get(call.tool, view.approvers.get("", ())) if view else (),
        allow_self_approval=bool(view and call.tool in view.self_approval),
        tool=(call.tool, call.arguments),
    )


def wanted_children(p: Pass) -> list[WantedChild]:
    """The child Workflows that should be there and have not been seen.

    Raises:
        NotYetKnownError: an argument needs a value that has not been loaded.
    """
    wanted = []
    for frame in p.frames.all():
        for name, step in frame.steps.items():
            spec = frame.specs[name]
            if spec.workflow is None or step.final:
                continue
            for index, node in enumerate(step.nodes):
                running = node.phase is StepPhase.RUNNING and node.child is not None
                if not running or node.child_seen or node.child in p.children:
                    continue
                wanted.append(
                    WantedChild(
                        name=node.child or "",
                        step=frame.shown(spec, step, index),
                        template=spec.workflow.template_ref.name,
                        arguments=_arguments(frame, spec, step, index, node.attempt),
                        max_cost=node.reserved,
                        max_tokens=node.reserved_tokens or None,
                        concludes=p.spec.budget is not None
                        and p.spec.budget.on_exceeded == "Conclude",
                    )
                )
    return wanted


def settle_children(p: Pass) -> None:
    """Books what child Workflows used that were given up, and have ended or are gone."""
    for name in list(p.run.unsettled_children):
        view = p.children.get(name)
        if view is None or view.finished:
            p.run.settle(name, view.used if view else Consumption())
            p.frames.values.forget_cost()


def children_looked_at(p: Pass) -> set[str]:
    """The child Workflows that a pass has to see: ``Pass.children``."""
    return children_under_way(p) | set(p.run.unsettled_children)


def children_under_way(p: Pass) -> set[str]:
    """The child Workflows that may go on."""
    return {
        node.child
        for frame in p.frames.all()
        for step in frame.steps.values()
        for node in step.nodes
        if node.child is not None and not node.final and node.phase is StepPhase.RUNNING
    }
