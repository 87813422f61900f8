"""What a Workflow runs: its own steps or a template's, and what those above it want of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from corral.api.errors import Reason
from corral.api.template import TemplateSpec
from corral.api.workflow import FINAL_WORKFLOW_PHASES, WorkflowBudget, WorkflowSpec
from corral.kube.client import Json
from corral.plan.names import API_VERSION
from corral.plan.state import Run
from corral.plan.template import argument_problems, called_by, cycle, parameters_of, resolve
from corral.plan.validate import Problem, workflow_problems
from corral.reconcile.store import ObjectKey, Store
from corral.reconcile.world import World, read_spec

MAX_DEPTH = 16
"""Owners that are followed upwards; Workflows are nested less deep than that."""


@dataclass(frozen=True)
class Effective:
    """What runs, and why it can't."""

    spec: WorkflowSpec | None
    problems: list[Problem] = field(default_factory=list)
    unavailable: tuple[Reason, str] | None = None
    """What is not there yet."""
    template: dict[str, object] | None = None
    """The template, to be kept with the run once that starts."""


class Specs:
    """Reads and checks specs; what was checked is remembered until it changes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checked: dict[str, tuple[object, Effective]] = {}
        self._templates: dict[str, tuple[int, dict[str, TemplateSpec]]] = {}

    def forget(self, uid: str) -> None:
        """Nothing is kept of a Workflow that has ended or is gone."""
        self._checked.pop(uid, None)

    def effective(self, obj: Json, run: Run) -> Effective:
        """What a Workflow runs, without what those above it want."""
        uid, generation = obj["metadata"]["uid"], obj["metadata"]["generation"]
        version: object = generation
        kept = run.template
        if kept is not None:
            version = (generation, "kept")
        elif (obj.get("spec") or {}).get("workflowTemplateRef"):
            namespace = obj["metadata"]["namespace"]
            version = (generation, self._world.templates.changes(namespace))
        known = self._checked.get(uid)
        if known is None or known[0] != version:
            known = self._checked[uid] = (version, self._check(obj, kept))
        return known[1]

    def _check(self, obj: Json, kept: dict[str, object] | None) -> Effective:
        spec = read_spec(WorkflowSpec, obj)
        if not isinstance(spec, WorkflowSpec):
            return Effective(None, spec)
        if spec.workflow_template_ref is None or spec.steps is not None:
            return Effective(spec, [*workflow_problems(spec), *self._cycles(obj, spec)])
        name = spec.workflow_template_ref.name
        if kept is not None:
            return Effective(resolve(spec, TemplateSpec.model_validate(kept)), [], None, kept)
        found = self._world.templates.get((obj["metadata"]["namespace"], name))
        if found is None:
            why = f"spec.workflowTemplateRef: there is no WorkflowTemplate {name!r}"
            return Effective(spec, [], (Reason.TEMPLATE_NOT_FOUND, why))
        template = read_spec(TemplateSpec, found)
        if not isinstance(template, TemplateSpec):
            return Effective(spec, [_of_template(name, problem) for problem in template])
        resolved = resolve(spec, template)
        problems = argument_problems(template, resolved.arguments or {})
        if not problems:
            of_graph = workflow_problems(resolved, parameters_of(template))
            problems = [_of_template(name, problem) for problem in of_graph]
        problems += self._cycles(obj, resolved, name)
        return Effective(resolved, problems, None, template.to_json())

    def _cycles(self, obj: Json, spec: WorkflowSpec, name: str | None = None) -> Iterator[Problem]:
        """A template that reaches itself would never end."""
        called = [name] if name is not None else called_by(spec)
        if not called:
            return
        templates = self.templates(obj["metadata"]["namespace"])
        for one in called:
            if path := cycle(one, templates):
                why = f"WorkflowTemplate {path[0]!r} reaches itself: {' → '.join(path)}"
                yield Problem("spec.workflowTemplateRef" if name else "spec.steps", why)
                return

    def templates(self, namespace: str) -> dict[str, TemplateSpec]:
        """The WorkflowTemplates of a namespace that can be read, by name."""
        changes = self._world.templates.changes(namespace)
        known = self._templates.get(namespace)
        if known is None or known[0] != changes:
            known = self._templates[namespace] = (changes, self._read_templates(namespace))
        return known[1]

    def _read_templates(self, namespace: str) -> dict[str, TemplateSpec]:
        found = {}
        for obj in self._world.templates.in_namespace(namespace):
            template = read_spec(TemplateSpec, obj)
            if isinstance(template, TemplateSpec):
                found[obj["metadata"]["name"]] = template
        return found

    def budgets(self, namespace: str) -> dict[str, WorkflowBudget | None]:
        """The budgets of a namespace's WorkflowTemplates, by the template's name."""
        return {name: template.budget for name, template in self.templates(namespace).items()}


def _of_template(name: str, problem: Problem) -> Problem:
    field_of = f"WorkflowTemplate {name!r}: {problem.field}"
    return Problem(field_of, problem.message, problem.reason)


def parent_of(obj: Json) -> tuple[ObjectKey, str] | None:
    """The Workflow that a Workflow is a child of, and its UID."""
    for owner in obj["metadata"].get("ownerReferences") or []:
        ours = owner.get("controller") and owner.get("apiVersion") == API_VERSION
        if ours and owner["kind"] == "Workflow":
            return (obj["metadata"]["namespace"], owner["name"]), owner["uid"]
    return None


def depth_of(workflows: Store, obj: Json) -> int:
    """1 for a Workflow that is nobody's child."""
    depth = 1
    above: Json | None = obj
    while above is not None and (parent := parent_of(above)) and depth < MAX_DEPTH:
        depth += 1
        above = workflows.get(parent[0])
    return depth


def wanted_above(
    workflows: Store, obj: Json, abandoned: set[str], depth: int = MAX_DEPTH
) -> tuple[str | None, bool]:
    """What the Workflows above want of a child: (shutdown, whether it is suspended).

    A child ends with its parent, and where its step does not want it any more; while the parent
    is suspended nothing starts in it either. Nobody writes into its spec for that.
    """
    parent = parent_of(obj)
    if parent is None or depth == 0:
        return None, False
    key, uid = parent
    above = workflows.get(key)
    if above is None or above["metadata"]["uid"] != uid:
        return "Terminate", False
    if obj["metadata"]["uid"] in abandoned or _ended(above):
        return "Stop", False
    shutdown, suspended = wanted_above(workflows, above, abandoned, depth - 1)
    spec, status = above.get("spec") or {}, above.get("status") or {}
    return (
        spec.get("shutdown") or shutdown,
        suspended or bool(spec.get("suspend")) or status.get("phase") == "Suspended",
    )


def _ended(obj: Json) -> bool:
    return (obj.get("status") or {}).get("phase") in FINAL_WORKFLOW_PHASES
