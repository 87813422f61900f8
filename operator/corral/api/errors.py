"""Error classes and condition reasons: the words that people and machines match on."""

from enum import StrEnum


class ErrorClass(StrEnum):
    """Why an attempt failed; used in ``retryStrategy.onErrors``, rows and metrics."""

    TIMEOUT = "Timeout"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    RATE_LIMITED = "RateLimited"
    INVALID_OUTPUT = "InvalidOutput"
    TOOL_FAILED = "ToolFailed"
    WORKER_LOST = "WorkerLost"
    NO_CAPACITY = "NoCapacity"
    AUTH = "Auth"
    QUOTA = "Quota"
    BUDGET = "Budget"
    REJECTED = "Rejected"
    INTERNAL = "Internal"


INFRASTRUCTURE = frozenset(
    {ErrorClass.WORKER_LOST, ErrorClass.NO_CAPACITY, ErrorClass.RATE_LIMITED}
)
"""Losses that are not the step's fault: not counted against ``retryStrategy.limit``."""

FALLBACK_ERRORS = frozenset(
    {ErrorClass.MODEL_UNAVAILABLE, ErrorClass.RATE_LIMITED, ErrorClass.BUDGET}
)
"""The errors of a fallback that names none. Budget is the Agent's budget, which the operator
minds: it then starts an attempt at the fallback."""

OF_MODELS = frozenset(
    {
        ErrorClass.MODEL_UNAVAILABLE,
        ErrorClass.RATE_LIMITED,
        ErrorClass.INVALID_OUTPUT,
        ErrorClass.AUTH,
        ErrorClass.QUOTA,
        ErrorClass.REJECTED,
    }
)
"""What another Model may do better."""

NEVER_RETRIED = frozenset({ErrorClass.AUTH, ErrorClass.QUOTA, ErrorClass.BUDGET})


class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    FINISHED = "Finished"
    SUCCEEDED = "Succeeded"
    SUSPENDED = "Suspended"
    DEGRADED = "Degraded"
    BUDGET_AVAILABLE = "BudgetAvailable"


class Reason(StrEnum):
    """Reasons of conditions, and of Events of the same name."""

    PROGRESSING = "Progressing"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    INVALID_SPEC = "InvalidSpec"
    NOT_SUPPORTED = "NotSupported"
    AGENT_NOT_FOUND = "AgentNotFound"
    MODEL_NOT_FOUND = "ModelNotFound"
    POOL_NOT_FOUND = "PoolNotFound"
    POD_FAILED = "PodFailed"
    SCALING = "Scaling"
    ROLLING_OUT = "RollingOut"
    READY = "Ready"
    TOLERATED_FAILURES = "ToleratedFailures"
    TOO_LARGE = "TooLarge"
    BUDGET_EXCEEDED = "BudgetExceeded"
    BUDGET_AVAILABLE = "BudgetAvailable"
    APPROVAL_PENDING = "ApprovalPending"
    TEMPLATE_NOT_FOUND = "TemplateNotFound"
    WORKFLOW_NOT_FOUND = "WorkflowNotFound"
    PRIORITY_CLASS_NOT_FOUND = "PriorityClassNotFound"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    ARTIFACTS_UNAVAILABLE = "ArtifactsUnavailable"
    NO_CAPACITY = "NoCapacity"
    MODEL_LIMITED = "ModelLimited"
    CIRCUIT_CLOSED = "CircuitClosed"
    CIRCUIT_OPEN = "CircuitOpen"
    CIRCUIT_HALF_OPEN = "CircuitHalfOpen"
