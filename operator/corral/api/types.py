"""Field types that several resources share: names, durations, money, JSON.

Every string and list is bounded: the API server refuses CEL rules whose worst-case cost it cannot
estimate, and an unbounded field is an attack on etcd.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

ACRONYMS = {"id": "ID", "url": "URL", "usd": "USD", "uid": "UID"}


def to_field_name(snake: str) -> str:
    """``max_cost_usd`` to ``maxCostUSD``: Kubernetes' camelCase, which keeps acronyms whole."""
    first, *rest = snake.rstrip("_").split("_")
    return first + "".join(ACRONYMS.get(word, word.capitalize()) for word in rest)


class Resource(BaseModel):
    """The base of everything that is read from manifests or from the API server.

    Unknown fields are kept and written back, so that an older operator survives a newer CRD.
    Authors' files are read with ``model_validate(data, extra="forbid")`` instead.
    """

    model_config = ConfigDict(
        alias_generator=to_field_name,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="allow",
    )

    def to_json(self) -> dict[str, Any]:
        """The JSON form with unset fields left out, as the API server expects it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


GEP2257 = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_DURATION_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_DURATION_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def seconds(duration: str) -> float:
    """The length of a GEP-2257 duration (``1h30m``, ``90s``, ``250ms``) in seconds.

    Raises:
        ValueError: the text is not of that form.
    """
    if not re.fullmatch(GEP2257, duration):
        raise ValueError(f"{duration!r} is not a duration such as 90s, 5m or 1h30m (GEP-2257)")
    return sum(float(n) * _DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(duration))


def _positive_duration(value: str) -> str:
    if seconds(value) <= 0:
        raise ValueError("must be longer than zero")
    return value


def _positive_money(value: str) -> str:
    if Decimal(value) <= 0:
        raise ValueError("must be more than zero")
    return value


def rules(*given: tuple[str, str] | tuple[str, str, str]) -> dict[str, Any]:
    """Admission rules for a class or a field: a CEL condition, a message, and a CEL message.

    The generated CRD carries them; they cost nothing at run time. The CEL message, where there is
    one, is what people see; the other is for the reference, and for when the CEL one fails.
    """
    words = ("rule", "message", "messageExpression")
    found = [dict(zip(words, parts, strict=False)) for parts in given]
    return {"x-kubernetes-validations": found}


def bounded(length: int, **extra: Any) -> Any:
    """A string field of at most ``length`` characters."""
    return Field(max_length=length, **extra)


Name = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
]
StepName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z][a-zA-Z0-9_]{0,62}$")]
ErrorMessage = Annotated[str, Field(max_length=1024)]
ZeroDuration = Annotated[str, Field(max_length=24, pattern=GEP2257)]
"""A GEP-2257 duration that may be zero."""
Duration = Annotated[
    str,
    Field(
        max_length=24,
        pattern=GEP2257,
        json_schema_extra=rules(("duration(self) > duration('0s')", "must be longer than zero")),
    ),
    AfterValidator(_positive_duration),
]
"""A GEP-2257 duration longer than zero."""
MONEY = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"
Money = Annotated[str, Field(max_length=16, pattern=MONEY)]
"""US dollars as a decimal string, to a millionth."""
PositiveMoney = Annotated[
    str,
    Field(
        max_length=16,
        pattern=MONEY,
        json_schema_extra=rules(
            ("quantity(self).isGreaterThan(quantity('0'))", "must be more than zero")
        ),
    ),
    AfterValidator(_positive_money),
]
DecimalText = Annotated[str, Field(max_length=16, pattern=r"^[0-9]{1,4}(\.[0-9]{1,6})?$")]
"""A decimal number as text: the API has no floats."""
Percent = Annotated[int, Field(ge=0, le=100)]
Text = Annotated[str, Field(max_length=65536)]
"""Instructions, prompts, templates."""
Expression = Annotated[str, Field(min_length=1, max_length=4096)]
"""Bare CEL."""
Template = Annotated[str, Field(max_length=65536)]
"""Text with ``$( CEL )`` in it."""
JsonObject = dict[str, JsonValue]
JsonSchema = dict[str, JsonValue]
"""A JSON Schema (draft 2020-12) as an object."""


Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC."""
CostText = Annotated[str, Field(max_length=32)]
"""US dollars as a decimal string, as the operator writes them."""


class LocalRef(Resource):
    """Names an object of the same namespace."""

    name: Name
    """The object's name."""


class SecretKeyRef(Resource):
    """Names a key of a Secret of the same namespace; only the kubelet reads it."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The Secret's name."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """The key within the Secret."""


class ConfigMapKeyRef(Resource):
    """Names a key of a ConfigMap of the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The ConfigMap's name."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """The key within the ConfigMap."""


class Approver(Resource):
    """Who may decide."""

    kind: Literal["User", "Group"]
    """Whether name is a user's or a group's."""
    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The name, as the API server knows it."""


class Condition(Resource):
    """One aspect of an object's state, in the form that all of Kubernetes uses."""

    type: Annotated[str, Field(max_length=316)]
    """What the condition is about, for example Ready or Finished."""
    status: Annotated[str, Field(json_schema_extra={"enum": ["True", "False", "Unknown"]})]
    """True, False or Unknown."""
    observed_generation: int | None = None
    """The generation of the spec that the condition was decided for."""
    last_transition_time: Timestamp
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """One word that says why, for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """A sentence that says why, for people."""


class Usage(Resource):
    """What model calls used. ``costUSD`` is absent when nothing of it had a price."""

    requests: int = 0
    """Model calls."""
    input_tokens: int = 0
    """Tokens sent."""
    output_tokens: int = 0
    """Tokens received."""
    total_tokens: int = 0
    """Both together."""
    cost_usd: CostText | None = None
    """What the priced calls cost, in US dollars."""
    unpriced_requests: int = 0
    """Calls to models without a known price: their cost is unknown, not zero."""
    simulated_requests: int = 0
    """Calls that a simulated model answered."""
