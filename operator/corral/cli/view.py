"""A Workflow object as the terminal shows it, wherever it came from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from corral.api.errors import ConditionType
from corral.api.types import Usage
from corral.api.workflow import (
    FINAL_WORKFLOW_PHASES,
    Step,
    WorkflowPhase,
    WorkflowSpec,
    WorkflowStatus,
)
from corral.cli.errors import CliError, Exit
from corral.plan.conditions import find, is_true
from corral.plan.state import JournalError, Run, from_journal
from corral.plan.times import parse

_CODES = {
    WorkflowPhase.SUCCEEDED: Exit.OK,
    WorkflowPhase.FAILED: Exit.FAILED,
    WorkflowPhase.STOPPED: Exit.STOPPED,
}


@dataclass(frozen=True)
class RunView:
    """A run at one moment."""

    name: str
    namespace: str
    spec: WorkflowSpec
    status: WorkflowStatus

    @classmethod
    def of(cls, data: dict[str, Any]) -> "RunView":
        """From an object of the API server's: unknown fields are no problem.

        Raises:
            CliError: it can't be read at all.
        """
        metadata = data.get("metadata", {})
        try:
            return cls(
                metadata.get("name", ""),
                metadata.get("namespace", ""),
                WorkflowSpec.model_validate(data.get("spec") or {}),
                WorkflowStatus.model_validate(data.get("status") or {}),
            )
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise CliError(
                f"Workflow {metadata.get('name')!r} can't be read: {where}: "
                f"{error.errors()[0]['msg']}; is it from a newer corral?"
            ) from None

    @cached_property
    def run(self) -> Run:
        """The engine's record; an empty one where there is none, or none that can be read."""
        try:
            return self.journal()
        except JournalError:
            return Run(run_id=self.status.run_id or "")

    def journal(self) -> Run:
        """The engine's record; an empty one before there is any.

        Raises:
            JournalError: another version of corral wrote it.
        """
        if self.status.journal is None:
            return Run(run_id=self.status.run_id or "")
        return from_journal(self.status.journal)

    @cached_property
    def steps(self) -> list[Step]:
        """The steps, those of the template where the Workflow names one."""
        return self._specs("steps", self.spec.steps)

    @cached_property
    def on_exit(self) -> list[Step]:
        """The steps that run at the end."""
        return self._specs("onExit", self.spec.on_exit)

    def _specs(self, field: str, own: list[Step] | None) -> list[Step]:
        if own is not None or self.spec.workflow_template_ref is None:
            return own or []
        if self.run.template is not None:
            return [Step.model_validate(step) for step in self.run.template.get(field) or []]
        rows = (self.status.steps or []) if field == "steps" else []
        return [Step(name=row.name) for row in rows]

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status.phase in FINAL_WORKFLOW_PHASES and self.status.finished_at is not None

    @property
    def stalled(self) -> str | None:
        """Why the run can't go on as it is written; None if it can."""
        if self.finished or not is_true(self.status.conditions, ConditionType.STALLED):
            return None
        condition = find(self.status.conditions, ConditionType.STALLED)
        return condition.message if condition and condition.message else "it is Stalled"

    @property
    def exit_code(self) -> Exit | None:
        """What the run came to; None while it goes on."""
        if self.finished and self.status.phase is not None:
            return _CODES[self.status.phase]
        return Exit.REFUSED if self.stalled else None

    def seconds(self, now: float) -> float | None:
        """How long the run has taken; its own times are whole seconds, the rows' are finer."""
        started, finished = self.status.started_at, self.status.finished_at
        rows = self.status.steps or []
        first = min((row.started_at for row in rows if row.started_at), default=started)
        last = max((row.finished_at for row in rows if row.finished_at), default=finished)
        return elapsed(_finer(started, first), _finer(finished, last), now)


def _finer(whole: str | None, exact: str | None) -> str | None:
    near = whole and exact and 0 <= parse(exact) - parse(whole) < 1
    return exact if near else whole


def elapsed(started: str | None, finished: str | None, now: float) -> float | None:
    """Seconds between two times of a status, the second perhaps still to come."""
    if started is None:
        return None
    return max(0.0, (parse(finished) if finished else now) - parse(started))


def duration(seconds: float | None) -> str:
    """``0.8s``, ``12s``, ``3m05s``, ``2h10m``, ``3d04h``; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for big, small, big_unit, small_unit in ((86400, 3600, "d", "h"), (3600, 60, "h", "m")):
        if whole >= big:
            return f"{whole // big}{big_unit}{whole % big // small:02d}{small_unit}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def cost(usage: Usage | None) -> str:
    """What was spent, and what of it is unknown or not real; nothing where no model was called."""
    if usage is None or not usage.requests:
        return ""
    parts = ["unknown" if usage.cost_usd is None else f"${usage.cost_usd}"]
    if usage.unpriced_requests:
        noun = "request" if usage.unpriced_requests == 1 else "requests"
        parts.append(f"(unpriced: {usage.unpriced_requests} {noun})")
    if usage.simulated_requests >= usage.requests:
        parts.append("(simulated)")
    elif usage.simulated_requests:
        parts.append(f"(simulated: {usage.simulated_requests} of {usage.requests} requests)")
    return " ".join(parts)


def short_cost(usage: Usage | None) -> str:
    """The same in few words, for a headline or a column."""
    if usage is None or not usage.requests:
        return ""
    marks = [
        mark
        for mark, number in (
            ("simulated", usage.simulated_requests),
            ("part unpriced" if usage.cost_usd else "", usage.unpriced_requests),
        )
        if mark and number
    ]
    amount = "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd}"
    return f"{amount} ({', '.join(marks)})" if marks else amount
