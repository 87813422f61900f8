"""``AgentPool``: the warm workers of one Agent."""

from typing import Annotated, Literal

from pydantic import Field

from corral.api.types import Condition, Duration, LocalRef, Resource

LabelValue = Annotated[str, Field(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64)]
Quantity = Annotated[str, Field(max_length=32)]


class Autoscaling(Resource):
    min_replicas: Annotated[int, Field(ge=0, le=10_000)] = 0
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    target_steps_per_replica: Annotated[int, Field(ge=1, le=10_000)] | None = None
    scale_down_stabilization: Duration = "60s"


class RolloutStrategy(Resource):
    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0


class ResourceRequirements(Resource):
    requests: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] | None = None


class Toleration(Resource):
    key: Annotated[str, Field(max_length=316)] | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: Annotated[str, Field(max_length=63)] | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class EnvVar(Resource):
    name: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: Annotated[str, Field(max_length=32768)] = ""


class ImagePullSecret(Resource):
    name: Annotated[str, Field(min_length=1, max_length=253)]


class PodTemplate(Resource):
    """The part of a pod that a user may shape: no service account, host access or secrets."""

    labels: Labels | None = None
    annotations: (
        Annotated[dict[str, Annotated[str, Field(max_length=16384)]], Field(max_length=64)] | None
    ) = None
    resources: ResourceRequirements | None = None
    node_selector: Labels | None = None
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    affinity: dict[str, object] | None = None
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = None
    image_pull_secrets: Annotated[list[ImagePullSecret], Field(max_length=16)] | None = None


class PoolSpec(Resource):
    agent_ref: LocalRef
    replicas: Annotated[int, Field(ge=0, le=10_000)] = 1
    autoscaling: Autoscaling | None = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    drain_timeout: Duration = "2m"
    strategy: RolloutStrategy = Field(default_factory=RolloutStrategy)
    template: PodTemplate = Field(default_factory=PodTemplate)


class PoolStatus(Resource):
    observed_generation: int | None = None
    replicas: int = 0
    ready_replicas: int = 0
    busy_replicas: int = 0
    queued_steps: int = 0
    running_steps: int = 0
    desired_replicas: int = 0
    selector: Annotated[str, Field(max_length=1024)] = ""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
