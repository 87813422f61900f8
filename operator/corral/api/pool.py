"""``AgentPool``: the warm workers of one Agent."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from corral.api.types import Condition, Duration, LocalRef, Resource, rules


def _number_as_text(value: Any) -> Any:
    """``cpu: 2`` in a manifest is a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64)]
Quantity = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0},
    ),
    BeforeValidator(_number_as_text),
]
"""A Kubernetes quantity such as ``500m`` or ``1Gi``."""


class Autoscaling(Resource):
    """Lets the operator decide the number of workers from queued and running steps."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be more than maxReplicas",
            )
        )
    )

    min_replicas: Annotated[int, Field(ge=0, le=10_000)] = 0
    """The fewest workers; 0 lets an idle pool go."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """The most workers."""
    target_steps_per_replica: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Queued and running steps per worker to aim for; absent: the pool's concurrency."""
    scale_down_stabilization: Duration = "60s"
    """How long fewer workers must suffice before there are fewer."""


class RolloutStrategy(Resource):
    """How workers are replaced when the agent changes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.maxSurge > 0 || self.maxUnavailable > 0",
                "maxSurge and maxUnavailable must not both be 0: no worker could be replaced",
            )
        )
    )

    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers there may be beyond the wanted number."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """Workers that may be missing from the wanted number."""


class ResourceRequirements(Resource):
    """The compute resources of a worker."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What a worker is guaranteed."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    """What a worker may use at most."""


class Toleration(Resource):
    """A node taint that workers put up with."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """The taint's key; absent with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """Whether the value counts; absent: Equal."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent: every effect."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is put up with; absent: for ever."""


class EnvVar(Resource):
    """An environment variable with a literal value."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """The variable's name."""
    value: Annotated[str, Field(max_length=32768)] = ""
    """The variable's value."""


class ImagePullSecret(Resource):
    """Names a Secret with which the worker's image is pulled."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The Secret's name."""


class PodTemplate(Resource):
    """The part of a pod that a user may shape: no service account, host access or secrets."""

    labels: Labels | None = None
    """More labels of the worker pods."""
    annotations: (
        Annotated[dict[str, Annotated[str, Field(max_length=16384)]], Field(max_length=64)] | None
    ) = None
    """More annotations of the worker pods."""
    resources: ResourceRequirements | None = None
    """Requests and limits of a worker."""
    node_selector: Labels | None = None
    """Labels of the nodes that workers may run on."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Node taints that workers put up with."""
    affinity: dict[str, object] | None = None
    """Where workers run, near or far from what, as in a pod."""
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = None
    """More environment variables of the workers."""
    image_pull_secrets: Annotated[list[ImagePullSecret], Field(max_length=16)] | None = None
    """Secrets with which the worker's image is pulled."""


class PoolSpec(Resource):
    """How many workers an Agent has, and what they look like."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.autoscaling) || !has(oldSelf.autoscaling)"
                " || self.replicas == oldSelf.replicas",
                "replicas can't change while autoscaling is set: change minReplicas or"
                " maxReplicas, or remove autoscaling",
            )
        )
    )

    agent_ref: Annotated[
        LocalRef,
        Field(
            json_schema_extra=rules(
                ("self == oldSelf", "agentRef can't change: make another AgentPool")
            )
        ),
    ]
    """The Agent that the workers serve. It can't change."""
    replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    """The number of workers, unless autoscaling is set."""
    autoscaling: Autoscaling | None = None
    """Lets the operator decide the number of workers."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Steps that one worker runs at once."""
    drain_timeout: Duration = "2m"
    """How long a worker may finish its steps before it is stopped."""
    on_worker_lost: Literal["Retry", "Wait", "Fail"] = "Retry"
    """What becomes of the steps of a worker that has not answered for a minute and whose node
    Kubernetes calls unreachable: they may still run there. Retry: they are tried again on another
    worker, and may overlap. Wait: for the worker, until it comes back or is certainly gone. Fail:
    they fail with WorkerLost."""
    strategy: RolloutStrategy = Field(default_factory=RolloutStrategy)
    """How workers are replaced when the agent changes."""
    template: PodTemplate = Field(default_factory=PodTemplate)
    """What the worker pods look like."""


class PoolStatus(Resource):
    """What the operator knows about the pool."""

    observed_generation: int | None = None
    """The generation of the spec that this status describes."""
    replicas: int = 0
    """Workers there are."""
    ready_replicas: int = 0
    """Workers that take steps, of whatever revision."""
    updated_replicas: int = 0
    """Workers of the newest revision."""
    busy_replicas: int = 0
    """Workers that run a step."""
    queued_steps: int = 0
    """Steps that wait for a worker; where an Agent has several pools, this one's part."""
    running_steps: int = 0
    """Steps that run."""
    desired_replicas: int = 0
    """Workers there should be."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """The label selector of the workers, for the scale subresource."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Ready, Reconciling and Stalled."""
