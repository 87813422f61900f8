"""What a CRD says beside the schema: names, columns, subresources, rules on the object's name."""

from dataclasses import dataclass

from corral.api.agent import AgentSpec, AgentStatus
from corral.api.approval import ApprovalRequestSpec
from corral.api.cron import CronSpec, CronStatus
from corral.api.model import ModelSpec, ModelStatus
from corral.api.pool import PoolSpec, PoolStatus
from corral.api.template import TemplateSpec
from corral.api.types import Resource
from corral.api.workflow import WorkflowSpec, WorkflowStatus

GROUP = "corral.dev"
VERSION = "v1alpha1"
CATEGORY = "corral"


@dataclass(frozen=True)
class Column:
    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Only shown by ``kubectl get -o wide``."""
    description: str = ""


@dataclass(frozen=True)
class Kind:
    name: str
    plural: str
    short: str
    description: str
    spec: type[Resource]
    status: type[Resource] | None
    """None: nothing happens to such an object, so there is nothing to say of it."""
    columns: tuple[Column, ...]
    rules: tuple[tuple[str, str], ...]
    scale: bool = False
    phase: str | None = None
    """The phase of what no operator has looked at."""

    @property
    def singular(self) -> str:
        return self.name.lower()


AGE = Column("Age", ".metadata.creationTimestamp", "date")
READY = '.status.conditions[?(@.type=="Ready")]'


def name_rule(length: int) -> tuple[str, str]:
    return (
        f"size(self.metadata.name) <= {length} && !self.metadata.name.contains('.')",
        f"metadata.name must have at most {length} characters and no dot",
    )


KINDS = (
    Kind(
        name="Model",
        plural="models",
        short="cmodel",
        description="Who is called, with what key, within which limits. Owned by admins: "
        "who may create a Model decides where keys go.",
        spec=ModelSpec,
        status=ModelStatus,
        columns=(
            Column("Provider", ".spec.provider"),
            Column("Model", ".spec.name"),
            Column("Circuit", ".status.circuit"),
            AGE,
        ),
        rules=(name_rule(63),),
    ),
    Kind(
        name="Agent",
        plural="agents",
        short="cagent",
        description="Who does the work: instructions, a model, tools and limits.",
        spec=AgentSpec,
        status=AgentStatus,
        columns=(
            Column("Ready", READY + ".status"),
            Column("Model", ".spec.modelRef.name"),
            Column("Cost", ".status.usage.costUSD", description="In US dollars."),
            AGE,
            Column("Type", ".spec.type", wide=True),
            Column("Message", READY + ".message", wide=True),
        ),
        rules=(name_rule(63),),
    ),
    Kind(
        name="AgentPool",
        plural="agentpools",
        short="cpool",
        description="The warm workers of one Agent.",
        spec=PoolSpec,
        status=PoolStatus,
        columns=(
            Column("Ready", ".status.readyReplicas", "integer", description="Workers."),
            Column("Busy", ".status.busyReplicas", "integer", description="Workers with steps."),
            Column("Queued", ".status.queuedSteps", "integer", description="Waiting steps."),
            Column("Desired", ".status.desiredReplicas", "integer", description="Workers."),
            AGE,
            Column("Agent", ".spec.agentRef.name", wide=True),
            Column("Running", ".status.runningSteps", "integer", wide=True, description="Steps."),
        ),
        rules=(name_rule(52),),
        scale=True,
    ),
    Kind(
        name="Workflow",
        plural="workflows",
        short="cwf",
        description="One run of a graph of steps. Once started, only suspend, shutdown, "
        "parallelism, budget, deadlines, ttlAfterFinished and priority can change.",
        spec=WorkflowSpec,
        status=WorkflowStatus,
        phase="Pending",
        columns=(
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.progress"),
            Column("Cost", ".status.usage.costUSD", description="In US dollars."),
            AGE,
            Column("Tokens", ".status.usage.totalTokens", "integer", wide=True),
            Column("Message", ".status.message", wide=True),
        ),
        rules=(name_rule(63),),
    ),
    Kind(
        name="WorkflowTemplate",
        plural="workflowtemplates",
        short="cwft",
        description="A graph of steps that Workflows, steps and crons run by its name. Nothing "
        "runs by itself, and what runs already is not changed by an edit.",
        spec=TemplateSpec,
        status=None,
        columns=(AGE,),
        rules=(name_rule(63),),
    ),
    Kind(
        name="CronWorkflow",
        plural="cronworkflows",
        short="ccron",
        description="Makes a Workflow by the clock, named after this object and the scheduled "
        "minute.",
        spec=CronSpec,
        status=CronStatus,
        columns=(
            Column("Schedule", ".spec.schedule"),
            Column("Zone", ".spec.timeZone"),
            Column("Suspended", ".spec.suspend", "boolean"),
            Column("Last", ".status.lastScheduleTime", "date"),
            Column("Next", ".status.nextScheduleTime"),
            AGE,
            Column("Missed", ".status.missed", "integer", wide=True),
            Column("Message", READY + ".message", wide=True),
        ),
        rules=(name_rule(52),),
    ),
    Kind(
        name="ApprovalRequest",
        plural="approvalrequests",
        short="capproval",
        description="A run's question to people. The run makes it; somebody whom it names sets "
        "decision, once. Nothing else of it ever changes.",
        spec=ApprovalRequestSpec,
        status=None,
        columns=(
            Column("Workflow", ".spec.workflowRef.name"),
            Column("Step", ".spec.step"),
            Column("Verdict", ".spec.decision.verdict"),
            Column("By", ".spec.decision.by"),
            AGE,
            Column("Prompt", ".spec.prompt", wide=True),
        ),
        rules=(name_rule(63),),
    ),
)
