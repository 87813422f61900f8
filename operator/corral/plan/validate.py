"""Everything that can be told to be wrong with a Workflow before it starts.

The same checks run in admission (where CEL can express them), in the operator (a ``Stalled``
condition) and in ``corral validate``. A problem names the field as a path from the object's root.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from jsonschema import Draft202012Validator, SchemaError

from corral.api.errors import Reason
from corral.api.types import JsonSchema, seconds
from corral.api.workflow import Step, TriggerRule, WorkflowSpec
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


def workflow_problems(spec: WorkflowSpec) -> list[Problem]:
    """All problems of a Workflow's spec that has been read by the models, in order."""
    if (spec.steps is None) == (spec.workflow_template_ref is None):
        return [Problem("spec", "exactly one of steps and workflowTemplateRef must be set")]
    unsupported = list(_unsupported(spec))
    if unsupported:
        return unsupported
    steps = spec.steps or []
    structure = [*_structure(steps, "spec.steps"), *_structure(spec.on_exit or [], "spec.onExit")]
    main = {step.name for step in steps}
    for index, step in enumerate(spec.on_exit or []):
        if step.name in main:
            structure.append(
                Problem(f"spec.onExit[{index}].name", f"there is a step {step.name!r} already")
            )
    if structure:
        return structure
    return list(_expression_problems(spec))


def _structure(steps: list[Step], path: str) -> Iterator[Problem]:
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


_AGENT_ONLY = {
    "input": "input",
    "input_data": "inputData",
    "output_schema": "outputSchema",
    "retry_strategy": "retryStrategy",
    "timeout": "timeout",
}


def _fields_that_fit(step: Step, at: str) -> Iterator[Problem]:
    if step.kinds() and step.agent_ref is None:
        for attribute, to in _AGENT_ONLY.items():
            if getattr(step, attribute) is not None:
                yield Problem(f"{at}.{to}", "only a step that calls an agent has it")
    if step.output_schema is not None and (why := schema_problem(step.output_schema)):
        yield Problem(f"{at}.outputSchema", why)
    if each := step.for_each:
        if (each.items is None) == (each.items_from is None):
            yield Problem(f"{at}.forEach", "exactly one of items and itemsFrom must be set")
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


def _unsupported(spec: WorkflowSpec) -> Iterator[Problem]:
    """What the API has words for and this version does not run yet."""

    def problem(field: str) -> Problem:
        return Problem(field, "not supported yet", Reason.NOT_SUPPORTED)

    for attribute, field in {
        "workflow_template_ref": "workflowTemplateRef",
        "budget": "budget",
        "priority_class_name": "priorityClassName",
        "ttl_after_finished": "ttlAfterFinished",
    }.items():
        if getattr(spec, attribute) is not None:
            yield problem(f"spec.{field}")
    for path, steps in (("spec.steps", spec.steps), ("spec.onExit", spec.on_exit)):
        for index, step in enumerate(steps or []):
            for attribute, field in {
                "agent_selector": "agentSelector",
                "approval": "approval",
                "workflow": "workflow",
                "tool": "tool",
                "steps": "steps",
                "output": "output",
                "loop": "loop",
                "memoize": "memoize",
            }.items():
                if getattr(step, attribute) is not None:
                    yield problem(f"{path}[{index}].{field}")


def _expression_problems(spec: WorkflowSpec) -> Iterator[Problem]:
    arguments = frozenset(spec.arguments or {})
    steps = spec.steps or []
    fan_outs = {step.name for step in [*steps, *(spec.on_exit or [])] if step.for_each}
    names = {step.name for step in steps}

    def check(path: str, all_steps: list[Step], outer: frozenset[str]) -> Iterator[Problem]:
        known = names | {step.name for step in all_steps}
        ancestors: dict[str, frozenset[str]] = {}
        for index, step in enumerate(all_steps):
            direct = frozenset(step.depends_on or [])
            ancestors[step.name] = direct.union(*(ancestors[name] for name in direct)) | outer
            scope = _References(known, ancestors[step.name], fan_outs, arguments, step.name)
            yield from _step_expressions(step, f"{path}[{index}]", scope)

    yield from check("spec.steps", steps, frozenset())
    yield from check("spec.onExit", spec.on_exit or [], frozenset(names))
    if spec.output is not None:
        scope = _References(names, frozenset(names), fan_outs, arguments, None)
        yield from scope.templates(spec.output, BASE_NAMES, "spec.output")


def _step_expressions(step: Step, at: str, scope: "_References") -> Iterator[Problem]:
    names = input_names(step)
    if step.when is not None:
        yield from scope.expression(step.when, BASE_NAMES, f"{at}.when")
    if step.for_each and step.for_each.items_from is not None:
        where = f"{at}.forEach.itemsFrom"
        found = list(scope.templates(step.for_each.items_from, BASE_NAMES, where))
        yield from found
        if not found and not _is_one_expression(step.for_each.items_from):
            yield Problem(where, "must be one expression that gives a list: $( … )")
    for attribute, field in (
        ("input", "input"),
        ("input_data", "inputData"),
        ("transform", "transform"),
    ):
        if (data := getattr(step, attribute)) is not None:
            yield from scope.templates(data, names, f"{at}.{field}")
    for key, source in (step.extract or {}).items():
        yield from scope.expression(source, BASE_NAMES | {"output"}, f"{at}.extract.{key}")


def _is_one_expression(source: str) -> bool:
    template = Template(source, BASE_NAMES)
    return len(template.parts) == len(template.expressions) == 1


@dataclass(frozen=True)
class _References:
    """What an expression in one place may refer to."""

    known: set[str]
    reachable: frozenset[str]
    fan_outs: set[str]
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

    def _unknown(self, source: str) -> Iterator[str]:
        for ref in references(source):
            if ref.root == "steps":
                if ref.name not in self.known:
                    yield f"there is no step {ref.name!r}"
                elif ref.name not in self.reachable:
                    yield f"step {ref.name!r} may not have ended; add it to dependsOn"
                elif ref.field is not None and ref.field not in STEP_FIELDS:
                    fields = ", ".join(sorted(STEP_FIELDS))
                    yield f"a step has {fields}, and no {ref.field!r}"
                elif ref.field == "output" and ref.name in self.fan_outs:
                    yield f"step {ref.name!r} is a fan-out; it has outputs and items, no output"
            elif ref.root == "arguments":
                if ref.name not in self.arguments and not ref.tested:
                    yield f"there is no argument {ref.name!r}"
            elif ref.root == "workflow" and ref.name not in WORKFLOW_FIELDS:
                yield f"workflow has {', '.join(sorted(WORKFLOW_FIELDS))}, and no {ref.name!r}"
