"""The life of an attempt: wanted, started, ended, given up."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import dropwhile, islice
from typing import Any

from corral.api.attempt import ToolDecision, ToolInvocation
from corral.api.errors import INFRASTRUCTURE, OF_MODELS, ErrorClass
from corral.api.types import seconds
from corral.api.workflow import StepPhase
from corral.plan import budget
from corral.plan.budget import Reservation
from corral.plan.expressions import (
    ExpressionError,
    Template,
    as_text,
    compact_json,
    render_data,
)
from corral.plan.facts import NotYetKnownError
from corral.plan.frames import Frame, StepSpec
from corral.plan.keep import UnfitError, keep
from corral.plan.kinds import note_failure, retry
from corral.plan.names import digest, made_name
from corral.plan.nodes import INVALID_EXPRESSION, give_up, succeed
from corral.plan.observed import (
    AgentView,
    Claim,
    Grant,
    ModelCalls,
    ModelView,
    Pass,
    Payload,
    Rates,
    Result,
    Slot,
    Want,
)
from corral.plan.retry import wait_before_retry
from corral.plan.selection import agent_of, needs_worker
from corral.plan.state import Call, Node, Step
from corral.plan.steps import room_for

BACKSTOP = 15.0
"""Seconds after a worker's own timeout at which the operator gives an attempt up."""
MAX_INPUT = 4 * 1024 * 1024
"""Bytes of one rendered input."""
INLINE_CONVERSATION = 256

Place = tuple[Frame, StepSpec, Step, int]
"""An item of a step, and where it is."""


def running_nodes(p: Pass) -> Iterator[tuple[Place, Node]]:
    """The items with an attempt on a worker."""
    for frame in p.frames.all():
        for name, step in frame.steps.items():
            if not step.final:
                for index, node in enumerate(step.nodes):
                    if node.worker is not None:
                        yield (frame, frame.specs[name], step, index), node


def running_attempts(p: Pass) -> dict[str, Place]:
    """The attempts that should be running, by attempt id."""
    return {
        frame.running_attempt_id(spec, index, node): (frame, spec, step, index)
        for (frame, spec, step, index), node in running_nodes(p)
    }


def absorb(p: Pass) -> None:
    """Records results: of the attempt that runs, or the usage of one that was given up.

    A result counts only while the state shows that attempt running on that worker; anything else
    was recorded before, or never belonged to this run. One that can't be judged before a fact is
    known is left for the next call.
    """
    results = [*p.unjudged, *p.results]
    p.unjudged, p.results = [], ()
    if not results:
        return
    running = running_attempts(p)
    for result in results:
        if (given_up := p.run.unsettled.get(result.attempt_id)) is not None:
            if given_up.uid == result.worker_uid:
                p.run.settle(result.attempt_id, result.used)
            continue
        place = running.get(result.attempt_id)
        if place is None:
            continue
        frame, spec, step, index = place
        node = step.nodes[index]
        if node.worker is None or node.worker.uid != result.worker_uid:
            continue
        before = node.model_copy(update={"used": node.used.model_copy()})
        node.used.add(result.used)
        p.frames.values.forget_cost()
        if result.unreachable:
            give_up(p, frame, spec, step, index)
            node.overlap = result.message
        node.rest()
        try:
            if result.final:
                note_failure(node, result.error or ErrorClass.INTERNAL, result.message, p.now)
                retry(p, node, None)
            elif result.error is not None:
                calls = result.calls or ()
                _failed(p, spec, node, result.attempt_id, result.error, result.message, calls)
            elif result.input_required is not None:
                _ask(p, frame, spec, index, node, result)
            else:
                _succeeded(p, place, result)
        except NotYetKnownError:
            step.nodes[index] = before
            p.unjudged.append(result)
            continue
        del running[result.attempt_id]
    p.frames.values.forget_cost()


def _succeeded(p: Pass, place: Place, result: Result) -> None:
    frame, spec, step, index = place
    node = step.nodes[index]
    try:
        output = keep(p, result.output, frame.width * len(step.nodes))
    except UnfitError as error:
        why = f"the output {error}"
        _failed(p, spec, node, result.attempt_id, ErrorClass.INVALID_OUTPUT, why)
        return
    node.conversation, node.calls = None, []
    succeed(p, frame, spec, step, index, output)


def _failed(
    p: Pass,
    spec: StepSpec,
    node: Node,
    attempt: str,
    error: ErrorClass,
    message: str,
    calls: Sequence[ModelCalls] = (),
) -> None:
    note_failure(node, error, message.encode(errors="replace").decode(), p.now)
    node.next_model = _next_model(p, spec, node, error, calls)
    if error not in INFRASTRUCTURE:  # a lost attempt goes on where it was, others begin anew
        node.conversation, node.calls, node.call_counts = None, [], {}
    if node.next_model is not None:  # it goes on elsewhere, which is no retry
        retry(p, node, 0.0)
    else:
        retry(p, node, wait_before_retry(node, error, spec.retry_strategy, attempt))


def _next_model(
    p: Pass, spec: StepSpec, node: Node, error: ErrorClass, calls: Sequence[ModelCalls]
) -> str | None:
    """The fallback to go on with, where the worker was not to ask it by itself."""
    view = p.agents.get(agent_of(spec, node) or "")
    if view is None or not calls or error not in OF_MODELS:
        return None
    asked = calls[-1].model
    rest = dropwhile(lambda model: model.name != asked, view.models)
    after = next((model for model in islice(rest, 1, None) if error in model.on_errors), None)
    return None if after is None or after.may_follow else after.name


def _ask(p: Pass, frame: Frame, spec: StepSpec, index: int, node: Node, result: Result) -> None:
    """Tool calls have to be approved: the item waits, and the next attempt goes on from there."""
    asked = result.input_required
    assert asked is not None
    if not asked.calls:
        why = "the worker waits for approvals, and names no tool call"
        _failed(p, spec, node, result.attempt_id, ErrorClass.INTERNAL, why)
        return
    try:
        node.conversation = keep(p, asked.conversation, inline=INLINE_CONVERSATION)
    except UnfitError as error:
        why = f"the conversation {error}"
        _failed(p, spec, node, result.attempt_id, ErrorClass.INVALID_OUTPUT, why)
        return
    node.calls = []
    for call in asked.calls:
        # Bound to the tool, the arguments and how many such calls came before, not to the
        # attempt: a lost one is made again, and asks for what was approved already.
        bound = digest(call.tool, call.arguments, length=16)
        count = node.call_counts[bound] = node.call_counts.get(bound, 0) + 1
        path = f"{frame.path}{spec.name}.{index}.{node.iteration}"
        approval = made_name(p.name, p.run.run_id, path, bound, count)
        node.calls.append(
            Call(call_id=call.call_id, tool=call.tool, arguments=call.arguments, approval=approval)
        )
    node.phase = StepPhase.WAITING
    node.reason = "ApprovalPending"
    node.message = f"waits for the approval of {', '.join(call.tool for call in node.calls)}"


def expire(p: Pass) -> None:
    """Gives up attempts whose worker should have ended them long ago."""
    for (frame, spec, step, index), node in list(running_nodes(p)):
        backstop = max((node.deadline or p.now) + BACKSTOP, p.patience_until)
        if backstop > p.now:
            p.wake.append(backstop)
            continue
        attempt = frame.running_attempt_id(spec, index, node)
        give_up(p, frame, spec, step, index)
        _failed(p, spec, node, attempt, ErrorClass.TIMEOUT, "the worker gave no answer")


def claim_slots(p: Pass, claim: Claim) -> dict[str, Slot]:
    """Slots for attempts that may start now.

    What an agent without free slots leaves of the parallelism is offered to the others: a queue
    in front of one agent must not hold up the rest of the run.
    """
    ready = [] if p.suspended else [want for want, _ in startable(p)]
    room = _room(p)
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


def _room(p: Pass) -> int | None:
    """How many more attempts the run's parallelism lets start; None: any number."""
    if p.spec.parallelism is None:
        return None
    return max(0, p.spec.parallelism - sum(1 for _ in running_nodes(p)))


def startable(p: Pass) -> Iterator[tuple[Want, Place]]:
    """Attempts that wait for nothing but a slot, within what their own step lets run at once."""
    for frame in p.frames.all():
        if frame.is_exit and p.run.outcome is None:
            continue
        for name, step in frame.steps.items():
            spec = frame.specs[name]
            if step.final or not needs_worker(spec):
                continue
            room = room_for(spec, step)
            for index, node in enumerate(step.nodes):
                if room <= 0:
                    break
                if node.phase is not StepPhase.QUEUED or (spec.memoize and _unasked(node)):
                    continue
                agent = agent_of(spec, node)
                view = p.agents.get(agent) if agent else None
                if view is None or not view.ready or view.name in p.unpaid:
                    continue
                room -= 1
                want = Want(
                    frame.next_attempt_id(spec, index, node),
                    view.name,
                    () if spec.tool is not None else _models_from(view, node.next_model),
                    structured=spec.output_schema is not None,
                    revision=view.revision,
                    began=p.run.started or 0.0,
                )
                yield want, (frame, spec, step, index)


def _models_from(view: AgentView, first: str | None) -> tuple[ModelView, ...]:
    """The Models that an attempt may begin with: those from the first one on."""
    names = [model.name for model in view.models]
    return view.models[names.index(first) :] if first in names else view.models


def _unasked(node: Node) -> bool:
    """Whether it is not known yet if there is an earlier result."""
    return node.memo is None and node.attempts == 0 and node.iteration == 1


def start(p: Pass, slots: Mapping[str, Slot]) -> tuple[dict[str, Payload], bool]:
    """Starts the attempts that got a slot; the step fails where its input can't be rendered.

    An attempt for which the budgets have nothing left stays queued, and its slot is free again.

    Returns:
        What each that started is sent, and whether any item is not queued any more.
    """
    payloads: dict[str, Payload] = {}
    if not slots:
        return payloads, False
    changed = False
    purse = _Purse(p)
    for want, (frame, spec, step, index) in list(startable(p)):
        slot = slots.get(want.attempt_id)
        if slot is None:
            continue
        node = step.nodes[index]
        draft = node.model_copy(
            update={
                "attempt": node.attempt + 1,
                "attempt_started": p.now,
                "started": node.started if node.started is not None else p.now,
                "worker": slot.worker,
                "agent_revision": slot.agent_revision,
                "next_model": None,
                "model": None if slot.model == _own_model(p, want.agent) else slot.model,
                "deadline": p.now + attempt_timeout(p, spec, node),
                "phase": StepPhase.RUNNING,
                "reason": None,
                "message": None,
            }
        )
        if slot.agent_revision != p.agents[want.agent].revision:
            draft.memo = None  # its key names the newest revision, which this worker is not of
        step.nodes[index] = draft
        try:
            content = _content(frame, spec, step, index)
            if purse.pays(frame, spec, want, draft, content.size):
                payloads[want.attempt_id] = _payload(p, frame, spec, draft, index, content)
                p.wake.append((draft.deadline or p.now) + BACKSTOP)
            elif draft.phase is StepPhase.RUNNING:
                step.nodes[index] = node
                if want.attempt_id not in p.overweight:
                    p.unpaid.add(want.agent)
        except NotYetKnownError:
            step.nodes[index] = node
        except ExpressionError as error:
            draft.end(StepPhase.FAILED, p.now, INVALID_EXPRESSION, str(error))
        changed = changed or step.nodes[index] is draft
    return payloads, changed


class _Purse:
    """What the budgets have left in this pass; summed up once, not once an attempt."""

    def __init__(self, p: Pass) -> None:
        self._p = p
        self._budget = p.spec.budget
        self._left: tuple[Decimal | None, int | None] = (
            budget.remaining(self._budget, p.run) if self._budget else (None, None)
        )

    def pays(self, frame: Frame, spec: StepSpec, want: Want, node: Node, input_bytes: int) -> bool:
        """Reserves what the attempt may use; ends the node where it may never be paid for."""
        p = self._p
        view = p.agents[want.agent]
        structured = spec.output_schema is not None
        rates = next((m.rates for m in view.models if m.name == node.model), view.rates)
        wanted = budget.worst_case(rates, input_bytes, structured=structured)
        if not self._priced(frame, node, rates, view.name):
            return False
        if not self._fits(frame, wanted):
            return False
        if not self._weighs(want, node.model, rates, input_bytes):
            return False
        of_agent = True
        grant = p.reserve_agent(want.agent, want.attempt_id, wanted.cost, wanted.tokens)
        if grant is not Grant.GRANTED:
            if grant is Grant.LATER or view.budget_action == "Suspend":
                if grant is Grant.EXCEEDED:
                    p.held_agents.add(view.name)
                    if view.resets_at is not None:
                        p.wake.append(view.resets_at)
                return False
            if view.budget_action == "Fail" or view.fallback is None:
                why = f"the budget of Agent {view.name!r} is spent for this period"
                node.end(StepPhase.FAILED, p.now, ErrorClass.BUDGET, why)
                return False
            node.model, rates = view.fallback
            of_agent = False  # its budget is over
            wanted = budget.worst_case(rates, input_bytes, structured=structured)
            if not self._fits(frame, wanted):
                return False
            if not self._weighs(want, node.model, rates, input_bytes):
                return False
        limited = self._limited(view, wanted, of_agent=of_agent)
        budget.reserve(node, limited)
        self._take(limited)
        return True

    def _weighs(self, want: Want, model: str | None, rates: Rates, input_bytes: int) -> bool:
        """Whether its Model has that much left, now that the input is known."""
        name = model or (want.models[0].name if want.models else None)
        if name is None:
            return True
        load = budget.load_of(rates, input_bytes, structured=want.structured)
        if self._p.weigh(want.attempt_id, name, load):
            return True
        self._p.overweight.add(want.attempt_id)
        return False

    def _limited(self, view: AgentView, wanted: Reservation, *, of_agent: bool) -> Reservation:
        """What is held for an attempt: nothing of what nobody limits."""
        own = self._budget
        cost = view.rates.max_cost is not None or (view.limits_cost and of_agent)
        cost = cost or (own is not None and own.max_cost_usd is not None)
        tokens = view.limits_tokens and of_agent
        tokens = tokens or (own is not None and own.max_tokens is not None)
        return Reservation(wanted.cost if cost else None, wanted.tokens if tokens else 0)

    def _fits(self, frame: Frame, wanted: Reservation) -> bool:
        """Whether the run can pay; ``onExit`` is not held back, so that its end is told of."""
        if frame.is_exit or budget.fits(self._left, wanted):
            return True
        self._p.starved = True
        return False

    def _take(self, wanted: Reservation) -> None:
        cost, tokens = self._left
        self._left = (
            None if cost is None else cost - (wanted.cost or 0),
            None if tokens is None else tokens - wanted.tokens,
        )

    def _priced(self, frame: Frame, node: Node, rates: Rates, agent: str) -> bool:
        if self._budget is None or self._budget.on_unpriced == "Allow" or not rates.turns:
            return True
        if rates.input_usd is not None and rates.output_usd is not None:
            return True
        why = f"the Model of Agent {agent!r} has no known price, and budget.onUnpriced is Fail"
        node.end(StepPhase.FAILED, self._p.now, ErrorClass.BUDGET, why)
        return False


def _own_model(p: Pass, agent: str) -> str | None:
    models = p.agents[agent].models
    return models[0].name if models else None


def _followers(p: Pass, spec: StepSpec, node: Node) -> tuple[str, ...]:
    """The Models that a running attempt may move on to by itself."""
    view = p.agents.get(agent_of(spec, node) or "")
    rest = _models_from(view, node.model)[1:] if view else ()
    return tuple(model.name for model in rest if model.may_follow)


def attempt_timeout(p: Pass, spec: StepSpec, node: Node) -> float:
    """Seconds that one attempt may take: the step's word, else the Agent's."""
    if spec.timeout is not None:
        return seconds(spec.timeout)
    view = p.agents.get(agent_of(spec, node) or "")
    return view.timeout if view else 300.0


class _Content:
    """What an attempt is asked."""

    def __init__(
        self,
        text: str | None = None,
        data: dict[str, Any] | None = None,
        tool: ToolInvocation | None = None,
        conversation: str | None = None,
    ) -> None:
        self.text, self.data, self.tool, self.conversation = text, data, tool, conversation
        self.size = sum(len(one.encode()) for one in (text, conversation) if one)
        if data is not None:
            self.size += len(compact_json(data).encode())
        if self.size > MAX_INPUT:
            raise ExpressionError(f"the input has {self.size} bytes, more than {MAX_INPUT}")


def _content(frame: Frame, spec: StepSpec, step: Step, index: int) -> _Content:
    node = step.nodes[index]
    names = frame.input_names(spec)
    extra = frame.item_variables(spec, step, index)

    def render(template: Template) -> Any:
        return frame.scope.render(template, **extra)

    if spec.tool is not None:
        arguments = render_data(spec.tool.arguments or {}, names, render)
        tool = ToolInvocation(
            url=spec.tool.mcp.url, name=spec.tool.name, arguments=compact_json(arguments)
        )
        return _Content(tool=tool)
    data = text = conversation = None
    if spec.input_data is not None:
        data = render_data(spec.input_data, names, render)
    if spec.input is not None:
        text = as_text(render(Template(spec.input, names)))
    if node.conversation is not None:
        kept = node.conversation
        conversation = frame.scope.values.load(kept.value, kept.stored)
    return _Content(text, data, None, conversation)


def payload_at(p: Pass, place: Place) -> Payload:
    """What a running attempt's worker was sent, rendered again.

    Raises:
        ExpressionError: the input can't be rendered.
        NotYetKnownError: it needs a value that has not been loaded.
    """
    frame, spec, step, index = place
    return _payload(p, frame, spec, step.nodes[index], index, _content(frame, spec, step, index))


def _payload(
    p: Pass, frame: Frame, spec: StepSpec, node: Node, index: int, content: _Content
) -> Payload:
    assert node.worker is not None
    return Payload(
        attempt_id=frame.running_attempt_id(spec, index, node),
        worker=node.worker,
        agent_revision=node.agent_revision or "",
        timeout=max(0.001, (node.deadline or p.now) - (node.attempt_started or p.now)),
        input=content.text,
        input_data=content.data,
        output_schema=spec.output_schema,
        model_ref=node.model,
        fallbacks=_followers(p, spec, node),
        max_cost_usd=node.reserved or None,  # what is free can't be stopped for its cost
        max_tokens=node.reserved_tokens or None,
        tool=content.tool,
        conversation=content.conversation,
        decisions=tuple(
            ToolDecision(call_id=call.call_id, approved=bool(call.approved), comment=call.comment)
            for call in node.calls
        ),
    )
