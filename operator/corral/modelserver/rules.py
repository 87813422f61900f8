"""What the server is told to answer: rules, in order, and rates of faults."""

import re
from enum import StrEnum
from typing import Annotated, Self

import yaml
from pydantic import Field, JsonValue, PrivateAttr, model_validator

from corral.api.types import JsonObject, Percent, Resource, ZeroDuration


class Fault(StrEnum):
    """How a request can go wrong."""

    RATE_LIMIT = "RateLimit"
    QUOTA = "Quota"
    SERVER_ERROR = "ServerError"
    GARBAGE = "Garbage"
    HANG = "Hang"
    DROP = "Drop"


class ToolCall(Resource):
    """A tool call that the model asks for."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    arguments: JsonObject = Field(default_factory=dict)


class Rule(Resource):
    """The answer to requests that match. With no answer in it, the default answer is given."""

    match: str = ""
    """An unanchored regular expression; empty matches everything."""
    search: Annotated[str, Field(pattern=r"^(lastUser|conversation)$")] = "lastUser"
    """What is searched: the last user message, or the text of all messages."""
    model: str | None = None
    """Only requests for this model."""
    times: Annotated[int, Field(ge=1)] | None = None
    """Only so many times, then the next rules are tried."""
    reply: str | None = None
    json_: JsonValue = Field(default=None, alias="json")
    tool_calls: list[ToolCall] | None = None
    """Asked for until the conversation holds a tool's result; then ``reply`` or ``json``."""
    repeat_tool_calls: bool = False
    """Asks for them at every request, after results too; ``times`` is what ends it."""
    fault: Fault | None = None
    latency: ZeroDuration | None = None
    input_tokens: Annotated[int, Field(ge=0)] | None = None
    output_tokens: Annotated[int, Field(ge=0)] | None = None

    _pattern: re.Pattern[str] = PrivateAttr()

    @model_validator(mode="after")
    def _compile(self) -> Self:
        try:
            self._pattern = re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is not a regular expression: {error}") from None
        return self

    def found_in(self, text: str) -> bool:
        """Whether ``match`` is found in the text."""
        return self._pattern.search(text) is not None

    @property
    def has_json(self) -> bool:
        """Whether ``json`` was given, null included."""
        return "json_" in self.model_fields_set


class Faults(Resource):
    """Percentages of requests that go wrong; drawn one after the other in this order."""

    rate_limit_percent: Percent = 0
    server_error_percent: Percent = 0
    garbage_percent: Percent = 0
    hang_percent: Percent = 0
    drop_percent: Percent = 0
    retry_after_seconds: Annotated[int, Field(ge=0)] = 1

    def rates(self) -> list[tuple[Fault, int]]:
        """The faults with their percentages."""
        return [
            (Fault.RATE_LIMIT, self.rate_limit_percent),
            (Fault.SERVER_ERROR, self.server_error_percent),
            (Fault.GARBAGE, self.garbage_percent),
            (Fault.HANG, self.hang_percent),
            (Fault.DROP, self.drop_percent),
        ]


class RuleSet(Resource):
    """Everything a rules file says. The first rule that matches answers."""

    rules: list[Rule] = Field(default_factory=list)
    faults: Faults = Field(default_factory=Faults)
    latency: ZeroDuration = "0s"
    seed: int = 1
    models: list[str] = Field(default_factory=lambda: ["simulated"])
    """What GET /v1/models lists; any name is served."""


def read_rules(text: str | bytes) -> RuleSet:
    """A rule set from YAML or JSON; a bare list is the rules.

    Raises:
        ValueError: it is neither, or has unknown or wrong fields.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the rules are neither YAML nor JSON: {error}") from None
    if isinstance(data, list):
        data = {"rules": data}
    return RuleSet.model_validate(data or {}, extra="forbid")
