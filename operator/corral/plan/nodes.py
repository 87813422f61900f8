"""How one item of a step ends, and how a loop goes round.

A loop runs its item again while ``until`` does not hold:

==================  ==========================================
``until`` holds     the item succeeds with this output
not, more to go     the next iteration, with this as previous
not, none to go     ``onExhausted``: fail, last, or best
==================  ==========================================
"""

from typing import Any

from corral.api.errors import ErrorClass
from corral.api.workflow import Loop, StepPhase
from corral.plan.expressions import Expression, ExpressionError, compact_json
from corral.plan.frames import Frame, StepSpec
from corral.plan.keep import UnfitError, keep
from corral.plan.observed import Pass
from corral.plan.state import Best, Kept, Node, Step

INVALID_EXPRESSION = "InvalidExpression"
LOOP_EXHAUSTED = "LoopExhausted"


def succeed(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int, value: Any) -> None:
    """An iteration of an item came to an output: the item ends, or its loop goes round.

    Args:
        value: JSON, or a ``Kept``.

    Raises:
        NotYetKnownError: the loop's condition needs an output that has not been loaded.
    """
    node = step.nodes[index]
    try:
        output = value if isinstance(value, Kept) else keep(p, value, frame.width * len(step.nodes))
    except UnfitError as error:
        node.end(StepPhase.FAILED, p.now, ErrorClass.INVALID_OUTPUT, f"the output {error}")
        return
    if spec.loop is None:
        _finish(p, node, output)
        return
    try:
        holds, score = _judge(frame, spec, spec.loop, step, index, output)
    except ExpressionError as error:
        node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, f"loop: {error}")
        return
    if score is not None and (node.best is None or score > node.best.score):
        node.best = Best(
            value=output.value, stored=output.stored, score=score, iteration=node.iteration
        )
    if holds or (
        node.iteration >= spec.loop.max_iterations and spec.loop.on_exhausted == "AcceptLast"
    ):
        _finish(p, node, output)
    elif node.iteration < spec.loop.max_iterations:
        _next_iteration(node, output)
    elif spec.loop.on_exhausted == "AcceptBest" and node.best is not None:
        _finish(p, node, node.best)
    else:
        why = f"none of {spec.loop.max_iterations} iterations met until: {spec.loop.until}"
        node.end(StepPhase.FAILED, p.now, LOOP_EXHAUSTED, why)


def _judge(
    frame: Frame, spec: StepSpec, loop: Loop, step: Step, index: int, output: Kept
) -> tuple[bool, float | None]:
    """Whether the loop ends with this output, and its score where the best is wanted."""
    variables = frame.item_variables(spec, step, index)
    variables["output"] = lambda: frame.scope.values.load(output.value, output.stored)
    names = frame.input_names(spec) | {"output"}
    holds = frame.scope.evaluate(Expression(loop.until, names), **variables)
    if not isinstance(holds, bool):
        raise ExpressionError(
            f"until: {loop.until}: gives {compact_json(holds)[:100]}, not true or false"
        )
    if loop.on_exhausted != "AcceptBest" or loop.best is None:
        return holds, None
    score = frame.scope.evaluate(Expression(loop.best, names), **variables)
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ExpressionError(f"best: {loop.best}: gives {compact_json(score)[:100]}, no number")
    return holds, float(score)


def _finish(p: Pass, node: Node, output: Kept) -> None:
    fold(node)
    node.output, node.stored = output.value, output.stored
    node.end(StepPhase.SUCCEEDED, p.now)
    if node.memo is not None and not node.memoized:
        p.to_memoize[node.memo] = output


def _next_iteration(node: Node, output: Kept) -> None:
    fold(node)
    node.rest()
    node.previous = output
    node.iteration += 1
    node.attempts_before += node.attempt
    node.attempt = node.retries = node.losses = 0
    node.attempt_started = node.not_before = None
    node.approval = node.child = node.conversation = None
    node.child_seen = False
    node.calls = []
    node.call_counts = {}
    node.reason = node.message = None
    node.phase = StepPhase.QUEUED


def fold(node: Node) -> None:
    """Adds up what the nested steps used, and forgets them."""
    if node.steps is not None:
        node.used = node.spent()
        node.steps = None


def give_up(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> None:
    """Leaves what runs to be cancelled; its usage is booked when its worker or child tells it."""
    node = step.nodes[index]
    if node.worker is not None:
        identity = frame.running_attempt_id(spec, index, node)
        p.run.unsettled[identity] = node.worker
        p.run.hold(identity, node)
    elif node.child is not None and node.phase is StepPhase.RUNNING:
        view = p.children.get(node.child)  # None: it was never made
        if view is not None and view.finished:
            node.used.add(view.used)
        elif view is not None:
            p.run.unsettled_children.append(node.child)
            p.run.hold(node.child, node)
    node.rest()


def stopped_as(*nodes: Node) -> StepPhase:
    """What becomes of what is ended from outside."""
    begun = any(node.started is not None for node in nodes)
    return StepPhase.CANCELLED if begun else StepPhase.OMITTED
