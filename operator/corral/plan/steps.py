"""The life of a step: its trigger, its condition, its items, its end."""

import json
from collections.abc import Sequence
from typing import Any

from corral.api.errors import ErrorClass, Reason
from corral.api.workflow import ForEach, StepPhase, TriggerRule
from corral.plan import kinds
from corral.plan.data import unfit
from corral.plan.expressions import (
    Expression,
    ExpressionError,
    Template,
    compact_json,
    whole_numbers,
)
from corral.plan.facts import ConfigMapNeed, NotYetKnownError
from corral.plan.frames import Frame, StepSpec
from corral.plan.keep import MAX_ITEMS, UnfitError, keep
from corral.plan.memo import recall
from corral.plan.nodes import INVALID_EXPRESSION, give_up, stopped_as, succeed
from corral.plan.observed import Pass
from corral.plan.scope import failure_message
from corral.plan.selection import choose, needs_worker
from corral.plan.state import Kept, Node, Step
from corral.plan.triggers import Trigger, evaluate

RUNS_AFTER_FAILURE = frozenset({TriggerRule.ALL_DONE, TriggerRule.ANY_FAILED})
LOOK_AGAIN = 10.0
"""Seconds after which a ConfigMap that was not there is looked for again."""
MAX_EXTRACT = 1024
"""Bytes of one extracted value: rows hold them, and conditions read them."""


def advance_frame(p: Pass, frame: Frame) -> bool:
    """Takes every step of a graph as far as it goes without a slot; says whether any changed."""
    changed = apply_fail_fast(p, frame)  # before anything begins that a failure rules out
    for spec in frame.specs.values():
        changed = advance_step(p, frame, spec) or changed
    return apply_fail_fast(p, frame) or changed


def advance_step(p: Pass, frame: Frame, spec: StepSpec) -> bool:
    """Takes a step as far as it goes without a slot; says whether anything changed."""
    step = frame.steps[spec.name]
    if step.phase is not StepPhase.PENDING:
        return _advance_nodes(p, frame, spec, step)
    match _trigger(frame, spec):
        case Trigger.MAY_HOLD:
            return False
        case Trigger.CANNOT_HOLD:
            step.end(StepPhase.OMITTED, p.now, "Omitted", _why_omitted(frame, spec))
            return True
        case Trigger.HOLDS:
            return not p.suspended and _begin(p, frame, spec, step)
    return False


def _trigger(frame: Frame, spec: StepSpec) -> Trigger:
    """What a step's trigger rule says now."""
    dependencies = [
        (seen_by_dependents(frame.specs[name], frame.steps[name]), frame.specs[name].allow_failure)
        for name in spec.depends_on or []
    ]
    return evaluate(spec.trigger_rule, dependencies)


def seen_by_dependents(spec: StepSpec, step: Step) -> StepPhase:
    """A step's phase; an approval that nobody gave does not count as done."""
    skipped = step.phase is StepPhase.SKIPPED
    if skipped and spec.approval is not None and spec.approval.on_skip == "Omit":
        return StepPhase.OMITTED
    return step.phase


def _why_omitted(frame: Frame, spec: StepSpec) -> str:
    ended = ", ".join(f"{name} {frame.steps[name].phase.value}" for name in spec.depends_on or [])
    return f"its trigger rule {spec.trigger_rule.value} can't hold any more: {ended}"


def _begin(p: Pass, frame: Frame, spec: StepSpec, step: Step) -> bool:
    """The trigger rule holds: the condition, then the items."""
    try:
        if spec.when is not None and not _condition(frame, spec.when):
            step.end(StepPhase.SKIPPED, p.now, "Skipped", f"when: {spec.when} is false")
            return True
        items = _items(p, frame, spec.for_each) if spec.for_each else None
        kept = None if items is None else keep(p, items, frame.width, MAX_ITEMS)
    except NotYetKnownError:
        return False
    except ExpressionError as error:
        fail(p, frame, spec, step, INVALID_EXPRESSION, str(error))
        return True
    except UnfitError as error:
        fail(p, frame, spec, step, INVALID_EXPRESSION, f"forEach: the list {error}")
        return True
    if kept is not None:
        step.items, step.items_stored = kept.value, kept.stored
    step.queued = p.now
    step.phase = StepPhase.QUEUED
    count = 1 if items is None else len(items)
    step.nodes = [Node(phase=StepPhase.QUEUED) for _ in range(count)]
    return True


def _condition(frame: Frame, source: str) -> bool:
    holds = frame.scope.evaluate(Expression(source, frame.base_names))
    if not isinstance(holds, bool):
        raise ExpressionError(
            f"when: {source}: gives {compact_json(holds)[:100]}, not true or false"
        )
    return holds


def _items(p: Pass, frame: Frame, each: ForEach) -> list[Any]:
    if each.items is not None:
        items: Any = whole_numbers(each.items)
    elif each.config_map_key_ref is not None:
        items = _json_lines(p, each.config_map_key_ref.name, each.config_map_key_ref.key)
    else:
        items = frame.scope.render(Template(each.items_from or "", frame.base_names))
    if not isinstance(items, list):
        raise ExpressionError(f"forEach.itemsFrom: gives {compact_json(items)[:100]}, not a list")
    if len(items) > each.max_items:
        raise ExpressionError(
            f"forEach: {len(items)} items are more than maxItems {each.max_items}"
        )
    if problem := unfit(items):
        raise ExpressionError(f"forEach: the list {problem}")
    return items


def _json_lines(p: Pass, name: str, key: str) -> list[Any]:
    """The values of a ConfigMap's key, one a line (https://jsonlines.org); blank lines are none."""
    where = f"forEach.configMapKeyRef: key {key!r} of ConfigMap {name!r}"
    need = ConfigMapNeed(name, key)
    text: str | None = p.facts.get(need)
    if text is None:
        p.unavailable = Reason.CONFIG_MAP_NOT_FOUND, f"{where} is not there"
        p.wake.append(p.now + LOOK_AGAIN)
        raise NotYetKnownError(need)
    items = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            items.append(whole_numbers(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ExpressionError(f"{where}: line {number} is no JSON: {error}") from None
    return items


def fail(p: Pass, frame: Frame, spec: StepSpec, step: Step, reason: str, message: str) -> None:
    """Ends a step as Failed; the run is Degraded where that is allowed."""
    step.end(StepPhase.FAILED, p.now, reason, message)
    step.degraded = spec.allow_failure
    frame.scope.forget(spec.name)


def _advance_nodes(p: Pass, frame: Frame, spec: StepSpec, step: Step) -> bool:
    """Takes a step's items as far as they go without a slot, and settles the step."""
    if step.final:
        return False
    changed = False
    on_worker = needs_worker(spec)
    room = room_for(spec, step)
    for index, node in enumerate(step.nodes):
        if node.final:
            continue
        if node.memo is not None:
            p.flight(node.memo, frame.place(spec, index))
        if node.phase is StepPhase.QUEUED:
            if p.suspended:
                continue
            if on_worker:
                changed = _prepare(p, frame, spec, step, index) or changed
            elif room > 0 and kinds.begin(p, frame, spec, step, index):
                changed = True
                room -= not node.final
        if node.steps is not None and not node.final:
            changed = _advance_nested(p, frame, spec, step, index) or changed
        elif node.phase is not StepPhase.QUEUED and node.worker is None and not node.final:
            changed = kinds.go_on(p, frame, spec, step, index) or changed
    return settle(p, frame, spec, step) or changed


def room_for(spec: StepSpec, step: Step) -> int:
    """How many more items the step lets begin: those that run or take their time count."""
    if spec.for_each is None or spec.for_each.max_concurrent is None:
        return len(step.nodes)
    busy = 0
    for node in step.nodes:
        if node.phase is StepPhase.RUNNING:
            busy += 1
        elif node.phase is StepPhase.WAITING:
            busy += bool(node.calls) or spec.wait is not None or spec.approval is not None
    return max(0, spec.for_each.max_concurrent - busy)


def _prepare(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    """Chooses an item's Agent, and looks for an earlier result, before it waits for a slot."""
    node = step.nodes[index]
    changed = False
    if spec.agent_selector is not None:
        view = p.agents.get(node.agent or "")
        if view is None or (not view.ready and node.attempt == 0):
            before = node.agent
            node.agent = choose(p, spec.agent_selector)
            if node.agent != before:
                changed, node.memo = True, None
            if node.agent is None:
                return changed
    if spec.memoize is not None and node.memo is None:
        changed = recall(p, frame, spec, step, index) or node.memo is not None or changed
    return changed


def _advance_nested(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    node = step.nodes[index]
    inner = p.frames.nested(frame, spec, step, index)
    for name in inner.specs:
        inner.steps.setdefault(name, Step())
    changed = advance_frame(p, inner)
    if not all(one.final for one in inner.steps.values()):
        return changed
    failed = [name for name, one in inner.steps.items() if has_failed(inner.specs[name], one)]
    lost = [one for name, one in inner.steps.items() if _cut_off(inner, inner.specs[name], one)]
    if failed:
        first = inner.steps[failed[0]]
        node.end(StepPhase.FAILED, p.now, first.reason or "", failure_message(inner.steps))
        return True
    if lost:
        node.end(StepPhase.CANCELLED, p.now, "Cancelled", lost[0].message or "")
        return True
    if any(one.degraded for one in inner.steps.values()):
        step.degraded = True
        step.message = failure_message(inner.steps) or next(
            one.message for one in inner.steps.values() if one.degraded
        )
    try:
        succeed(p, frame, spec, step, index, _nested_output(inner, spec))
    except NotYetKnownError:
        return changed
    except ExpressionError as error:
        node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, f"output: {error}")
    return True


def _cut_off(frame: Frame, spec: StepSpec, step: Step) -> bool:
    """Whether a step was ended, or kept from starting, by something outside its graph."""
    if step.phase is StepPhase.OMITTED:
        return _trigger(frame, spec) is not Trigger.CANNOT_HOLD
    return step.phase is StepPhase.CANCELLED


def _nested_output(inner: Frame, spec: StepSpec) -> Any:
    source = getattr(spec, "output", None)
    if source is None:
        return None
    template = Template(source, inner.base_names)
    stored: Kept | None = inner.scope.stored_output(template)
    return stored if stored is not None else inner.scope.render(template)


def settle(p: Pass, frame: Frame, spec: StepSpec, step: Step) -> bool:
    """Ends the step once all its nodes have; else shows what they do."""
    if not all(node.final for node in step.nodes):
        phase = _phase_of(step.nodes)
        changed = phase is not step.phase
        step.phase = phase
        return changed
    if not step.is_fan_out:
        node = step.nodes[0]
        if node.phase is StepPhase.FAILED:
            fail(p, frame, spec, step, node.reason or "", node.message or "")
        else:
            message = node.message or (step.message if step.degraded else "") or ""
            step.end(node.phase, p.now, node.reason or "", message)
    else:
        _settle_fan_out(p, frame, spec, step)
    if step.phase is StepPhase.SUCCEEDED and spec.extract:
        try:
            _extract(frame, spec, step)
        except NotYetKnownError:
            step.phase, step.finished = StepPhase.RUNNING, None
            return False
        except ExpressionError as error:
            fail(p, frame, spec, step, INVALID_EXPRESSION, f"extract: {error}")
        frame.scope.forget(spec.name)
    return True


def _phase_of(nodes: Sequence[Node]) -> StepPhase:
    phases = {node.phase for node in nodes}
    for phase in (StepPhase.RUNNING, StepPhase.QUEUED, StepPhase.WAITING):
        if phase in phases:
            return phase
    return StepPhase.QUEUED


def _settle_fan_out(p: Pass, frame: Frame, spec: StepSpec, step: Step) -> None:
    failed = [index for index, node in enumerate(step.nodes) if node.phase is StepPhase.FAILED]
    total = len(step.nodes)
    unfinished = sum(n.phase in (StepPhase.CANCELLED, StepPhase.OMITTED) for n in step.nodes)
    some = any(node.phase is StepPhase.SUCCEEDED for node in step.nodes)
    if failed and not tolerated(spec, len(failed), total):
        first = step.nodes[failed[0]]
        why = f"{len(failed)} of {total} items failed; item {failed[0]}: {first.message}"
        fail(p, frame, spec, step, first.reason or "", why)
    elif unfinished and p.run.concluding and some:
        step.end(StepPhase.SUCCEEDED, p.now)
        step.degraded = True
        step.message = f"{unfinished} of {total} items were not started: the budget is spent"
    elif unfinished:
        phase = stopped_as(*step.nodes)
        step.end(phase, p.now, phase.value, f"{unfinished} of {total} items did not run to an end")
    else:
        message = step.message if step.degraded else None
        step.end(StepPhase.SUCCEEDED, p.now, "", message or "")
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


def _extract(frame: Frame, spec: StepSpec, step: Step) -> None:
    values = frame.scope.values

    def output() -> Any:
        done = [node for node in step.nodes if node.phase is StepPhase.SUCCEEDED]
        outputs = values.load_all([(node.output, node.stored) for node in done])
        return outputs if step.is_fan_out else outputs[0]

    names = frame.base_names | {"output"}
    extract: dict[str, Any] = {}
    for key, source in (spec.extract or {}).items():
        value = frame.scope.evaluate(Expression(source, names), output=output)
        if (size := len(compact_json(value).encode())) > MAX_EXTRACT:
            raise ExpressionError(f"{key}: {size} bytes are more than {MAX_EXTRACT}")
        extract[key] = value
    step.extract = extract


def has_failed(spec: StepSpec, step: Step) -> bool:
    """Whether a step has failed, or has to, in a way that is not allowed."""
    if spec.allow_failure:
        return False
    if step.final:
        return step.phase is StepPhase.FAILED
    failed = sum(node.phase is StepPhase.FAILED for node in step.nodes)
    return not tolerated(spec, failed, len(step.nodes))


def apply_fail_fast(p: Pass, frame: Frame) -> bool:
    """After a failure nothing new starts in a graph, but for steps that wait for one."""
    if not p.spec.fail_fast or frame.is_exit:
        return False
    culprit = next(
        (name for name, step in frame.steps.items() if has_failed(frame.specs[name], step)), None
    )
    if culprit is None:
        return False
    changed = False
    for name, step in frame.steps.items():
        spec = frame.specs[name]
        if not step.final and spec.trigger_rule not in RUNS_AFTER_FAILURE:
            why = f"not started, because step {culprit} failed"
            changed = start_no_more(p, frame, spec, step, why) or changed
    return changed


def start_no_more(p: Pass, frame: Frame, spec: StepSpec, step: Step, why: str) -> bool:
    """Nothing of a step starts any more; what runs ends."""
    if step.phase is StepPhase.PENDING:
        step.end(StepPhase.OMITTED, p.now, "Omitted", why)
        return True
    changed = False
    for index, node in enumerate(step.nodes):
        if node.steps is not None and not node.final:
            inner = p.frames.nested(frame, spec, step, index)
            for name, one in inner.steps.items():
                if not one.final:
                    changed = start_no_more(p, inner, inner.specs[name], one, why) or changed
            continue
        backing_off = node.phase is StepPhase.WAITING and not (
            spec.wait or spec.approval or node.asks
        )
        # An attempt that people had to be asked for goes on where it was: it has begun.
        decided = bool(node.calls) and not node.reason and not p.run.concluding
        if decided or (node.phase is not StepPhase.QUEUED and not backing_off):
            continue
        changed = True
        if (
            node.attempt and node.reason and not p.run.concluding
        ):  # it has failed once, and is not tried again
            node.end(StepPhase.FAILED, p.now, node.reason, node.message or "")
        else:
            phase = stopped_as(node)
            node.end(phase, p.now, phase.value, why)
    if changed:
        settle(p, frame, spec, step)
    return changed


def halt(p: Pass, frame: Frame, why: str) -> bool:
    """Ends everything: what runs or waits is Cancelled, what never started Omitted."""
    changed = False
    for name, step in frame.steps.items():
        if step.final:
            continue
        changed = True
        spec = frame.specs[name]
        if step.phase is not StepPhase.PENDING and all(node.final for node in step.nodes):
            settle(p, frame, spec, step)  # it ended in this very pass
            if step.final:
                continue
        for index, node in enumerate(step.nodes):
            if not node.final:
                phase = stopped_as(node)
                end_node(p, frame, spec, step, index, phase, phase.value, why)
        if p.run.concluding and step.is_fan_out:
            settle(p, frame, spec, step)  # what is done of it counts
            continue
        phase = stopped_as(*step.nodes)
        step.end(phase, p.now, phase.value, why)
    return changed


def end_node(
    p: Pass,
    frame: Frame,
    spec: StepSpec,
    step: Step,
    index: int,
    phase: StepPhase,
    reason: str,
    why: str,
) -> None:
    """Ends an item from outside, with all that runs in it."""
    node = step.nodes[index]
    if node.steps is not None:
        halt(p, p.frames.nested(frame, spec, step, index), why)
    give_up(p, frame, spec, step, index)
    node.end(phase, p.now, reason, why)


def timed_out(p: Pass, frame: Frame, spec: StepSpec, step: Step, why: str) -> None:
    """The step's deadline has passed; a fan-out has failed then, whatever it tolerates."""
    late = [index for index, node in enumerate(step.nodes) if not node.final]
    for index in late:
        end_node(p, frame, spec, step, index, StepPhase.FAILED, ErrorClass.TIMEOUT, why)
    if late and step.is_fan_out:
        why += f" before {len(late)} of {len(step.nodes)} items had ended"
    if late:
        fail(p, frame, spec, step, ErrorClass.TIMEOUT, why)
