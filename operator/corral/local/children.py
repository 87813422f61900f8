"""The child Workflows of a local run: further runs in the same process."""

from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_DOWN
from typing import TYPE_CHECKING

from corral.api.errors import ErrorClass, Reason
from corral.api.template import TemplateSpec
from corral.api.workflow import WorkflowBudget, WorkflowPhase, WorkflowSpec
from corral.local.office import Office
from corral.local.tasks import Tasks, Wake
from corral.plan.budget import SMALLEST_MONEY
from corral.plan.observed import ChildView, WantedChild
from corral.plan.template import argument_problems, resolve

if TYPE_CHECKING:
    from corral.local.runner import LocalRun

Make = Callable[[str, WorkflowSpec, str], "LocalRun"]
"""Makes the run of (name, spec, template's name)."""


class Children:
    """Starts them, hands down what is wanted of them, and says how they are."""

    def __init__(self, office: Office, tasks: Tasks, make: Make, wake: Wake) -> None:
        self._office = office
        self._tasks = tasks
        self._make = make
        self._wake = wake
        self._running: dict[str, LocalRun] = {}
        self._ended: dict[str, ChildView] = {}

    @property
    def running(self) -> Mapping[str, "LocalRun"]:
        """Those that have not ended, by name."""
        return self._running

    def views(self, names: Iterable[str]) -> dict[str, ChildView]:
        """Those of the names that were started."""
        found = {}
        for name in names:
            if name in self._ended:
                found[name] = self._ended[name]
            elif name in self._running:
                found[name] = ChildView(self._running[name].state.phase)
        return found

    def begin(self, wanted: Iterable[WantedChild]) -> None:
        """Starts those that were not started."""
        for one in wanted:
            if one.name not in self._running and one.name not in self._ended:
                self._begin(one)

    def _begin(self, wanted: WantedChild) -> None:
        template = self._office.templates[wanted.template]
        spec = _spec_of(wanted, template)
        if problems := argument_problems(template, spec.arguments or {}):
            self._ended[wanted.name] = ChildView(
                WorkflowPhase.PENDING,
                finished=True,
                reason=problems[0].reason,
                message="; ".join(str(problem) for problem in problems),
            )
            self._wake()
            return
        child = self._running[wanted.name] = self._make(wanted.name, spec, wanted.template)
        self._tasks.spawn(self._follow(wanted.name, child))

    async def _follow(self, name: str, child: "LocalRun") -> None:
        await child.run()
        del self._running[name]
        self._ended[name] = _view_of(child)

    def hand_down(self, wanted: Iterable[str], *, suspended: bool) -> None:
        """Stops those that are not wanted any more, and suspends the others or lets them go on."""
        names = set(wanted)
        for name, child in self._running.items():
            if name in names:
                child.suspend(suspended)
            elif child.spec.shutdown is None:
                child.stop()

    def stop(self, shutdown: str) -> None:
        """Stops all of them."""
        for child in self._running.values():
            child.stop(shutdown)


def _view_of(child: "LocalRun") -> ChildView:
    run = child.state
    stored = run.output_stored
    if stored is not None and stored.run_id is None:
        stored = stored.model_copy(update={"run_id": run.run_id})
    spent = child.over_budget or run.halted is Reason.BUDGET_EXCEEDED
    failed = [row.reason for row in child.status.steps or [] if row.phase == "Failed"]
    return ChildView(
        # Nobody can raise its budget, so it rests for ever.
        phase=WorkflowPhase.FAILED if child.over_budget else run.phase,
        finished=True,
        used=run.used(),
        output=run.output,
        stored=stored,
        reason=ErrorClass.BUDGET if spent else next((why for why in failed if why), ""),
        message=child.status.message or "",
    )


def _spec_of(wanted: WantedChild, template: TemplateSpec) -> WorkflowSpec:
    budget: WorkflowBudget | None = template.budget
    if wanted.max_cost is not None or wanted.max_tokens is not None:
        ends = "Conclude" if wanted.concludes else "Fail"
        own = budget or WorkflowBudget(on_exceeded=ends)
        cost = None
        if wanted.max_cost is not None:
            cost = f"{wanted.max_cost.quantize(SMALLEST_MONEY, ROUND_DOWN):f}"
        budget = own.model_copy(update={"max_cost_usd": cost, "max_tokens": wanted.max_tokens})
    return resolve(WorkflowSpec(arguments=wanted.arguments, budget=budget), template)
