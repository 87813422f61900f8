"""What a Workflow runs that names a WorkflowTemplate: the template's graph, its own arguments.

Bounds that the Workflow sets replace the template's. The template is kept with the run once it has
started, so that a change of it never reaches a run that is under way.
"""

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from corral.api.template import TemplateSpec
from corral.api.types import JsonSchema
from corral.api.workflow import WorkflowSpec
from corral.plan.selection import all_steps
from corral.plan.validate import Problem, schema_problem

_BOUNDS = (
    "output",
    "parallelism",
    "active_deadline",
    "deadline",
    "priority_class_name",
    "budget",
    "on_exit",
    "ttl_after_finished",
)


def resolve(spec: WorkflowSpec, template: TemplateSpec) -> WorkflowSpec:
    """The Workflow with the template's steps, and the defaults of its parameters."""
    update: dict[str, Any] = {
        name: getattr(template, name) for name in _BOUNDS if getattr(spec, name) is None
    }
    update["steps"] = template.steps
    update["workflow_template_ref"] = None
    # The API server sets failFast where it is absent, so either can only turn it off.
    update["fail_fast"] = spec.fail_fast and template.fail_fast
    update["arguments"] = with_defaults(template.parameters or {}, spec.arguments or {})
    return spec.model_copy(update=update)


def with_defaults(schema: JsonSchema, value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with the defaults of properties that it lacks, in objects within it too."""
    filled = dict(value)
    properties = schema.get("properties")
    for name, of_property in (properties if isinstance(properties, dict) else {}).items():
        if not isinstance(of_property, dict):
            continue
        if name not in filled and "default" in of_property:
            filled[name] = of_property["default"]
        if isinstance(filled.get(name), dict):
            filled[name] = with_defaults(of_property, filled[name])
    return filled


def argument_problems(template: TemplateSpec, arguments: Mapping[str, Any]) -> list[Problem]:
    """Where arguments (with defaults) break the template's parameters."""
    schema = template.parameters
    if schema is None:
        return []
    if why := schema_problem(schema):
        return [Problem("spec.parameters", why)]
    # An empty registry: the default one would fetch remote references.
    found = Draft202012Validator(schema, registry=Registry()).iter_errors(dict(arguments))
    try:
        errors = sorted(found, key=lambda error: [str(part) for part in error.absolute_path])
    except Unresolvable as error:
        return [Problem("spec.parameters", f"the reference {error.ref} does not resolve")]
    except RecursionError:
        why = "the schema refers to itself, or the arguments are nested too deep"
        return [Problem("spec.parameters", why)]
    return [
        Problem(".".join(["spec.arguments", *map(str, error.absolute_path)]), error.message[:300])
        for error in errors[:10]
    ]


def parameters_of(template: TemplateSpec) -> frozenset[str]:
    """The names that arguments may have."""
    properties = (template.parameters or {}).get("properties")
    return frozenset(properties) if isinstance(properties, dict) else frozenset()


def cycle(name: str, templates: Mapping[str, TemplateSpec]) -> list[str]:
    """How a template reaches itself, for example ``[a, b, a]``; empty if it does not."""
    path: list[str] = []
    done: set[str] = set()

    def visit(current: str) -> list[str]:
        if current in path:
            return [*path[path.index(current) :], current]
        if current in done or current not in templates:
            return []
        path.append(current)
        for called in called_by(templates[current]):
            if found := visit(called):
                return found
        path.pop()
        done.add(current)
        return []

    return visit(name)


def called_by(spec: TemplateSpec | WorkflowSpec) -> list[str]:
    """The templates that a graph's steps call."""
    steps = all_steps([*(spec.steps or []), *(spec.on_exit or [])])
    return [step.workflow.template_ref.name for step in steps if step.workflow is not None]
