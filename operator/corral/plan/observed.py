"""What a pass over a Workflow is given, and what it decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.api.errors import ErrorClass, Reason
from corral.api.workflow import Step as StepSpec
from corral.api.workflow import WorkflowSpec
from corral.plan.scope import Scope
from corral.plan.state import Consumption, Run, Worker, attempt_id


@dataclass(frozen=True)
class AgentView:
    """An Agent as a workflow sees it."""

    name: str
    revision: str
    timeout: float
    """Seconds that one attempt may take, unless the step says otherwise."""
    ready: bool = True
    reason: Reason = Reason.READY
    message: str = ""
    """Why it is not ready, in a sentence."""
    capacity_problem: str = ""
    """Why its workers can't start, in a sentence."""


@dataclass(frozen=True)
class Result:
    """How an attempt ended, as its worker (or the loss of it) told."""

    attempt_id: str
    worker_uid: str
    used: Consumption
    output: Any = None
    error: ErrorClass | None = None
    message: str = ""


@dataclass(frozen=True)
class Want:
    """An attempt that would start now if there were a slot for it."""

    attempt_id: str
    agent: str


@dataclass(frozen=True)
class Slot:
    """A place on a worker that was reserved for a wanted attempt."""

    worker: Worker
    agent_revision: str


Claim = Callable[[Sequence[Want]], Mapping[str, Slot]]
"""Reserves slots for some of the wanted attempts, by attempt id."""


@dataclass(frozen=True)
class Payload:
    """What a worker is sent to run an attempt."""

    attempt_id: str
    worker: Worker
    agent_revision: str
    timeout: float
    input: str | None
    input_data: dict[str, Any] | None
    output_schema: dict[str, Any] | None


@dataclass
class Pass:
    """One pass: what was observed, and the run's state, which the pass changes as its own."""

    name: str
    namespace: str
    spec: WorkflowSpec
    run: Run
    agents: Mapping[str, AgentView]
    now: float
    results: Sequence[Result] = ()
    patience_until: float = 0.0
    """Until when no attempt is given up as late: its result may still be on its worker."""
    scope: Scope = field(init=False)
    wake: list[float] = field(default_factory=list)
    """Moments at which something may be due."""

    def __post_init__(self) -> None:
        self.scope = Scope(self.run, self.spec.arguments or {}, self.name, self.namespace)

    @property
    def suspended(self) -> bool:
        """Whether nothing may start. A shutdown goes before a suspension: it has to end."""
        return bool(self.spec.suspend) and self.spec.shutdown is None

    def step_id(self, step: StepSpec, index: int, attempt: int) -> str:
        return attempt_id(self.run.run_id, step.name, index, attempt)
