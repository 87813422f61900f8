"""The gates of all Models: what starts has to pass its Model's, whichever run and Agent it is of.

They live in memory like the slots, and are rebuilt from statuses after a restart: what runs counts,
and of what had run before nobody knows, so for the first minute it is taken as much.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic

from corral.api.errors import ErrorClass, Reason
from corral.api.model import Limits, ModelSpec, ModelStatus
from corral.plan.breaker import Circuit
from corral.plan.gate import Gate, Obstacle
from corral.plan.keys import ModelKey, WorkflowKey
from corral.plan.limits import Load
from corral.plan.observed import ModelCalls, Result, Want
from corral.plan.times import parse
from corral.telemetry import metrics

CALLED = 0.02
"""Seconds after which a run looks that may start something: results may come in between."""

_BLOCKS: Mapping[Obstacle, ErrorClass] = {
    "circuitBreaker": ErrorClass.MODEL_UNAVAILABLE,
    "retryAfter": ErrorClass.RATE_LIMITED,
}
"""What a Model would answer that is not asked now: another may be meant for that."""


class Gates:
    """The table."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = monotonic
        """Seconds that never jump, as the API server's clock may; all moments here are by it."""
        self.specs: Callable[[str], Mapping[str, ModelSpec]] = lambda _: {}
        """The Models of a namespace, by name."""
        self.wake_workflow: Callable[[WorkflowKey, float], None] = lambda *_: None
        self.wake_model: Callable[[ModelKey, float], None] = lambda *_: None
        """Asks for a pass over a Model, which writes its status and calls who waits."""
        self._gates: dict[ModelKey, Gate] = {}
        self._specs: dict[ModelKey, ModelSpec] = {}
        self._flying: dict[str, tuple[WorkflowKey, ModelKey]] = {}
        self._of_workflow: dict[WorkflowKey, set[str]] = {}
        self._lines: dict[WorkflowKey, set[ModelKey]] = {}
        """Of which Models each run waits for one."""
        self._weights: dict[WorkflowKey, dict[str, tuple[str, Load]]] = {}
        """What attempts that were refused turned out to need, and of which Model."""
        self._held_back: dict[WorkflowKey, dict[str, tuple[Reason, str]]] = {}
        self._told: dict[ModelKey, tuple[str, float]] = {}
        """What the passes over Models were told to write last."""

    def open(self, key: ModelKey, status: ModelStatus, now: float) -> None:
        """Takes up what a former leader left of a Model: its circuit, and a window used up.

        Args:
            now: seconds since the epoch.
        """
        if status.circuit is None:
            return  # nobody has looked at it yet, so nobody has asked it
        gate = self._gates[key] = Gate(used_up_at=self.clock())
        circuit = gate.circuit
        circuit.opened = status.circuit != "Closed"
        circuit.retry_at = self.clock()
        if status.retry_at is not None:
            circuit.retry_at += parse(status.retry_at) - now
        self._told[key] = status.circuit, circuit.retry_at

    def close(self, key: ModelKey) -> None:
        """A Model is gone; what it runs still counts, in case it comes back."""
        self._specs.pop(key, None)
        self._told.pop(key, None)
        metrics.forget_model(*key)
        gate = self._gates.get(key)
        if gate is None:
            return
        gate.circuit = Circuit()
        if gate.idle:
            del self._gates[key]

    def may_follow(self, key: ModelKey) -> bool:
        """Whether attempts may move on to a Model by themselves: nothing has to be counted."""
        gate = self._gate(key)
        return gate.meter.limits == Limits() and gate.closed_to(self.clock()) is None

    def admit(
        self, key: WorkflowKey, namespace: str, wants: Sequence[Want], priority: int
    ) -> dict[str, str | None]:
        """Lets the first of the wanted attempts pass; by attempt: the Model that it begins with.

        What it does not let pass waits in line, until the run asks again.
        """
        now = self.clock()
        let_in: dict[str, str | None] = {}
        refused: dict[ModelKey, tuple[Load, int, Obstacle]] = {}
        self._held_back[key] = {}
        for want in wants:
            if not want.models:
                let_in[want.attempt_id] = None
                continue
            if (known := self._flying.get(want.attempt_id)) is not None:
                let_in[want.attempt_id] = known[1][1]
                continue
            name, load = self._choose(key, namespace, want, now)
            at = (namespace, name)
            if at in refused:
                need, count, obstacle = refused[at]
                refused[at] = need, count + 1, obstacle
            else:
                gate = self._gate(at)
                found = gate.admit(key, want.attempt_id, load, now, priority)
                if found is None:
                    self._took_off(key, want.attempt_id, at)
                    let_in[want.attempt_id] = name
                    continue
                refused[at] = load, 1, found
            self._held_back[key].setdefault(want.agent, self._why(at, refused[at][2]))
        for at in {self._flying[one][1] for one in let_in if one in self._flying}:
            self._count(at)
        self._leave(key, but=refused)
        for at, (need, count, obstacle) in refused.items():
            self._gates[at].wait(key, need, count, obstacle, now, priority)
            self._look(at)
        if refused:
            self._lines[key] = set(refused)
        return let_in

    def held_back(self, key: WorkflowKey) -> Mapping[str, tuple[Reason, str]]:
        """Why attempts of Agents wait for Models, as of the run's last claim."""
        return self._held_back.get(key, {})

    def weigh(
        self, key: WorkflowKey, namespace: str, attempt: str, model: str, load: Load, priority: int
    ) -> bool:
        """Whether an attempt that was let in may start, now that its need and Model are known."""
        at, now = (namespace, model), self.clock()
        before = self._flying.get(attempt)
        if before is not None and before[1] == at:
            found = self._gate(at).resize(key, attempt, load, now)
        else:
            self.give_back([attempt], asking=key)
            found = self._gate(at).admit(key, attempt, load, now, priority)
        if found is None:
            self._took_off(key, attempt, at)
            return True
        self._land(attempt)
        self._weights.setdefault(key, {})[attempt] = model, load
        return False

    def give_back(self, attempts: Iterable[str], asking: WorkflowKey | None = None) -> None:
        """Attempts that were let in, and do not start.

        Args:
            asking: a run that need not be told, as it is just asking.
        """
        left: set[ModelKey] = set()
        for attempt in attempts:
            at = self._land(attempt)
            if at is not None:
                self._gates[at].meter.drop(attempt)
                self._gates[at].circuit.end(attempt, self.clock(), answered=False, failures=0)
                left.add(at)
        for at in left:
            self._look(at, asking)

    def keep_only(self, key: WorkflowKey, running: Collection[str]) -> None:
        """What the run does not run was never sent."""
        self.give_back([one for one in self._of_workflow.get(key, ()) if one not in running])

    def leave(self, key: WorkflowKey) -> None:
        """A run waits for no Model."""
        self._held_back.pop(key, None)
        self._leave(key)

    def forget(self, key: WorkflowKey) -> None:
        """A run has ended: it waits for nothing."""
        self._weights.pop(key, None)
        self.leave(key)

    def resume(self, key: WorkflowKey, attempt: str, at: ModelKey, load: Load) -> None:
        """An attempt that runs since a former leader's time."""
        gate = self._gate(at)
        gate.meter.reserve(attempt, key, load)
        gate.circuit.begin(attempt)
        self._took_off(key, attempt, at)

    def ended(self, namespace: str, result: Result) -> None:
        """An attempt is over: what it used counts, and how its Models answered."""
        now, attempt = self.clock(), result.attempt_id
        if attempt not in self._flying:
            return
        run, at = self._flying[attempt]
        self._land(attempt)
        calls = _by_model(result.calls or ())
        own = calls.pop(at[1], None)
        gate = self._gates[at]
        if result.calls is None:
            gate.meter.end(attempt, now, None)
        else:
            gate.meter.end(attempt, now, _load(own))
        self._heard(at, attempt, own, now)
        for name, of_model in calls.items():
            self._gate((namespace, name)).meter.add(run, now, _load(of_model))
            self._heard((namespace, name), attempt, of_model, now)

    def _heard(self, at: ModelKey, attempt: str, calls: ModelCalls | None, now: float) -> None:
        circuit = self._gates[at].circuit
        circuit.end(
            attempt,
            now,
            answered=calls is not None and calls.answered,
            failures=calls.failures if calls else 0,
        )
        if calls is not None and calls.retry_after is not None:
            circuit.hold(now + calls.retry_after)
        self._look(at)

    def call(self, key: ModelKey) -> Gate:
        """Wakes the runs that may start something now, and asks for a pass at the next moment.

        Those that wait for a Model that is left alone may begin with this one instead, once it is
        not left alone any more.
        """
        gate, now = self._gate(key), self.clock()
        self._look(key)
        if gate.closed_to(now) is None:
            for run, models in self._lines.items():
                if any(at[0] == key[0] and self._gates[at].closed_to(now) for at in models):
                    self.wake_workflow(run, 0.0)
        return gate

    def _leave(self, key: WorkflowKey, but: Collection[ModelKey] = ()) -> None:
        for at in self._lines.pop(key, set()).difference(but):
            if at in self._gates:
                self._gates[at].leave(key)
                self._look(at)

    def _gate(self, key: ModelKey) -> Gate:
        """A Model's gate, which minds what the Model says now."""
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = Gate()
        spec = self.specs(key[0]).get(key[1])
        if spec is not None and spec is not self._specs.get(key):
            self._specs[key] = spec
            gate.adopt(spec)
        return gate

    def _choose(self, key: WorkflowKey, namespace: str, want: Want, now: float) -> tuple[str, Load]:
        """The Model to begin with: the first that may be asked now, among those meant for that."""
        weighed = self._weights.get(key, {}).get(want.attempt_id)
        if weighed and self._gate((namespace, weighed[0])).closed_to(now) is None:
            return weighed
        first = want.models[0]
        for model in want.models:
            gate = self._gate((namespace, model.name))
            closed = gate.closed_to(now)
            if model is first:
                blocked = _BLOCKS.get(closed) if closed else None
            elif blocked not in model.on_errors:
                continue
            if closed is None:
                first = model
                break
        return first.name, first.load(structured=want.structured)

    def _why(self, at: ModelKey, obstacle: Obstacle) -> tuple[Reason, str]:
        model = f"Model {at[1]!r}"
        limits = self._gates[at].meter.limits
        if obstacle == "circuitBreaker":
            why = "failed several times in a row, and is left alone until its probe is answered"
            return Reason.CIRCUIT_OPEN, f"{model} {why} (spec.circuitBreaker)"
        if obstacle == "retryAfter":
            why = "limits the rate of requests, and is left alone for as long as it asked"
            return Reason.MODEL_LIMITED, f"{model} {why} (Retry-After)"
        limit, what = {
            "maxInFlight": (limits.max_in_flight, "attempts at once"),
            "requestsPerMinute": (limits.requests_per_minute, "requests a minute"),
            "tokensPerMinute": (limits.tokens_per_minute, "tokens a minute"),
        }[obstacle]
        why = f"is at its limit of {limit} {what}"
        return Reason.MODEL_LIMITED, f"{model} {why} (spec.limits.{obstacle})"

    def _took_off(self, key: WorkflowKey, attempt: str, at: ModelKey) -> None:
        self._land(attempt)
        self._weights.get(key, {}).pop(attempt, None)
        self._flying[attempt] = key, at
        self._of_workflow.setdefault(key, set()).add(attempt)

    def _land(self, attempt: str) -> ModelKey | None:
        if attempt not in self._flying:
            return None
        run, at = self._flying.pop(attempt)
        self._of_workflow[run].discard(attempt)
        if not self._of_workflow[run]:
            del self._of_workflow[run]
        return at

    def _look(self, at: ModelKey, asking: WorkflowKey | None = None) -> None:
        """Calls who may start something now; the pass over the Model does so when time has come."""
        gate, now = self._gates[at], self.clock()
        for run in gate.call(now):
            if run != asking:
                self.wake_workflow(run, CALLED)
        told = gate.circuit.state, gate.circuit.retry_at
        if self._told.get(at, ("Closed", 0.0)) != told:
            self._told[at] = told
            self.wake_model(at, 0.0)
        for due in (gate.next_call(now), gate.circuit.retry_at):
            if due is not None and due > now:
                self.wake_model(at, due - now)
        self._count(at)

    def _count(self, at: ModelKey) -> None:
        if at not in self._specs:
            return  # it is gone
        gate = self._gates[at]
        metrics.observe_model(*at, gate.circuit.state, gate.meter.in_flight, gate.held_back())


def _load(calls: ModelCalls | None) -> Load:
    return Load(0, calls.requests, calls.tokens) if calls else Load()


def _by_model(calls: Iterable[ModelCalls]) -> dict[str, ModelCalls]:
    """One entry a Model, though real and simulated answers of it are told apart."""
    found: dict[str, ModelCalls] = {}
    for one in calls:
        before = found.get(one.model)
        found[one.model] = before.then(one) if before else one
    return found
