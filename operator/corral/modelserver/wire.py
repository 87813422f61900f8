"""OpenAI's JSON: completions, stream chunks, errors."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from corral.modelserver.answers import Answer, ChatRequest

FINGERPRINT = "simulated"
_CHUNK = 24
_numbers = itertools.count(1)


def completion(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.tool_calls:
        message["tool_calls"] = _tool_calls(answer)
    return {
        **_head(request, "chat.completion"),
        "choices": [
            {"index": 0, "message": message, "finish_reason": _reason(answer), "logprobs": None}
        ],
        "usage": _usage(answer),
    }


def chunks(request: ChatRequest, answer: Answer) -> Iterator[bytes]:
    """The server-sent events of a streamed answer."""
    head = _head(request, "chat.completion.chunk")

    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _event({**head, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    text = answer.text or ""
    for start in range(0, len(text), _CHUNK):
        yield event({"content": text[start : start + _CHUNK]})
    for index, call in enumerate(_tool_calls(answer)):
        yield event({"tool_calls": [{"index": index, **call}]})
    yield event({}, _reason(answer))
    if request.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-simulated-{next(_numbers)}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "system_fingerprint": FINGERPRINT,
    }


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _tool_calls(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{next(_numbers)}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for name, arguments in answer.tool_calls
    ]


def _reason(answer: Answer) -> str:
    return "tool_calls" if answer.tool_calls else "stop"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
