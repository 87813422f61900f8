"""What operator and worker say to each other about one attempt, on top of A2A 1.0.

An attempt is an A2A message whose ``messageId`` and ``taskId`` are the attempt id and whose
``contextId`` is the run id. What A2A has no word for travels in ``metadata`` under the
extension's URI, as the JSON of the models below. Numbers in metadata are text where they must be
exact, because protobuf's Struct turns 50 into 50.0.
"""

from typing import Annotated

from pydantic import Field

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.api.types import Resource

EXTENSION = "https://corral.dev/a2a/attempt/v1"
"""The A2A extension's URI, and the metadata key that holds its models."""

HEADER_WORKER_UID = "Corral-Worker-UID"
"""The pod UID that the caller means; a worker refuses another's."""
HEADER_EPOCH = "Corral-Epoch"
"""The leader's Lease epoch; a worker refuses one lower than the highest it has seen."""

HEADER_IDENTITY = "Corral-Worker-Identity"
"""In answers to verified calls: the token by which the worker shows which pod it is."""
WORKER_AUDIENCE = "corral.dev/operator"
"""Whom that token is for: it is worth nothing at the API server."""

ACK_PATH = "/corral/v1/ack"
INVENTORY_PATH = "/corral/v1/inventory"
DRAIN_PATH = "/corral/v1/drain"
HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"
WORKER_PORT = 8080

REFUSALS = {
    "WrongWorker": 421,
    "StaleEpoch": 412,
    "NoCapacity": 429,
    "Draining": 503,
    "RevisionMismatch": 409,
    "Tombstoned": 410,
    "Unauthorized": 401,
}
"""Why a worker refuses a call: the reason in the error body, and its HTTP status."""


class ToolDecision(Resource):
    """A person's word on a tool call that had to be approved."""

    call_id: str
    """The ``PendingCall.call_id`` that is meant."""
    approved: bool
    comment: str = ""
    """What the model is told of the reason for a rejection."""


class ToolInvocation(Resource):
    """A tool call without a model: what the attempt of a ``tool`` step does."""

    url: str
    """The MCP server, over streamable HTTP."""
    name: str
    arguments: str = "{}"
    """A JSON object as text."""


class AttemptRequest(Resource):
    """The extension's part of a message that starts (or attaches to) an attempt."""

    attempt_id: str
    effect_key: str
    """The attempt id without the attempt's number: the same for every retry."""
    agent_revision: str
    timeout_seconds: str
    max_output_bytes: str = "4194304"
    output_schema: str | None = None
    """A JSON Schema as compact JSON; replaces the Agent's own."""
    model_ref: str | None = None
    """The Model to ask instead of the Agent's own: one of its fallbacks."""
    fallbacks: list[str] | None = None
    """The Agent's Models that the attempt may move on to by itself; absent: all of them. Whoever
    leaves some out makes an attempt that begins with one of them, where its limits let it."""
    max_cost_usd: str | None = None
    """What the attempt may cost: no model call begins once it has cost that much."""
    max_tokens: str | None = None
    """Tokens, sent and received, that the attempt may use: no model call begins beyond them."""
    tool: ToolInvocation | None = None
    """Set for a tool call without a model; input and output schema are absent then."""
    conversation: str | None = None
    """Where an attempt before left off, as ``InputRequired.conversation`` said; goes on there."""
    decisions: list[ToolDecision] = Field(default_factory=list)
    """One for every pending call of ``conversation``."""
    traceparent: str | None = None
    """The attempt's span. If it is sampled the report tells of the calls; models and tools are
    told of their calls' spans in every case."""
    correlation_id: str | None = None


class ModelUsage(Resource):
    """What the calls to one model used. All counts are whole numbers as text."""

    model_ref: str
    provider: str
    model: str
    requests: str = "0"
    input_tokens: str = "0"
    output_tokens: str = "0"
    cached_input_tokens: str = "0"
    unanswered: str = "0"
    """Requests that ended without a word on their usage: timed out, cut off, cancelled."""
    simulated: bool = False
    answered: bool = False
    """Whether any request was answered, be it with a refusal of that request."""
    failures: str = "0"
    """Requests in a row, up to the last one, that the model failed: unavailable, limiting its rate,
    or without an answer when the attempt's time was over."""
    retry_after_seconds: str | None = None
    """How long the provider asked to be left alone, with its last answer."""


class ModelCallSpan(Resource):
    """One call to a model, as a trace shows it. Counts are whole numbers as text."""

    span_id: str
    """16 hexadecimal digits: ``span_id(attempt id, "call", ordinal)`` of ``corral.api.trace``."""
    started_at: str
    """Seconds since the epoch, to the microsecond, by the worker's clock."""
    seconds: str
    model_ref: str
    provider: str
    model: str
    response_model: str | None = None
    """The model that answered, as it calls itself."""
    response_id: str | None = None
    finish_reason: str | None = None
    input_tokens: str = "0"
    output_tokens: str = "0"
    cached_input_tokens: str = "0"
    simulated: bool = False
    unanswered: bool = False
    """Nobody knows what it used."""
    error_class: ErrorClass | None = None


class ToolCallSpan(Resource):
    """One call of a tool, as a trace shows it."""

    span_id: str
    """As a model call's; ordinals count both."""
    started_at: str
    seconds: str
    tool: str
    """As the server calls it."""
    entry: str
    """The Agent's entry that the tool belongs to; empty for a step's call."""
    call_id: str | None = None
    """The model's id of the call."""
    outcome: str
    """Answered, Failed or Unreachable."""


MAX_CALL_SPANS = 512
"""Of an attempt: the first ones are told of. What the others used is in the totals."""


class AttemptError(Resource):
    error_class: ErrorClass
    message: Annotated[str, Field(max_length=1024)]


class PendingCall(Resource):
    """A tool call that waits for a person's approval."""

    call_id: str
    tool: str
    """As the model calls it."""
    arguments: str = "{}"
    """A JSON object as text, keys sorted: an approval is bound to the tool and to these."""


class InputRequired(Resource):
    """Why an attempt ended without a result: a person has to approve tool calls first.

    The attempt is over, its worker free. Another attempt, on any worker, goes on from here.
    """

    conversation: str
    """What was said until now, as text that only workers read."""
    calls: list[PendingCall]


class AttemptReport(Resource):
    """The extension's part of a Task: how the attempt goes, what it used, why it failed."""

    attempt_id: str
    pod_uid: str
    agent_revision: str
    usage: list[ModelUsage] = Field(default_factory=list)
    error: AttemptError | None = None
    input_required: InputRequired | None = None
    """Set where the task's state is INPUT_REQUIRED."""
    duration_seconds: str = "0"
    started_at: str | None = None
    """Seconds since the epoch, to the microsecond, by the worker's clock."""
    traceparent: str | None = None
    """As the request had it: it tells the trace where nobody knows the run any more."""
    model_calls: list[ModelCallSpan] = Field(default_factory=list)
    """For the trace, if the request's is sampled."""
    tool_calls: list[ToolCallSpan] = Field(default_factory=list)


class InventoryEntry(Resource):
    attempt_id: str
    state: str
    """An A2A TaskState's name: SUBMITTED, WORKING, COMPLETED, FAILED, CANCELED, INPUT_REQUIRED."""
    elapsed_seconds: float


class Inventory(Resource):
    """What a worker holds: answered to GET on INVENTORY_PATH."""

    pod_uid: str
    epoch: int
    draining: bool
    free: int
    """How many more attempts it would start now."""
    attempts: list[InventoryEntry] = Field(default_factory=list)
    """Running and finished but not yet acknowledged ones."""
    problem: str | None = None
    """Why the worker is not ready, in a sentence for a person (a key that is not mounted, …)."""


class Ack(Resource):
    """The body of POST on ACK_PATH: results that are committed and need not be kept."""

    attempt_ids: list[str]
    booked: bool = True
    """False while the ledger is away: outputs need not be kept, what was used still must be."""


class OperatorIdentity(Resource):
    """Whose tokens a worker accepts: JWTs of this issuer and subject, audience = the pod's UID."""

    issuer: str
    subject: str
    jwks: dict[str, object]


class WorkerConfig(Resource):
    """Everything that a worker pod knows, mounted as one file by the downward API."""

    namespace: str
    agent_name: str
    agent: AgentSpec
    agent_revision: str
    models: dict[str, ModelSpec]
    """By the Model object's name: the agent's model and its fallbacks."""
    concurrency: int
    drain_timeout_seconds: float
    operator: OperatorIdentity


CONFIG_FILE = "/etc/corral/worker/config.json"
KEYS_DIR = "/etc/corral/keys"
"""``<KEYS_DIR>/<Model's name>/key`` holds a Model's API key; read at every call."""
HEADERS_DIR = "/etc/corral/headers"
"""``<HEADERS_DIR>/<tool's name>/<header's name>`` holds the value of a header for a tool's MCP
server; read at every connection."""

IDENTITY_FILE = "/etc/corral/identity/token"
"""The pod's token for ``WORKER_AUDIENCE``; the kubelet renews it."""

META_EFFECT_KEY = "corral.dev/effect-key"
"""In a tool call's ``_meta``: ``<effect key>/<tool>/<hash of the arguments>/<ordinal>``. Every
retry of the call carries the same, so that a server can tell one effect from two."""
META_ATTEMPT_ID = "corral.dev/attempt-id"
META_CORRELATION_ID = "corral.dev/correlation-id"
