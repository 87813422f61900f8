"""Where traces are kept: a store with a query API, or a file of OTLP JSON."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
from opentelemetry.util.re import parse_env_headers

from corral.cli.errors import CliError, Exit
from corral.cli.manifests import STDIN
from corral.tracing.otlp_json import OtlpError, read
from corral.tracing.span import Span

HEADERS = "CORRAL_TRACE_STORE_HEADERS"
"""The variable with headers for a store, in the form of OTEL_EXPORTER_OTLP_HEADERS."""
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PATHS = ("api/v3/traces/", "api/v2/traces/", "api/traces/")
"""Jaeger's third, and Tempo's second and first."""
_SHOWN = 8


def load(store: str, trace_id: str | None) -> list[Span]:
    """The spans of a trace that are in the store; none where it has none of them.

    Args:
        store: an http:// or https:// address, a file, or ``-`` for stdin.
        trace_id: None for the only trace of a file.

    Raises:
        CliError: the store can't be reached or read, or has no OTLP JSON.
    """
    if store.startswith(("http://", "https://")):
        if trace_id is None:
            raise CliError("say which trace: WORKFLOW or --trace-id", Exit.USAGE)
        return _asked(store.rstrip("/"), trace_id)
    spans = list(_in_file(store))
    found = list(dict.fromkeys(span.trace_id for span in spans))
    if trace_id is None and len(found) > 1:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        listed = ", ".join(found[:_SHOWN]) + more
        raise CliError(f"{store} has several traces: choose by --trace-id: {listed}", Exit.USAGE)
    return [span for span in spans if trace_id in (None, span.trace_id)]


def _asked(store: str, trace_id: str) -> list[Span]:
    """What the first of the known query APIs has that answers with spans."""
    headers = {"accept": "application/json"}
    headers |= parse_env_headers(os.environ.get(HEADERS, ""), liberal=True)
    wrong = ""
    try:
        with httpx.Client(timeout=_TIMEOUT, headers=headers) as client:
            for path in _PATHS:
                answer = client.get(f"{store}/{path}{trace_id}")
                if answer.status_code == 404:
                    if _is_jaegers(answer):
                        return []
                    continue
                if answer.status_code != 200:
                    raise CliError(_refusal(store, answer))
                try:
                    if spans := read(answer.json()):
                        return spans
                except ValueError as error:  # no JSON (a page for people), or other JSON
                    wrong = wrong or f"{path}: {_line(error)}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CliError(f"the trace store {store} can't be reached: {_line(error)}") from None
    if wrong:
        raise CliError(f"{store} does not answer with traces as OTLP JSON: {wrong}")
    return []


def _is_jaegers(answer: httpx.Response) -> bool:
    """Whether it knows the path and has no such trace, rather than no such path."""
    try:
        return "error" in answer.json()
    except (ValueError, TypeError):
        return False


def _refusal(store: str, answer: httpx.Response) -> str:
    hint = f"; headers go into {HEADERS}" if answer.status_code in (401, 403) else ""
    said = " ".join(answer.text.split())[:200]
    return f"the trace store {store} answered HTTP {answer.status_code}: {said}{hint}"


def _in_file(store: str) -> Iterator[Span]:
    """All spans of one JSON object or several, as the collector's file exporter writes them."""
    try:
        text = sys.stdin.read() if store == STDIN else Path(store).read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"{store} can't be read: {error.strerror}", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise CliError(f"{store} is no text, so no OTLP JSON", Exit.USAGE) from None
    decoder, at = json.JSONDecoder(), 0
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        try:
            data, at = decoder.raw_decode(text, at)
            yield from read(data)
        except OtlpError as error:
            raise CliError(f"{store}: {error}", Exit.USAGE) from None
        except ValueError:
            line = text.count("\n", 0, at) + 1
            raise CliError(f"{store}:{line}: this is no JSON", Exit.USAGE) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
