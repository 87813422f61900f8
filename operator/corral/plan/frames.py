"""The graphs of a run that are under way: its steps, its ``onExit``, and nested steps.

A step with nested steps has a graph of its own for each of its items, in the item's node. A frame
is such a graph with what its expressions see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from corral.api.workflow import NestedStep, WorkflowSpec
from corral.api.workflow import Step as OuterStep
from corral.plan.facts import Facts
from corral.plan.scope import BASE_NAMES, RunValues, Scope, input_names, nested_names
from corral.plan.state import Node, Run, Step, attempt_id

StepSpec = NestedStep
"""Steps that may be nested; those that may have nested steps are of ``workflow.Step``."""


def nested_in(spec: StepSpec) -> Sequence[StepSpec]:
    """The steps of a step that has some of its own."""
    return (spec.steps or ()) if isinstance(spec, OuterStep) else ()


def place(run_id: str, path: str, index: int) -> str:
    """An item of the step at a path, whichever attempt is under way."""
    return f"{run_id}.{path}.{index}"


@dataclass
class Frame:
    """One graph: what its steps are, and how far each has come."""

    specs: Mapping[str, StepSpec]
    steps: dict[str, Step]
    scope: Scope
    run_id: str
    path: str = ""
    """What comes before a step's name in attempt ids: ``outer~<item>~<iteration>~``."""
    title: str = ""
    """What comes before a step's name for people: ``outer.``, or ``outer[3].``."""
    names: frozenset[str] = frozenset()
    """The variables of the item that the graph is of."""
    is_exit: bool = False
    around: "Frame | None" = None
    width: int = 1
    """How many such graphs there are side by side: one for each item."""

    def attempt_id(self, spec: StepSpec, index: int, iteration: int, attempt: int) -> str:
        return attempt_id(self.run_id, self.path + spec.name, index, attempt, iteration)

    def place(self, spec: StepSpec, index: int) -> str:
        """An item, whichever attempt is under way."""
        return place(self.run_id, self.path + spec.name, index)

    def next_attempt_id(self, spec: StepSpec, index: int, node: Node) -> str:
        """The id of the attempt that would start next."""
        return self.attempt_id(spec, index, node.iteration, node.attempt + 1)

    def running_attempt_id(self, spec: StepSpec, index: int, node: Node) -> str:
        """The id of the attempt that runs, or ran last."""
        return self.attempt_id(spec, index, node.iteration, node.attempt)

    def shown(self, spec: StepSpec, step: Step, index: int) -> str:
        """A step, or one of its items, as people write it."""
        return f"{self.title}{spec.name}[{index}]" if step.is_fan_out else self.title + spec.name

    @property
    def base_names(self) -> frozenset[str]:
        """What conditions, lists and outputs may use."""
        return BASE_NAMES | self.names

    def input_names(self, spec: StepSpec) -> frozenset[str]:
        """What inputs may use."""
        return input_names(spec) | self.names

    def item_variables(self, spec: StepSpec, step: Step, index: int) -> dict[str, Any]:
        """What an input may use besides the run's variables; values, or functions that load them.

        A step without ``forEach`` sees the index of the item that it is nested in, and one without
        ``loop`` that one's iteration and previous output.
        """
        node = step.nodes[index]
        values = self.scope.values
        variables: dict[str, Any] = {"attempt": max(1, node.attempt)}
        if step.is_fan_out or "index" not in self.names:
            variables["index"] = index
        if spec.loop is not None or "iteration" not in self.names:
            variables["iteration"] = node.iteration
            kept = node.previous
            variables["previous"] = partial(values.load, kept.value, kept.stored) if kept else None
        if spec.for_each is not None:
            variables[spec.for_each.as_] = lambda: values.items(step)[index]
        return variables


@dataclass
class Frames:
    """All graphs of a run."""

    run: Run
    spec: WorkflowSpec
    facts: Facts
    name: str
    namespace: str
    _nested: dict[str, Frame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        run = self.run
        self.values = RunValues(
            run, self.facts, self.spec.arguments or {}, self.name, self.namespace
        )
        self.main = Frame(
            {step.name: step for step in self.spec.steps or []},
            run.steps,
            Scope(self.values, [run.steps]),
            run.run_id,
        )
        self.on_exit = Frame(
            {step.name: step for step in self.spec.on_exit or []},
            run.exit_steps,
            Scope(self.values, [run.exit_steps, run.steps]),
            run.run_id,
            is_exit=True,
        )

    def nested(self, frame: Frame, spec: StepSpec, step: Step, index: int) -> Frame:
        """The graph of an item of a step with nested steps."""
        node = step.nodes[index]
        path = f"{frame.path}{spec.name}~{index}~{node.iteration}~"
        found = self._nested.get(path)
        if found is None or found.steps is not node.steps:
            if node.steps is None:
                node.steps = {}
            inner = nested_in(spec)
            variables = frame.item_variables(spec, step, index)
            variables.pop("attempt")
            names = frame.names | nested_names(spec)
            found = self._nested[path] = Frame(
                {one.name: one for one in inner},
                node.steps,
                Scope(
                    self.values,
                    [node.steps],
                    frame.scope,
                    {
                        name: value if callable(value) else partial(_same, value)
                        for name, value in variables.items()
                    },
                ),
                frame.run_id,
                path,
                frame.shown(spec, step, index) + ".",
                names,
                frame.is_exit,
                frame,
                frame.width * len(step.nodes),
            )
        return found

    def within(self, frame: Frame, *, ended: bool = False) -> Iterator[Frame]:
        """A graph, and those nested in its steps: under way, or also those of items that failed."""
        yield frame
        for name, step in frame.steps.items():
            if step.final and not ended:
                continue
            spec = frame.specs.get(name)
            if spec is None or not nested_in(spec):
                continue
            for index, node in enumerate(step.nodes):
                if node.steps is not None and (ended or not node.final):
                    yield from self.within(self.nested(frame, spec, step, index), ended=ended)

    def all(self) -> Iterator[Frame]:
        """Every graph that is under way, the run's steps first."""
        yield from self.within(self.main)
        yield from self.within(self.on_exit)

    def with_ended(self) -> Iterator[Frame]:
        """Every graph that is known, the nested ones of items that failed too."""
        yield from self.within(self.main, ended=True)
        yield from self.within(self.on_exit, ended=True)


def _same(value: Any) -> Any:
    return value
