"""From a chat completions request to the message that answers it."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from corral.modelserver.instance import smallest_instance
from corral.modelserver.rules import Rule

_ECHO_LENGTH = 200


@dataclass(frozen=True)
class ChatRequest:
    """What of a request matters here."""

    model: str
    messages: list[dict[str, Any]]
    tools: dict[str, dict[str, Any]]
    """The parameters' schema by the function's name."""
    forced_tool: str | None
    """The tool that must be called, if one must."""
    schema: dict[str, Any] | None
    """Of ``response_format: json_schema``."""
    json_object: bool
    stream: bool
    include_usage: bool

    @property
    def conversation(self) -> str:
        """The text of all messages."""
        return "\n".join(_text(message) for message in self.messages)

    @property
    def last_user(self) -> str:
        """The text of the last user message."""
        users = [message for message in self.messages if message.get("role") == "user"]
        return _text(users[-1]) if users else ""

    @property
    def has_tool_result(self) -> bool:
        """Whether a tool has answered since the last user message."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return False
            if message.get("role") == "tool":
                return True
        return False


@dataclass(frozen=True)
class Answer:
    """An assistant's message and what it counts."""

    text: str | None
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    """Names, and arguments as JSON."""
    input_tokens: int = 0
    output_tokens: int = 0


def read_request(body: Any) -> ChatRequest:
    """Reads a request's JSON.

    Raises:
        ValueError: it is not a chat completions request; the message says why.
    """
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ValueError("model is missing")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages is missing or empty")
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError("messages must be objects")
    tools = {
        tool["function"]["name"]: tool["function"].get("parameters", {})
        for tool in body.get("tools") or []
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    }
    response_format = body.get("response_format") or {}
    schema = response_format.get("json_schema", {}).get("schema")
    return ChatRequest(
        model=body["model"],
        messages=messages,
        tools=tools,
        forced_tool=_forced_tool(body.get("tool_choice"), tools),
        schema=schema,
        json_object=response_format.get("type") == "json_object",
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def answer(request: ChatRequest, rule: Rule | None) -> Answer:
    """What the rule says, in the form that was asked for; a sensible default without a rule."""
    rule = rule or Rule()
    text, calls = _content(request, rule)
    written = (text or "") + "".join(name + arguments for name, arguments in calls)
    return Answer(
        text=text,
        tool_calls=calls,
        input_tokens=_or(rule.input_tokens, tokens(request.conversation)),
        output_tokens=_or(rule.output_tokens, tokens(written)),
    )


def tokens(text: str) -> int:
    """A rough count: four characters a token, at least one."""
    return max(1, math.ceil(len(text) / 4))


def _content(request: ChatRequest, rule: Rule) -> tuple[str | None, list[tuple[str, str]]]:
    if rule.tool_calls and (rule.repeat_tool_calls or not request.has_tool_result):
        return None, [(call.name, _json(call.arguments)) for call in rule.tool_calls]
    if request.forced_tool is not None:
        parameters = request.tools[request.forced_tool]
        if rule.has_json:
            value = rule.json_
        elif rule.reply is not None:
            try:
                value = json.loads(rule.reply)
            except ValueError:
                return rule.reply, []
        else:
            value = smallest_instance(parameters)
        return None, [(request.forced_tool, _json(_as_arguments(value, parameters)))]
    if rule.has_json:
        return _json(rule.json_), []
    if rule.reply is not None:
        return rule.reply, []
    if request.schema is not None:
        return _json(smallest_instance(request.schema)), []
    echo = " ".join(request.last_user.split())[:_ECHO_LENGTH]
    summary = f"A simulated answer to: {echo}"
    return (_json({"answer": summary}) if request.json_object else summary), []


def _as_arguments(value: Any, parameters: dict[str, Any]) -> Any:
    """Arguments are objects: another value goes into the only property that is required."""
    required = parameters.get("required", [])
    if isinstance(value, dict) or len(required) != 1:
        return value
    return {required[0]: value}


def _forced_tool(choice: Any, tools: dict[str, Any]) -> str | None:
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        return name if name in tools else None
    if choice == "required" and tools:
        return list(tools)[-1]
    return None


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _or(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given
