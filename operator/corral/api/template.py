"""``WorkflowTemplate``: a graph of steps that Workflows, steps and crons run by its name."""

from corral.api.types import JsonSchema
from corral.api.workflow import Graph, WorkflowBounds


class TemplateSpec(WorkflowBounds):
    """What every run of the template does."""

    parameters: JsonSchema | None = None
    """A JSON Schema of type object that arguments must satisfy; its defaults are applied. Absent:
    any arguments will do."""
    steps: Graph
    """The graph: every step is listed after those that it depends on."""
