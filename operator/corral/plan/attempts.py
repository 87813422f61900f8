"""The life of an attempt: wanted, started, ended, given up."""

from collections.abc import Iterator, Mapping
from typing import Any

from corral.api.errors import ErrorClass
from corral.api.types import seconds
from corral.api.workflow import Step as StepSpec
from corral.api.workflow import StepPhase
from corral.plan.data import unfit
from corral.plan.expressions import (
    ExpressionError,
    Template,
    as_text,
    compact_json,
    render_data,
    whole_numbers,
)
from corral.plan.observed import AgentView, Claim, Pass, Payload, Slot, Want
from corral.plan.retry import wait_before_retry
from corral.plan.scope import input_names
from corral.plan.state import Node, Step
from corral.plan.steps import INVALID_EXPRESSION, MAX_INLINE_OUTPUT, item_variables

BACKSTOP = 15.0
"""Seconds after a worker's own timeout at which the operator gives an attempt up."""
MAX_INPUT = 4 * 1024 * 1024
"""Characters of one rendered input."""


def running_nodes(
    specs: Mapping[str, StepSpec], steps: Mapping[str, Step]
) -> Iterator[tuple[StepSpec, int, Node]]:
    """The nodes with an attempt on a worker: (the step's spec, item, node)."""
    for name, step in steps.items():
        if not step.final:
            for index, node in enumerate(step.nodes):
                if node.worker is not None:
                    yield specs[name], index, node


def absorb(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step]) -> None:
    """Records results: of the attempt that runs, or the usage of one that was given up.

    A result counts only while the state shows that attempt running on that worker; anything else
    was recorded before, or never belonged to this run.
    """
    running = {
        p.step_id(spec, index, node.attempt): (spec, index, node)
        for spec, index, node in running_nodes(specs, steps)
    }
    for result in p.results:
        if (given_up := p.run.unsettled.get(result.attempt_id)) is not None:
            if given_up.uid == result.worker_uid:
                del p.run.unsettled[result.attempt_id]
                p.run.late.add(result.used)
            continue
        spec, _, node = running.get(result.attempt_id, (None, 0, None))
        if spec is None or node is None or node.worker is None:
            continue
        if node.worker.uid != result.worker_uid:
            continue
        del running[result.attempt_id]
        node.used.add(result.used)
        if result.error is not None:
            _attempt_failed(p, spec, node, result.attempt_id, result.error, result.message)
        elif problem := _unusable(result.output):
            _attempt_failed(p, spec, node, result.attempt_id, ErrorClass.INVALID_OUTPUT, problem)
        else:
            node.output = whole_numbers(result.output)
            node.end(StepPhase.SUCCEEDED, p.now)
    p.scope.forget_cost()


def _unusable(output: Any) -> str:
    """Why an output can't be kept, whatever its worker thinks of it; empty where it can."""
    if problem := unfit(output):
        return f"the output {problem}"
    if (size := len(compact_json(output).encode())) > MAX_INLINE_OUTPUT:
        return f"the output of {size} bytes is over {MAX_INLINE_OUTPUT}"
    return ""


def _attempt_failed(
    p: Pass, spec: StepSpec, node: Node, attempt: str, error: ErrorClass, message: str
) -> None:
    message = message.encode(errors="replace").decode()
    wait = wait_before_retry(node, error, spec.retry_strategy, attempt)
    if wait is None:
        node.end(StepPhase.FAILED, p.now, error.value, message)
        return
    node.worker = None
    node.deadline = None
    node.reason = error.value
    node.message = message[:1024] or None
    if wait > 0:
        node.phase = StepPhase.WAITING
        node.not_before = p.now + wait
    else:
        node.phase = StepPhase.QUEUED


def expire(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step]) -> None:
    """Gives up attempts whose worker should have ended them long ago."""
    for spec, index, node in list(running_nodes(specs, steps)):
        backstop = max((node.deadline or p.now) + BACKSTOP, p.patience_until)
        if backstop > p.now:
            p.wake.append(backstop)
            continue
        attempt = p.step_id(spec, index, node.attempt)
        give_up(p, spec, index, node)
        why = "the worker gave no answer"
        _attempt_failed(p, spec, node, attempt, ErrorClass.TIMEOUT, why)


def give_up(p: Pass, spec: StepSpec, index: int, node: Node) -> None:
    """Leaves a running attempt to be cancelled; its usage is booked when its worker tells it."""
    if node.worker is not None:
        p.run.unsettled[p.step_id(spec, index, node.attempt)] = node.worker
        node.worker = None


def claim_slots(
    p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step], claim: Claim
) -> dict[str, Slot]:
    """Slots for attempts that may start now.

    What an agent without free slots leaves of the parallelism is offered to the others: a queue
    in front of one agent must not hold up the rest of the run.
    """
    ready = _ready(p, specs, steps)
    room = _room(p, specs, steps)
    slots: dict[str, Slot] = {}
    refused: list[Want] = []
    while True:
        left = None if room is None else room - len(slots)
        # What was refused is asked for again: the last call says all that waits.
        batch = [*refused, *ready[:left]]
        granted = claim(batch)
        accepted = [want for want in batch if want.attempt_id in granted][:left]
        slots |= {want.attempt_id: granted[want.attempt_id] for want in accepted}
        refused = [want for want in batch if want.attempt_id not in slots]
        full = {want.agent for want in refused}
        ready = [want for want in ready[left:] if want.agent not in full] if left else []
        if not ready or len(slots) == room:
            return slots


def _room(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step]) -> int | None:
    """How many more attempts the run's parallelism lets start; None: any number."""
    if p.spec.parallelism is None:
        return None
    return max(0, p.spec.parallelism - sum(1 for _ in running_nodes(specs, steps)))


def _ready(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step]) -> list[Want]:
    """Attempts that wait for a slot, within what their own step lets run at once."""
    if p.suspended:
        return []
    wants: list[Want] = []
    for name, step in steps.items():
        spec = specs[name]
        if step.final or spec.agent_ref is None or not _agent(p, spec):
            continue
        queued = [i for i, node in enumerate(step.nodes) if node.phase is StepPhase.QUEUED]
        if spec.for_each and spec.for_each.max_concurrent is not None:
            busy = sum(node.worker is not None for node in step.nodes)
            queued = queued[: max(0, spec.for_each.max_concurrent - busy)]
        wants += [
            Want(p.step_id(spec, index, step.nodes[index].attempt + 1), spec.agent_ref.name)
            for index in queued
        ]
    return wants


def _agent(p: Pass, spec: StepSpec) -> AgentView | None:
    view = p.agents.get(spec.agent_ref.name) if spec.agent_ref else None
    return view if view and view.ready else None


def start(
    p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step], slots: Mapping[str, Slot]
) -> dict[str, Payload]:
    """Starts the attempts that got a slot; the step fails where its input can't be rendered."""
    payloads: dict[str, Payload] = {}
    for name, step in steps.items():
        spec = specs[name]
        for index, node in enumerate(step.nodes):
            if node.phase is not StepPhase.QUEUED:
                continue
            identity = p.step_id(spec, index, node.attempt + 1)
            slot = slots.get(identity)
            if slot is None:
                continue
            if node.started is None:
                node.started = p.now
            node.attempt += 1
            node.attempt_started = p.now
            node.worker = slot.worker
            node.agent_revision = slot.agent_revision
            node.phase = StepPhase.RUNNING
            node.reason = node.message = None
            node.deadline = p.now + attempt_timeout(p, spec)
            p.wake.append(node.deadline + BACKSTOP)
            try:
                payloads[identity] = payload(p, spec, step, index)
            except ExpressionError as error:
                node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, str(error))
    return payloads


def attempt_timeout(p: Pass, spec: StepSpec) -> float:
    """Seconds that one attempt may take: the step's word, else the Agent's."""
    if spec.timeout is not None:
        return seconds(spec.timeout)
    agent = _agent(p, spec)
    return agent.timeout if agent else 300.0


def payload(p: Pass, spec: StepSpec, step: Step, index: int) -> Payload:
    """What the running attempt's worker is sent.

    Raises:
        ExpressionError: the input can't be rendered.
    """
    node = step.nodes[index]
    if node.worker is None:
        raise ValueError(f"no attempt of {spec.name}[{index}] is running")
    names = input_names(spec)
    extra = item_variables(spec, step, index, node.attempt)
    data: dict[str, Any] | None = None
    text: str | None = None
    if spec.input_data is not None:
        data = render_data(spec.input_data, names, lambda t: p.scope.render(t, **extra))
    if spec.input is not None:
        text = as_text(p.scope.render(Template(spec.input, names), **extra))
    size = len(text or "") + (len(compact_json(data)) if data is not None else 0)
    if size > MAX_INPUT:
        raise ExpressionError(f"the input has {size} characters, more than {MAX_INPUT}")
    return Payload(
        attempt_id=p.step_id(spec, index, node.attempt),
        worker=node.worker,
        agent_revision=node.agent_revision or "",
        timeout=max(0.001, (node.deadline or p.now) - (node.attempt_started or p.now)),
        input=text,
        input_data=data,
        output_schema=spec.output_schema,
    )
