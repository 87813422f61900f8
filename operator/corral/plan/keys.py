"""What objects are called by: a namespace and a name in it."""

AgentKey = tuple[str, str]
"""(namespace, Agent's name)."""
ModelKey = tuple[str, str]
"""(namespace, Model's name)."""
WorkflowKey = tuple[str, str]
"""(namespace, Workflow's name)."""
