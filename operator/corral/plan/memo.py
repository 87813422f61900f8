"""Earlier results: under which key they are kept, and when one is taken instead of asking again.

Who wants a result that another is working out waits for it (single flight), in whatever run that
is. An earlier result costs nothing, and the step says that it is one.
"""

from corral.api.types import seconds
from corral.api.workflow import Memoize, StepPhase
from corral.plan.expressions import ExpressionError, Template, as_text, compact_json
from corral.plan.facts import Memo, MemoNeed, NotYetKnownError
from corral.plan.frames import Frame, StepSpec
from corral.plan.keep import UnfitError, keep
from corral.plan.names import digest
from corral.plan.nodes import INVALID_EXPRESSION
from corral.plan.observed import Pass
from corral.plan.selection import agent_of
from corral.plan.state import Node, Step
from corral.plan.times import rfc3339

_FINAL_KEY = 40


def memo_key(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> str:
    """The key of an item's result: 40 hexadecimal digits.

    It holds the namespace, the template's name (the Workflow's without one), the step, the
    Agent's revision (in which its Models are), and the key that the author gave.

    Raises:
        ExpressionError: the author's key can't be rendered.
        NotYetKnownError: it needs a value that has not been loaded.
    """
    assert spec.memoize is not None
    variables = frame.item_variables(spec, step, index)
    template = Template(spec.memoize.key, frame.input_names(spec))
    given = as_text(frame.scope.render(template, **variables))
    agent = agent_of(spec, step.nodes[index]) or ""
    view = p.agents.get(agent)
    tool = compact_json(spec.tool.to_json()) if spec.tool else ""
    outer = frame.path.split("~", 1)[0]
    return digest(
        p.namespace,
        p.memo_scope or p.name,
        f"{outer}/{spec.name}",
        agent,
        view.revision if view else "",
        tool,
        given,
        length=_FINAL_KEY,
    )


def recall(p: Pass, frame: Frame, spec: StepSpec, step: Step, index: int) -> bool:
    """Takes an earlier result if there is one; says whether the item ended.

    An item whose ``memo`` is unset afterwards has to wait: for what is not known yet, or for
    another that works the same out.
    """
    node = step.nodes[index]
    memoize = spec.memoize
    if memoize is None or node.attempts or node.iteration > 1:
        return False
    if p.agents.get(agent_of(spec, node) or "") is None:
        return False  # its revision is not known
    try:
        key = memo_key(p, frame, spec, step, index)
        if not p.flight(key, frame.place(spec, index)):
            return False
        found: Memo | None = p.facts.get(MemoNeed(key))
    except NotYetKnownError:
        return False
    except ExpressionError as error:
        node.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, f"memoize.key: {error}")
        return True
    node.memo = key
    if found is None or _too_old(memoize, found, p.now):
        return False
    return _take(p, node, found, frame.width * len(step.nodes))


def _too_old(memoize: Memoize, found: Memo, now: float) -> bool:
    return memoize.max_age is not None and found.at + seconds(memoize.max_age) <= now


def _take(p: Pass, node: Node, found: Memo, siblings: int) -> bool:
    try:
        kept = keep(p, found.output, siblings)
    except UnfitError:
        return False
    node.started = node.started or p.now
    node.output, node.stored = kept.value, kept.stored
    node.memoized = True
    node.end(StepPhase.SUCCEEDED, p.now, "Memoized", f"the result of {rfc3339(found.at)} is taken")
    return True
