"""The variables that expressions see.

A run has one scope, and every item of a step with nested steps one within it: names of nested
steps come first, then those around them. Outputs that lie in the artifact store are loaded where
an expression needs them, and only then.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from corral.api.workflow import NestedStep, StepPhase
from corral.plan.expressions import (
    Expression,
    ExpressionError,
    Template,
    names_all,
    references,
    whole_numbers,
)
from corral.plan.facts import ArtifactNeed, Facts, Lost, NotYetKnownError
from corral.plan.state import Kept, Node, Run, Step, Stored

BASE_NAMES = frozenset({"arguments", "steps", "workflow"})
ATTEMPT_NAMES = frozenset({"index", "attempt", "iteration", "previous"})
ITEM_NAMES = ATTEMPT_NAMES - {"attempt"}
"""What nested steps see of the item that they are of, besides its own name."""
RESERVED_NAMES = BASE_NAMES | ATTEMPT_NAMES | {"output"}
STEP_FIELDS = frozenset({"output", "outputs", "items", "phase", "extract"})
WORKFLOW_FIELDS = frozenset(
    {"name", "namespace", "runID", "phase", "message", "costUSD", "failedSteps"}
)
_ONE_OUTPUT = re.compile(r"steps\.(\w+)\.output")


def input_names(step: NestedStep) -> frozenset[str]:
    """What ``input``, ``inputData`` and ``transform`` of a step may use."""
    names = BASE_NAMES | ATTEMPT_NAMES
    return names | {step.for_each.as_} if step.for_each else names


def nested_names(step: NestedStep) -> frozenset[str]:
    """What all expressions of steps nested in ``step`` may use of its item."""
    return ITEM_NAMES | {step.for_each.as_} if step.for_each else ITEM_NAMES


def failure_message(steps: Mapping[str, Step]) -> str:
    """Which step failed and why; what was allowed to fail is told of where nothing else failed."""
    failed = [(name, step) for name, step in steps.items() if step.phase is StepPhase.FAILED]
    failed = [(name, step) for name, step in failed if not step.degraded] or failed
    if not failed:
        return ""
    name, step = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"step {name} failed: {step.reason}: {step.message}{more}"


class RunValues:
    """What all scopes of a run share: its arguments, what it is called, and what is stored."""

    def __init__(
        self, run: Run, facts: Facts, arguments: Mapping[str, Any], name: str, namespace: str
    ) -> None:
        self.run = run
        self._facts = facts
        self._raw_arguments = arguments
        self._name = name
        self._namespace = namespace
        self._cost: str | None = None

    @cached_property
    def arguments(self) -> Any:
        return whole_numbers(dict(self._raw_arguments))

    def forget_cost(self) -> None:
        """To be called when usage was booked."""
        self._cost = None

    def workflow(self) -> dict[str, Any]:
        """The variable ``workflow``."""
        run = self.run
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

    def load(self, value: Any, stored: Stored | None) -> Any:
        """A value that is kept inline or stored.

        Raises:
            ExpressionError: it was stored, and is lost.
            NotYetKnownError: it is stored, and has not been loaded.
        """
        if stored is None:
            return value
        run_id = stored.run_id or self.run.run_id
        found = self._facts.get(ArtifactNeed(run_id, stored.sha256, stored.size))
        if isinstance(found, Lost):
            raise ExpressionError(found.message)
        return found

    def load_all(self, kept: Sequence[tuple[Any, Stored | None]]) -> list[Any]:
        """Many values; all that are missing are noted at once.

        Raises:
            NotYetKnownError: some have not been loaded.
        """
        found, missing = [], None
        for value, stored in kept:
            try:
                found.append(self.load(value, stored))
            except NotYetKnownError as error:
                missing = error
        if missing is not None:
            raise missing
        return found

    def items(self, step: Step) -> list[Any]:
        """A fan-out's items.

        Raises:
            NotYetKnownError: they are stored, and have not been loaded.
        """
        items: list[Any] = self.load(step.items, step.items_stored)
        return items


class Scope:
    """The variables of one graph of steps at one moment; only what is named is computed.

    Args:
        steps: the graph's, and after them others that may be named too.
        around: the scope of the step that this graph is nested in.
        variables: that step's item, its index, iteration and previous output.
    """

    def __init__(
        self,
        values: RunValues,
        steps: Sequence[Mapping[str, Step]],
        around: "Scope | None" = None,
        variables: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.values = values
        self._steps = steps
        self._around = around
        self._variables = variables or {}
        self._fields: dict[tuple[str, str], Any] = {}
        self._constants: dict[str, Any] = {}

    def forget(self, step: str) -> None:
        """To be called when the state of a step that has ended changed."""
        for key in [key for key in self._fields if key[0] == step]:
            del self._fields[key]
        self._constants.clear()

    def _find(self, name: str) -> "tuple[Scope, Step] | None":
        for steps in self._steps:
            if name in steps:
                return self, steps[name]
        return self._around._find(name) if self._around else None

    def _all_names(self) -> set[str]:
        names = {name for steps in self._steps for name in steps}
        return names | self._around._all_names() if self._around else names

    def _view(self, name: str, fields: frozenset[str]) -> dict[str, Any] | None:
        """``steps.NAME``: what was skipped or failed is absent, not null."""
        found = self._find(name)
        if found is None:
            return None
        scope, step = found
        view = {}
        for field in sorted(fields):
            key = (name, field)
            if key in scope._fields:
                view[field] = scope._fields[key]
                continue
            value = scope._field(step, field)
            if value is not None:
                view[field] = value[0]
                if step.final:
                    scope._fields[key] = value[0]
        return view

    def _field(self, step: Step, field: str) -> tuple[Any] | None:
        """A field's value in a tuple; None where the field is absent."""
        if field == "phase":
            return (step.phase.value,)
        if field == "extract":
            return None if step.extract is None else (step.extract,)
        if not step.is_fan_out:
            if step.phase is not StepPhase.SUCCEEDED or field == "items" or not step.nodes:
                return None
            output = self.values.load(step.nodes[0].output, step.nodes[0].stored)
            return (output,) if field == "output" else ([output],)
        if not step.final or step.phase is StepPhase.OMITTED or field == "output":
            return None
        done = [node for node in step.nodes if node.phase is StepPhase.SUCCEEDED]
        outputs = self.values.load_all([(node.output, node.stored) for node in done])
        if field == "outputs":
            return (outputs,)
        of_node = {id(node): output for node, output in zip(done, outputs, strict=True)}
        items = zip(self.values.items(step), step.nodes, strict=True)
        return ([_item(index, item, node, of_node) for index, (item, node) in enumerate(items)],)

    def variables(self, expressions: tuple[Expression, ...], **extra: Any) -> dict[str, Any]:
        """Values for the variables that the expressions name.

        Raises:
            NotYetKnownError: one of them lies in the artifact store.
        """
        wanted: dict[str, frozenset[str]] = {}
        used: set[str] = set()
        for expression in expressions:
            used |= expression.uses
            for ref in references(expression.source):
                if ref.root == "steps":
                    fields = frozenset({ref.field}) if ref.field in STEP_FIELDS else STEP_FIELDS
                    wanted[ref.name] = wanted.get(ref.name, frozenset()) | fields
            if names_all(expression.source, "steps"):
                wanted |= dict.fromkeys(self._all_names(), STEP_FIELDS)
        views = {name: self._view(name, wanted[name]) for name in sorted(wanted)}
        variables: dict[str, Any] = {
            "arguments": self.values.arguments,
            "steps": {name: view for name, view in views.items() if view is not None},
            **self._item_variables(used - extra.keys()),
            **{
                name: value() if callable(value) else value
                for name, value in extra.items()
                if name in used
            },
        }
        if "workflow" in used:
            variables["workflow"] = self.values.workflow()
        return variables

    def _item_variables(self, wanted: set[str]) -> dict[str, Any]:
        """What is known of the items around this graph, the nearest first."""
        found = self._around._item_variables(wanted) if self._around else {}
        return found | {name: self._variables[name]() for name in wanted & self._variables.keys()}

    def render(self, template: Template, **extra: Any) -> Any:
        """The template's value.

        Raises:
            ExpressionError: an expression in it failed.
            NotYetKnownError: a value in it lies in the artifact store.
        """
        return template.render_with(lambda expression: self.evaluate(expression, **extra))

    def stored_output(self, template: Template) -> Kept | None:
        """Where the value of a template lies that is ``$(steps.NAME.output)`` and nothing more.

        A large output is passed on by it without being loaded.
        """
        if len(template.parts) != 1 or not template.expressions:
            return None
        named = _ONE_OUTPUT.fullmatch(template.expressions[0].source.strip())
        found = self._find(named[1]) if named else None
        if found is None or found[1].is_fan_out or found[1].phase is not StepPhase.SUCCEEDED:
            return None
        stored = found[1].nodes[0].stored
        return Kept(stored=stored) if stored else None

    def evaluate(self, expression: Expression, **extra: Any) -> Any:
        """The expression's value. Values of ``extra`` may be functions that give them.

        Raises:
            ExpressionError: it failed.
            NotYetKnownError: a value in it lies in the artifact store.
        """
        if not self._constant(expression):
            return expression.evaluate(self.variables((expression,), **extra))
        if self._around and not self._names_own(expression):
            return self._around.evaluate(expression)
        if expression.source not in self._constants:
            value = expression.evaluate(self.variables((expression,)))
            self._constants[expression.source] = value
        return self._constants[expression.source]

    def _names_own(self, expression: Expression) -> bool:
        return any(
            ref.root == "steps" and any(ref.name in steps for steps in self._steps)
            for ref in references(expression.source)
        )

    def _constant(self, expression: Expression) -> bool:
        """Whether its value is the same for all items: they need not each convert a long list."""
        if not expression.uses <= {"arguments", "steps"} or names_all(expression.source, "steps"):
            return False
        named = {ref.name for ref in references(expression.source) if ref.root == "steps"}
        found = [self._find(name) for name in named]
        return all(step is not None and step[1].final for step in found)


def _item(index: int, item: Any, node: Node, outputs: Mapping[int, Any]) -> dict[str, Any]:
    view = {"index": index, "item": item, "phase": node.phase.value}
    if id(node) in outputs:
        view["output"] = outputs[id(node)]
    if (cost := node.spent().cost_text) is not None:
        view["costUSD"] = cost
    return view
