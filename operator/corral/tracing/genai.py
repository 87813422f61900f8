"""The names that spans use: OpenTelemetry's conventions for generative AI, and corral's own.

The conventions are in development: here is the one place that knows them.
https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as _gen_ai
from opentelemetry.semconv._incubating.attributes import k8s_attributes as _k8s
from opentelemetry.semconv._incubating.attributes import service_attributes as _service
from opentelemetry.semconv.attributes import error_attributes as _error

INVOKE_WORKFLOW = _gen_ai.GenAiOperationNameValues.INVOKE_WORKFLOW.value
INVOKE_AGENT = _gen_ai.GenAiOperationNameValues.INVOKE_AGENT.value
CHAT = _gen_ai.GenAiOperationNameValues.CHAT.value
EXECUTE_TOOL = _gen_ai.GenAiOperationNameValues.EXECUTE_TOOL.value

OPERATION = _gen_ai.GEN_AI_OPERATION_NAME
PROVIDER = _gen_ai.GEN_AI_PROVIDER_NAME
WORKFLOW = _gen_ai.GEN_AI_WORKFLOW_NAME
AGENT = _gen_ai.GEN_AI_AGENT_NAME
CONVERSATION = _gen_ai.GEN_AI_CONVERSATION_ID
REQUEST_MODEL = _gen_ai.GEN_AI_REQUEST_MODEL
RESPONSE_MODEL = _gen_ai.GEN_AI_RESPONSE_MODEL
RESPONSE_ID = _gen_ai.GEN_AI_RESPONSE_ID
FINISH_REASONS = _gen_ai.GEN_AI_RESPONSE_FINISH_REASONS
INPUT_TOKENS = _gen_ai.GEN_AI_USAGE_INPUT_TOKENS
OUTPUT_TOKENS = _gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS
CACHED_INPUT_TOKENS = _gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS
TOOL = _gen_ai.GEN_AI_TOOL_NAME
TOOL_CALL_ID = _gen_ai.GEN_AI_TOOL_CALL_ID
TOOL_TYPE = _gen_ai.GEN_AI_TOOL_TYPE
ERROR_TYPE = _error.ERROR_TYPE

SERVICE_NAME = "service.name"
SERVICE_INSTANCE = _service.SERVICE_INSTANCE_ID
NAMESPACE = _k8s.K8S_NAMESPACE_NAME
POD = _k8s.K8S_POD_NAME
POD_UID = _k8s.K8S_POD_UID

COST = "corral.cost.usd"
"""A double: what has no price has none, which is not 0."""
UNPRICED = "corral.cost.unpriced_requests"
SIMULATED = "corral.simulated"
MODEL_REF = "corral.model"
"""The Model object's name."""
RUN_ID = "corral.run.id"
CORRELATION_ID = "corral.correlation_id"
STEP = "corral.step"
ITEM = "corral.step.item"
ITERATION = "corral.step.iteration"
ATTEMPT = "corral.attempt"
ATTEMPT_ID = "corral.attempt.id"
PHASE = "corral.phase"
OUTCOME = "corral.outcome"
"""Of an attempt: Succeeded, InputRequired, or the class of the error. Of a tool call: Answered,
Failed or Unreachable."""
RETRY_REASON = "corral.retry.reason"
"""Of a link: why there is another attempt."""
UNTOLD_REQUESTS = "corral.untold_requests"
"""Of a span that stands for calls which have none of their own: how many."""
TOOL_ENTRY = "corral.tool.entry"
"""The Agent's entry that a tool belongs to."""
CHILD = "corral.step.child"
"""The Workflow that does the step."""
ITEMS = "corral.step.items"
MEMOIZED = "corral.step.memoized"
