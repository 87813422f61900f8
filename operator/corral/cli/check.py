"""Everything that can be told to be wrong with a set of manifests without a cluster."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from corral.api.agent import AgentSpec
from corral.api.cron import CronSpec
from corral.api.errors import Reason
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.workflow import NestedStep, WorkflowBounds, WorkflowSpec
from corral.cli.findings import Finding, finding
from corral.cli.manifests import Document, ManifestSyntaxError, documents, parse_path, read
from corral.cli.objects import Loaded, is_foreign, load
from corral.cli.parameters import arguments_used, problems_of, takes_others
from corral.cli.words import similar
from corral.plan.agent import agent_problems, model_problems
from corral.plan.validate import Problem, schema_problem, workflow_problems


@dataclass
class Checked:
    """What files hold, and what is wrong with it."""

    loaded: list[Loaded] = field(default_factory=list)
    foreign: list[Document] = field(default_factory=list)
    """Objects of others' kinds: not looked into."""
    findings: list[Finding] = field(default_factory=list)
    names: set[tuple[str, str, str]] = field(default_factory=set)
    """(kind, namespace, name) of everything, that which can't be read included."""
    given: frozenset[str] = frozenset()
    """Arguments that Workflows get besides their own."""
    files: int = 0
    documents: int = 0

    @property
    def problems(self) -> list[Finding]:
        """What must be put right."""
        return [found for found in self.findings if not found.warning]

    def of(self, kind: str) -> list[Loaded]:
        """The objects of a kind, in the order of the files."""
        return [loaded for loaded in self.loaded if loaded.kind.name == kind]


def check(paths: Sequence[str], *, recursive: bool = False, given: Collection[str] = ()) -> Checked:
    """Reads and checks files, directories (``recursive``: and those below) and ``-``.

    Args:
        given: names of arguments that Workflows get besides their own.

    Raises:
        CliError: a file can't be read.
    """
    checked = Checked(given=frozenset(given))
    for file, text in read(paths, recursive=recursive):
        checked.files += 1
        try:
            for document in documents(file, text):
                _take(checked, document)
        except ManifestSyntaxError as error:
            problem = Finding(file, error.line, 0, None, None, "", str(error))
            checked.findings.append(problem)
    checked.findings += _duplicates(checked.loaded)
    for loaded in checked.loaded:
        checked.findings += _own_problems(loaded, checked)
        checked.findings += _missing_references(loaded, checked)
    order = {file: n for n, file in enumerate(dict.fromkeys(f.file for f in checked.findings))}
    unique = {(f.file, f.line, f.document, f.field, f.message): f for f in checked.findings}
    checked.findings = sorted(unique.values(), key=lambda f: (order[f.file], f.line))
    return checked


def _take(checked: Checked, document: Document) -> None:
    checked.documents += 1
    if is_foreign(document.data):
        checked.foreign.append(document)
        return
    checked.names |= set(_key(document))
    loaded, found = load(document)
    if loaded is not None:
        planned = {f.field for f in _own_problems(loaded, checked)}
        found = [f for f in found if f.field not in planned]  # the planner's words are better
        checked.loaded.append(loaded)
    checked.findings += found


def _key(document: Document) -> Iterator[tuple[str, str, str]]:
    data = document.data if isinstance(document.data, dict) else {}
    metadata = data.get("metadata")
    if isinstance(metadata, dict):
        yield str(data.get("kind")), str(metadata.get("namespace") or ""), str(metadata.get("name"))


def _duplicates(loaded: list[Loaded]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], Loaded] = {}
    for one in loaded:
        if one.generated:
            continue
        other = first.setdefault(one.key, one)
        if other is not one:
            where = f"{other.document.file}:{other.document.line()}"
            yield finding(
                one.document, ("metadata", "name"), f"there is this {one.kind.name} at {where}"
            )


def _own_problems(loaded: Loaded, checked: Checked) -> Iterator[Finding]:
    for problem in _problems(loaded, checked):
        yield finding(loaded.document, parse_path(problem.field), problem.message)


def _problems(loaded: Loaded, checked: Checked) -> Iterator[Problem]:
    match loaded.spec:
        case WorkflowSpec() as spec:
            yield from workflow_problems(spec, checked.given)
            yield from _argument_problems(spec, loaded, checked)
        case TemplateSpec() as spec:
            yield from _template_problems(spec)
        case CronSpec() as spec:
            workflow = WorkflowSpec.model_validate(spec.workflow_spec.model_dump())
            for problem in workflow_problems(workflow):
                field = problem.field.replace("spec", "spec.workflowSpec", 1)
                yield Problem(field, problem.message, problem.reason)
        case AgentSpec() as spec:
            models = {
                model.name: model.spec
                for model in checked.of("Model")
                if isinstance(model.spec, ModelSpec) and model.namespace == loaded.namespace
            }
            for problem in agent_problems(spec, models):
                # A missing Model is a warning, and a Model's own problem is told there.
                about_model = problem.message.startswith("Model ")
                if problem.reason is not Reason.MODEL_NOT_FOUND and not about_model:
                    yield problem
        case ModelSpec() as spec:
            yield from model_problems(spec)


def _template_problems(spec: TemplateSpec) -> Iterator[Problem]:
    names: Collection[str] = arguments_used(spec.to_json())
    if spec.parameters is not None:
        if why := schema_problem(spec.parameters):
            yield Problem("spec.parameters", why)
            return
        properties = spec.parameters.get("properties")
        if isinstance(properties, dict) and not takes_others(spec.parameters):
            names = properties
    fields = spec.model_dump(exclude={"parameters"})
    yield from workflow_problems(WorkflowSpec.model_validate(fields), names)


def _argument_problems(spec: WorkflowSpec, loaded: Loaded, checked: Checked) -> Iterator[Problem]:
    """Of a Workflow whose template is in the files, too."""
    if spec.workflow_template_ref is None or checked.given:
        return
    for template in checked.of("WorkflowTemplate"):
        here = template.namespace == loaded.namespace
        if here and template.name == spec.workflow_template_ref.name:
            assert isinstance(template.spec, TemplateSpec)
            if template.spec.parameters and not schema_problem(template.spec.parameters):
                for message in problems_of(spec.arguments or {}, template.spec.parameters):
                    yield Problem("spec.arguments", message)


def _missing_references(loaded: Loaded, checked: Checked) -> Iterator[Finding]:
    for field_path, kind, name in _references(loaded):
        here = (kind, loaded.namespace or "")
        names = [other for *where, other in checked.names if tuple(where) == here]
        if name in names:
            continue
        hint = similar(name, names) or "; it may be in the cluster"
        message = f"there is no {kind} {name!r} in these files{hint}"
        yield finding(loaded.document, parse_path(field_path), message, warning=True)


def _references(loaded: Loaded) -> Iterator[tuple[str, str, str]]:
    """(field, kind, name) of what an object refers to."""
    match loaded.spec:
        case CronSpec() as spec:
            yield from _graph_references(spec.workflow_spec, "spec.workflowSpec")
        case WorkflowBounds() as spec:
            yield from _graph_references(spec, "spec")
        case AgentSpec() as spec:
            if spec.model_ref is not None:
                yield "spec.modelRef.name", "Model", spec.model_ref.name
            for index, fallback in enumerate(spec.fallback_models or []):
                yield (
                    f"spec.fallbackModels[{index}].modelRef.name",
                    "Model",
                    fallback.model_ref.name,
                )
        case PoolSpec() as spec:
            yield "spec.agentRef.name", "Agent", spec.agent_ref.name


def _graph_references(spec: WorkflowBounds, at: str) -> Iterator[tuple[str, str, str]]:
    template = getattr(spec, "workflow_template_ref", None)
    if template is not None:
        yield f"{at}.workflowTemplateRef.name", "WorkflowTemplate", template.name
    for steps, part in ((getattr(spec, "steps", None), "steps"), (spec.on_exit, "onExit")):
        yield from _step_references(steps or [], f"{at}.{part}")


def _step_references(steps: Sequence[NestedStep], at: str) -> Iterator[tuple[str, str, str]]:
    for index, step in enumerate(steps):
        if step.agent_ref is not None:
            yield f"{at}[{index}].agentRef.name", "Agent", step.agent_ref.name
        if step.workflow is not None:
            name = step.workflow.template_ref.name
            yield f"{at}[{index}].workflow.templateRef.name", "WorkflowTemplate", name
        yield from _step_references(getattr(step, "steps", None) or [], f"{at}[{index}].steps")
