"""The life of a step: its trigger, its condition, its items, its end."""

from collections.abc import Sequence
from typing import Any

from corral.api.types import seconds
from corral.api.workflow import ForEach, StepPhase, TriggerRule
from corral.api.workflow import Step as StepSpec
from corral.plan.data import unfit
from corral.plan.expressions import (
    Expression,
    ExpressionError,
    Template,
    compact_json,
    whole_numbers,
)
from corral.plan.observed import Pass
from corral.plan.scope import BASE_NAMES, input_names
from corral.plan.state import Node, Step
from corral.plan.triggers import Trigger, evaluate

INVALID_EXPRESSION = "InvalidExpression"
RUNS_AFTER_FAILURE = frozenset({TriggerRule.ALL_DONE, TriggerRule.ANY_FAILED})
MAX_INLINE_OUTPUT = 256 * 1024
"""Bytes of one output; the status of a run has to fit into etcd."""
MAX_EXTRACT = 1024
"""Bytes of one extracted value: rows hold them, and conditions read them."""


def advance_step(
    p: Pass, spec: StepSpec, steps: dict[str, Step], specs: dict[str, StepSpec]
) -> bool:
    """Takes a step as far as it goes without a slot; says whether anything changed."""
    step = steps[spec.name]
    if step.phase is StepPhase.PENDING:
        dependencies = [
            (steps[name].phase, specs[name].allow_failure) for name in spec.depends_on or []
        ]
        match evaluate(spec.trigger_rule, dependencies):
            case Trigger.MAY_HOLD:
                return False
            case Trigger.CANNOT_HOLD:
                step.end(StepPhase.OMITTED, p.now, "Omitted", _why_omitted(spec, steps))
                return True
            case Trigger.HOLDS:
                if p.suspended:
                    return False
                _begin(p, spec, step)
                return True
    return advance_nodes(p, spec, step)


def _why_omitted(spec: StepSpec, steps: dict[str, Step]) -> str:
    ended = ", ".join(f"{name} {steps[name].phase.value}" for name in spec.depends_on or [])
    return f"its trigger rule {spec.trigger_rule.value} can't hold any more: {ended}"


def _begin(p: Pass, spec: StepSpec, step: Step) -> None:
    """The trigger rule holds: the condition, then the items."""
    try:
        if spec.when is not None:
            holds = p.scope.evaluate(Expression(spec.when, BASE_NAMES))
            if not isinstance(holds, bool):
                raise ExpressionError(
                    f"when: {spec.when}: gives {compact_json(holds)[:100]}, not true or false"
                )
            if not holds:
                step.end(StepPhase.SKIPPED, p.now, "Skipped", f"when: {spec.when} is false")
                return
        step.items = _items(p, spec.for_each) if spec.for_each else None
    except ExpressionError as error:
        fail(p, spec, step, INVALID_EXPRESSION, str(error))
        return
    step.queued = p.now
    step.phase = StepPhase.QUEUED
    count = 1 if step.items is None else len(step.items)
    step.nodes = [Node(phase=StepPhase.QUEUED) for _ in range(count)]


def _items(p: Pass, each: ForEach) -> list[Any]:
    if each.items is not None:
        items: Any = whole_numbers(each.items)
    else:
        items = p.scope.render(Template(each.items_from or "", BASE_NAMES))
    if not isinstance(items, list):
        raise ExpressionError(f"forEach.itemsFrom: gives {compact_json(items)[:100]}, not a list")
    if len(items) > each.max_items:
        raise ExpressionError(
            f"forEach: {len(items)} items are more than maxItems {each.max_items}"
        )
    if problem := unfit(items):
        raise ExpressionError(f"forEach: the list {problem}")
    return items


def fail(p: Pass, spec: StepSpec, step: Step, reason: str, message: str) -> None:
    """Ends a step as Failed; the run is Degraded where that is allowed."""
    step.end(StepPhase.FAILED, p.now, reason, message)
    step.degraded = spec.allow_failure
    p.scope.forget(spec.name)


def advance_nodes(p: Pass, spec: StepSpec, step: Step) -> bool:
    """Ends waits and backoffs that are over, evaluates transforms, settles the step."""
    if step.final:
        return False
    changed = False
    for node in step.nodes:
        if node.phase is StepPhase.WAITING and node.not_before is not None:
            if node.not_before > p.now:
                p.wake.append(node.not_before)
                continue
            changed = True
            node.not_before = None
            if spec.wait is not None:
                node.end(StepPhase.SUCCEEDED, p.now)
            else:
                node.phase = StepPhase.QUEUED
    if spec.agent_ref is None and not p.suspended:
        room = _room_for_waits(spec, step)
        for index, node in enumerate(step.nodes):
            if node.phase is StepPhase.QUEUED and room > 0:
                changed = _advance_queued(p, spec, step, index) or changed
                room -= spec.wait is not None
    return settle(p, spec, step) or changed


def _room_for_waits(spec: StepSpec, step: Step) -> int:
    """How many more items may start that take time without a worker."""
    if spec.wait is None or spec.for_each is None or spec.for_each.max_concurrent is None:
        return len(step.nodes)
    busy = sum(node.phase is StepPhase.WAITING for node in step.nodes)
    return spec.for_each.max_concurrent - busy


def _advance_queued(p: Pass, spec: StepSpec, step: Step, index: int) -> bool:
    """Runs what needs no worker."""
    node = step.nodes[index]
    if spec.wait is not None:
        node.started = p.now
        node.phase = StepPhase.WAITING
        node.not_before = p.now + seconds(spec.wait.duration)
        p.wake.append(node.not_before)
        return True
    if spec.transform is not None:
        node.started = p.now
        try:
            template = Template(spec.transform, input_names(spec))
            output = p.scope.render(template, **item_variables(spec, step, index))
            if (size := len(compact_json(output).encode())) > MAX_INLINE_OUTPUT:
                raise ExpressionError(f"the output of {size} bytes is over {MAX_INLINE_OUTPUT}")
            node.output = output
            node.end(StepPhase.SUCCEEDED, p.now)
        except ExpressionError as error:
            node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, str(error))
        return True
    return False


def item_variables(spec: StepSpec, step: Step, index: int, attempt: int = 1) -> dict[str, Any]:
    """What an input may use besides the run's variables."""
    variables: dict[str, Any] = {
        "index": index,
        "attempt": attempt,
        "iteration": 1,
        "previous": None,
    }
    if spec.for_each and step.items is not None:
        variables[spec.for_each.as_] = step.items[index]
    return variables


def settle(p: Pass, spec: StepSpec, step: Step) -> bool:
    """Ends the step once all its nodes have; else shows what they do."""
    if not all(node.final for node in step.nodes):
        phase = _phase_of(step.nodes)
        changed = phase is not step.phase
        step.phase = phase
        return changed
    if step.items is None:
        node = step.nodes[0]
        if node.phase is StepPhase.FAILED:
            fail(p, spec, step, node.reason or "", node.message or "")
        else:
            step.end(node.phase, p.now, node.reason or "", node.message or "")
    else:
        _settle_fan_out(p, spec, step)
    if step.phase is StepPhase.SUCCEEDED and spec.extract:
        _extract(p, spec, step)
    return True


def _phase_of(nodes: Sequence[Node]) -> StepPhase:
    phases = {node.phase for node in nodes}
    for phase in (StepPhase.RUNNING, StepPhase.QUEUED, StepPhase.WAITING):
        if phase in phases:
            return phase
    return StepPhase.QUEUED


def _settle_fan_out(p: Pass, spec: StepSpec, step: Step) -> None:
    failed = [index for index, node in enumerate(step.nodes) if node.phase is StepPhase.FAILED]
    total = len(step.nodes)
    unfinished = sum(n.phase in (StepPhase.CANCELLED, StepPhase.OMITTED) for n in step.nodes)
    if failed and not tolerated(spec, len(failed), total):
        first = step.nodes[failed[0]]
        why = f"{len(failed)} of {total} items failed; item {failed[0]}: {first.message}"
        fail(p, spec, step, first.reason or "", why)
    elif unfinished:
        started = any(node.started is not None for node in step.nodes)
        phase = StepPhase.CANCELLED if started else StepPhase.OMITTED
        step.end(phase, p.now, phase.value, f"{unfinished} of {total} items did not run to an end")
    else:
        step.end(StepPhase.SUCCEEDED, p.now)
        if failed:
            step.degraded = True
            step.message = f"{len(failed)} of {total} items failed, which is tolerated"


def tolerated(spec: StepSpec, failed: int, total: int) -> bool:
    """Whether a fan-out may have that many failures: ``failed * 100 <= percent * total``."""
    limit = spec.for_each.tolerate_failures if spec.for_each else None
    if limit is None:
        return failed == 0
    text = str(limit)
    if text.endswith("%"):
        return failed * 100 <= int(text[:-1]) * total
    return failed <= int(text)


def _extract(p: Pass, spec: StepSpec, step: Step) -> None:
    output: Any = (
        step.nodes[0].output
        if step.items is None
        else [node.output for node in step.nodes if node.phase is StepPhase.SUCCEEDED]
    )
    names = BASE_NAMES | {"output"}
    extract: dict[str, Any] = {}
    try:
        for key, source in (spec.extract or {}).items():
            value = p.scope.evaluate(Expression(source, names), output=output)
            if (size := len(compact_json(value).encode())) > MAX_EXTRACT:
                raise ExpressionError(f"{key}: {size} bytes are more than {MAX_EXTRACT}")
            extract[key] = value
        step.extract = extract
    except ExpressionError as error:
        fail(p, spec, step, INVALID_EXPRESSION, f"extract: {error}")
    p.scope.forget(spec.name)
