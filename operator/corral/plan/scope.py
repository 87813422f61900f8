"""The variables that expressions see."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from corral.api.workflow import NestedStep, StepPhase
from corral.plan.expressions import (
    Expression,
    Template,
    names_all,
    references,
    whole_numbers,
)
from corral.plan.state import Node, Run, Step

BASE_NAMES = frozenset({"arguments", "steps", "workflow"})
ATTEMPT_NAMES = frozenset({"index", "attempt", "iteration", "previous"})
RESERVED_NAMES = BASE_NAMES | ATTEMPT_NAMES | {"output"}
STEP_FIELDS = frozenset({"output", "outputs", "items", "phase", "extract"})
WORKFLOW_FIELDS = frozenset(
    {"name", "namespace", "runID", "phase", "message", "costUSD", "failedSteps"}
)


def input_names(step: NestedStep) -> frozenset[str]:
    """What ``input``, ``inputData`` and ``transform`` of a step may use."""
    names = BASE_NAMES | ATTEMPT_NAMES
    return names | {step.for_each.as_} if step.for_each else names


def failure_message(steps: Mapping[str, Step]) -> str:
    """Which step failed and why; what was allowed to fail is told of where nothing else failed."""
    failed = [(name, step) for name, step in steps.items() if step.phase is StepPhase.FAILED]
    failed = [(name, step) for name, step in failed if not step.degraded] or failed
    if not failed:
        return ""
    name, step = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"step {name} failed: {step.reason}: {step.message}{more}"


def step_view(step: Step) -> dict[str, Any]:
    """``steps.NAME``: what was skipped or failed is absent, not null."""
    view: dict[str, Any] = {"phase": step.phase.value}
    if step.items is None:
        if step.phase is StepPhase.SUCCEEDED:
            view["output"] = step.nodes[0].output
            view["outputs"] = [step.nodes[0].output]
    elif step.final and step.phase is not StepPhase.OMITTED:
        view["outputs"] = [n.output for n in step.nodes if n.phase is StepPhase.SUCCEEDED]
        view["items"] = [
            _item_view(index, item, node)
            for index, (item, node) in enumerate(zip(step.items, step.nodes, strict=True))
        ]
    if step.extract is not None:
        view["extract"] = step.extract
    return view


def _item_view(index: int, item: Any, node: Node) -> dict[str, Any]:
    view = {"index": index, "item": item, "phase": node.phase.value}
    if node.phase is StepPhase.SUCCEEDED:
        view["output"] = node.output
    if (cost := node.used.cost_text) is not None:
        view["costUSD"] = cost
    return view


class Scope:
    """The variables of one run at one moment; only what an expression names is computed."""

    def __init__(self, run: Run, arguments: Mapping[str, Any], name: str, namespace: str) -> None:
        self._run = run
        self._raw_arguments = arguments
        self._name = name
        self._namespace = namespace
        self._views: dict[str, dict[str, Any]] = {}
        self._cost: str | None = None
        self._constants: dict[str, Any] = {}

    @cached_property
    def _arguments(self) -> Any:
        return whole_numbers(dict(self._raw_arguments))

    def forget(self, step: str) -> None:
        """To be called when the state of a step that has ended changed."""
        self._views.pop(step, None)
        self._constants.clear()

    def forget_cost(self) -> None:
        """To be called when usage was booked."""
        self._cost = None

    def _view(self, name: str) -> dict[str, Any] | None:
        if name not in self._views:
            step = self._run.steps.get(name) or self._run.exit_steps.get(name)
            if step is None:
                return None
            view = step_view(step)
            if not step.final:
                return view
            self._views[name] = view
        return self._views[name]

    def variables(self, expressions: tuple[Expression, ...], **extra: Any) -> dict[str, Any]:
        """Values for the variables that the expressions name."""
        wanted: set[str] = set()
        whole = False
        for expression in expressions:
            named = {ref.name for ref in references(expression.source) if ref.root == "steps"}
            wanted |= named
            whole = whole or names_all(expression.source, "steps")
        if whole:
            wanted = {*self._run.steps, *self._run.exit_steps}
        variables: dict[str, Any] = {
            "arguments": self._arguments,
            "steps": {name: view for name in sorted(wanted) if (view := self._view(name))},
            **extra,
        }
        if any("workflow" in expression.source for expression in expressions):
            variables["workflow"] = self._workflow()
        return variables

    def _workflow(self) -> dict[str, Any]:
        run = self._run
        if self._cost is None:  # adding it up for each of a thousand items would be quadratic
            used = run.used()
            self._cost = (used.cost_text or "unpriced") if used.requests else "0"
        return {
            "name": self._name,
            "namespace": self._namespace,
            "runID": run.run_id,
            "phase": (run.outcome or run.phase).value,
            "message": run.message or failure_message(run.steps),
            "costUSD": self._cost,
            "failedSteps": [n for n, s in run.steps.items() if s.phase is StepPhase.FAILED],
        }

    def render(self, template: Template, **extra: Any) -> Any:
        """The template's value.

        Raises:
            ExpressionError: an expression in it failed.
        """
        return template.render_with(lambda expression: self.evaluate(expression, **extra))

    def evaluate(self, expression: Expression, **extra: Any) -> Any:
        """The expression's value.

        Raises:
            ExpressionError: it failed.
        """
        if not self._constant(expression):
            return expression.evaluate(self.variables((expression,), **extra))
        if expression.source not in self._constants:
            value = expression.evaluate(self.variables((expression,)))
            self._constants[expression.source] = value
        return self._constants[expression.source]

    def _constant(self, expression: Expression) -> bool:
        """Whether its value is the same for all items: they need not each convert a long list."""
        if not expression.uses <= {"arguments", "steps"} or names_all(expression.source, "steps"):
            return False
        named = {ref.name for ref in references(expression.source) if ref.root == "steps"}
        steps = self._run.steps | self._run.exit_steps
        return all(name in steps and steps[name].final for name in named)
