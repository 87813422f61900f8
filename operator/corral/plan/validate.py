"""Everything that can be told to be wrong with a Workflow before it starts.

The same checks run in admission (where CEL can express them), in the operator (a ``Stalled``
condition) and in ``corral validate``. A problem names the field as a path from the object's root.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jsonschema import Draft202012Validator, SchemaError

from corral.api.errors import Reason
from corral.api.types import JsonSchema, seconds
from corral.api.workflow import NestedStep, TriggerRule, WorkflowSpec
from corral.plan.expressions import (
    Expression,
    ExpressionError,
    Template,
    compact_json,
    references,
    shown,
    templates_in,
)
from corral.plan.scope import (
    BASE_NAMES,
    RESERVED_NAMES,
    STEP_FIELDS,
    WORKFLOW_FIELDS,
    input_names,
    nested_names,
)

# fmt: off
CEL_KEYWORDS = frozenset({
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in",
    "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while",
})
CEL_TYPES = frozenset({
    "bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "optional_type", "string",
    "type", "uint",
})
# fmt: on
_NEEDS_DEPENDENCIES = frozenset({TriggerRule.ANY_FAILED, TriggerRule.ANY_SUCCEEDED})


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where."""

    field: str
    message: str
    reason: Reason = Reason.INVALID_SPEC

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def schema_problem(schema: JsonSchema) -> str:
    """Why ``schema`` is no JSON Schema, in words that follow the field; empty if it is one."""
    return _schema_problem(compact_json(schema))


@lru_cache(maxsize=256)
def _schema_problem(text: str) -> str:
    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        return f"is no JSON Schema: {error.message}"
    return ""


def workflow_problems(spec: WorkflowSpec, parameters: Iterable[str] = ()) -> list[Problem]:
    """All problems of a spec that has been read by the models, in order.

    Args:
        parameters: names that ``arguments`` may have besides those that it has.
    """
    if spec.steps is None:
        if spec.workflow_template_ref is not None:
            return []
        return [Problem("spec", "exactly one of steps and workflowTemplateRef must be set")]
    structure = [*_structure(spec.steps, "spec.steps")]
    structure += _structure(spec.on_exit or [], "spec.onExit")
    main = {step.name for step in spec.steps}
    for index, step in enumerate(spec.on_exit or []):
        if step.name in main:
            structure.append(
                Problem(f"spec.onExit[{index}].name", f"there is a step {step.name!r} already")
            )
    structure += _budget_problems(spec)
    if structure:
        return structure
    return list(_expression_problems(spec, frozenset(parameters) | (spec.arguments or {}).keys()))


def _budget_problems(spec: WorkflowSpec) -> Iterator[Problem]:
    limits = spec.budget
    if limits is not None and limits.max_cost_usd is None and limits.max_tokens is None:
        yield Problem("spec.budget", "maxCostUSD, maxTokens or both must be set")


def _structure(steps: Sequence[NestedStep], path: str) -> Iterator[Problem]:
    position = {step.name: index for index, step in reversed(list(enumerate(steps)))}
    for index, step in enumerate(steps):
        at = f"{path}[{index}]"
        if step.name in CEL_KEYWORDS:
            yield Problem(f"{at}.name", f"{step.name!r} is a word of the expression language")
        if position[step.name] != index:
            yield Problem(f"{at}.name", f"there is a step {step.name!r} already")
        kinds = step.kinds()
        if len(kinds) != 1:
            found = f"has {' and '.join(kinds)}" if kinds else "has none"
            yield Problem(
                at,
                f"step {step.name!r} must be exactly one of agentRef, agentSelector, approval, "
                f"wait, workflow, steps, tool, transform; it {found}",
            )
        for d, dependency in enumerate(step.depends_on or []):
            where = f"{at}.dependsOn[{d}]"
            if dependency in (step.depends_on or [])[:d]:
                yield Problem(where, f"step {dependency!r} is listed twice")
            elif dependency == step.name:
                yield Problem(where, f"step {step.name!r} depends on itself")
            elif dependency not in position:
                yield Problem(where, f"there is no step {dependency!r}")
            elif position[dependency] > index:
                yield Problem(
                    where,
                    f"step {dependency!r} comes later in the list; steps are listed after what "
                    "they depend on, which rules out cycles",
                )
        if step.trigger_rule in _NEEDS_DEPENDENCIES and not step.depends_on:
            rule = step.trigger_rule.value
            yield Problem(f"{at}.triggerRule", f"{rule} never holds without dependsOn")
        yield from _fields_that_fit(step, at)


_OF_AGENTS = {"input": "input", "input_data": "inputData", "output_schema": "outputSchema"}
_OF_ATTEMPTS = {"timeout": "timeout", "memoize": "memoize"}


def _fields_that_fit(step: NestedStep, at: str) -> Iterator[Problem]:
    kinds = step.kinds()
    if len(kinds) == 1:
        agent = kinds[0] in ("agentRef", "agentSelector")
        attempts = agent or kinds[0] == "tool"
        for attribute, to in _OF_AGENTS.items():
            if getattr(step, attribute) is not None and not agent:
                yield Problem(f"{at}.{to}", "only a step that calls an agent has it")
        for attribute, to in _OF_ATTEMPTS.items():
            if getattr(step, attribute) is not None and not attempts:
                yield Problem(f"{at}.{to}", "only a step that calls an agent or a tool has it")
        if step.retry_strategy is not None and not attempts and kinds[0] != "workflow":
            why = "only a step that calls an agent, a tool or a workflow has it"
            yield Problem(f"{at}.retryStrategy", why)
        if step.loop is not None and kinds[0] in ("approval", "wait"):
            yield Problem(f"{at}.loop", f"a step with {kinds[0]} has no loop")
        if step.for_each is not None and kinds[0] == "approval":
            why = "an approval is asked for once; nest it in steps to ask for each item"
            yield Problem(f"{at}.forEach", why)
    if step.loop and step.loop.on_exhausted == "AcceptBest" and step.loop.best is None:
        yield Problem(f"{at}.loop.best", "onExhausted: AcceptBest needs it")
    if step.output_schema is not None and (why := schema_problem(step.output_schema)):
        yield Problem(f"{at}.outputSchema", why)
    if each := step.for_each:
        given = (each.items, each.items_from, each.config_map_key_ref)
        if sum(one is not None for one in given) != 1:
            why = "exactly one of items, itemsFrom and configMapKeyRef must be set"
            yield Problem(f"{at}.forEach", why)
        if each.as_ in RESERVED_NAMES:
            yield Problem(f"{at}.forEach.as", f"{each.as_!r} has a meaning already")
        elif each.as_ in CEL_KEYWORDS | CEL_TYPES:
            yield Problem(f"{at}.forEach.as", f"{each.as_!r} is a word of the expression language")
    retry = step.retry_strategy
    longest = retry.backoff.max_duration if retry else None
    if retry and longest and seconds(longest) < seconds(retry.backoff.duration):
        yield Problem(
            f"{at}.retryStrategy.backoff.maxDuration",
            f"{longest} is shorter than duration, {retry.backoff.duration}",
        )
    if inner := getattr(step, "steps", None):
        yield from _structure(inner, f"{at}.steps")


def _expression_problems(spec: WorkflowSpec, arguments: frozenset[str]) -> Iterator[Problem]:
    steps = spec.steps or []
    main = _Graph(steps, arguments)
    yield from main.problems("spec.steps")
    yield from _Graph(spec.on_exit or [], arguments, main).problems("spec.onExit")
    if spec.output is not None:
        scope = main.references(None, main.names)
        yield from scope.templates(spec.output, BASE_NAMES, "spec.output")


class _Graph:
    """Steps whose expressions may name one another, and what is around them.

    Args:
        around: the graph whose steps may be named too.
        reachable: which of those have ended when this graph begins; None is all.
        variables: those of the item that the graph is of.
    """

    def __init__(
        self,
        steps: Sequence[NestedStep],
        arguments: frozenset[str],
        around: "_Graph | None" = None,
        reachable: frozenset[str] | None = None,
        variables: frozenset[str] = frozenset(),
    ) -> None:
        self.steps = steps
        self.arguments = arguments
        self.variables = variables
        self.names = frozenset(step.name for step in steps)
        self._own = {step.name: step for step in steps}
        self._all: dict[str, NestedStep] = {**(around._all if around else {}), **self._own}
        outer = around.names if around and reachable is None else reachable or frozenset()
        self._outer = outer - self.names

    def problems(self, path: str) -> Iterator[Problem]:
        ancestors: dict[str, frozenset[str]] = {}
        for index, step in enumerate(self.steps):
            direct = frozenset(step.depends_on or [])
            ancestors[step.name] = direct.union(*(ancestors[name] for name in direct))
            at = f"{path}[{index}]"
            scope = self.references(step.name, ancestors[step.name])
            yield from _step_expressions(step, at, scope, self.variables)
            inner = getattr(step, "steps", None)
            if inner:
                variables = self.variables | nested_names(step)
                reachable = ancestors[step.name] | self._outer
                graph = _Graph(inner, self.arguments, self, reachable, variables)
                yield from graph.problems(f"{at}.steps")
                if (output := getattr(step, "output", None)) is not None:
                    scope = graph.references(step.name, graph.names)
                    yield from scope.templates(output, BASE_NAMES | variables, f"{at}.output")

    def references(self, step: str | None, ended: frozenset[str]) -> "_References":
        """What may be named in a place where ``ended`` of this graph's steps have ended."""
        return _References(self._all, ended | self._outer, self.arguments, step)


def _step_expressions(
    step: NestedStep, at: str, scope: "_References", variables: frozenset[str]
) -> Iterator[Problem]:
    base = BASE_NAMES | variables
    names = input_names(step) | variables
    if step.when is not None:
        yield from scope.expression(step.when, base, f"{at}.when")
    if step.for_each and step.for_each.items_from is not None:
        where = f"{at}.forEach.itemsFrom"
        found = list(scope.templates(step.for_each.items_from, base, where))
        yield from found
        if not found and not _is_one_expression(step.for_each.items_from, base):
            yield Problem(where, "must be one expression that gives a list: $( … )")
    for data, field in (
        (step.input, "input"),
        (step.input_data, "inputData"),
        (step.transform, "transform"),
        (step.approval.prompt if step.approval else None, "approval.prompt"),
        (step.workflow.arguments if step.workflow else None, "workflow.arguments"),
        (step.tool.arguments if step.tool else None, "tool.arguments"),
        (step.memoize.key if step.memoize else None, "memoize.key"),
    ):
        if data is not None:
            yield from scope.templates(data, names, f"{at}.{field}")
    if step.loop is not None:
        yield from scope.expression(step.loop.until, names | {"output"}, f"{at}.loop.until")
        if step.loop.best is not None:
            yield from scope.expression(step.loop.best, names | {"output"}, f"{at}.loop.best")
    for key, source in (step.extract or {}).items():
        yield from scope.expression(source, base | {"output"}, f"{at}.extract.{key}")


def _is_one_expression(source: str, names: frozenset[str]) -> bool:
    template = Template(source, names)
    return len(template.parts) == len(template.expressions) == 1


@dataclass(frozen=True)
class _References:
    """What an expression in one place may refer to."""

    steps: Mapping[str, NestedStep]
    reachable: frozenset[str]
    arguments: frozenset[str]
    step: str | None

    def _compiled(
        self, compile_it: Callable[[], list[Expression]], field: str
    ) -> Iterator[Problem]:
        of = f"step {self.step!r}: " if self.step else ""
        try:
            expressions = compile_it()
        except ExpressionError as error:
            yield Problem(field, f"{of}{error}")
            return
        for expression in expressions:
            for message in self._unknown(expression.source):
                yield Problem(field, f"{of}{shown(expression.source)}: {message}")

    def expression(self, source: str, names: frozenset[str], field: str) -> Iterator[Problem]:
        yield from self._compiled(lambda: [Expression(source, names)], field)

    def templates(self, data: object, names: frozenset[str], field: str) -> Iterator[Problem]:
        def compile_all() -> list[Expression]:
            return [e for template in templates_in(data, names) for e in template.expressions]

        yield from self._compiled(compile_all, field)

    def _no_output(self, name: str) -> Iterator[str]:
        step = self.steps[name]
        if step.for_each is not None:
            yield f"step {name!r} is a fan-out; it has outputs and items, no output"
        elif getattr(step, "steps", None) and getattr(step, "output", None) is None:
            yield f"step {name!r} says no output of its nested steps"

    def _unknown(self, source: str) -> Iterator[str]:
        for ref in references(source):
            if ref.root == "steps":
                if ref.name not in self.steps:
                    yield f"there is no step {ref.name!r}"
                elif ref.name not in self.reachable:
                    yield f"step {ref.name!r} may not have ended; add it to dependsOn"
                elif ref.field is not None and ref.field not in STEP_FIELDS:
                    fields = ", ".join(sorted(STEP_FIELDS))
                    yield f"a step has {fields}, and no {ref.field!r}"
                elif ref.field == "output":
                    yield from self._no_output(ref.name)
            elif ref.root == "arguments":
                if ref.name not in self.arguments and not ref.tested:
                    yield f"there is no argument {ref.name!r}"
            elif ref.root == "workflow" and ref.name not in WORKFLOW_FIELDS:
                yield f"workflow has {', '.join(sorted(WORKFLOW_FIELDS))}, and no {ref.name!r}"
