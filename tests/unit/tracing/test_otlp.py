"""Spans to a collector, which is a real server that reads them."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from corral.api.trace import SpanRef
from corral.tracing.errors import CollectorAwayError, SpansRefusedError
from corral.tracing.otlp import Exporter
from corral.tracing.span import Link, Span, SpanKind
from tests.unit.tracing.collector import Collector, collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = Span(
    TRACE,
    "b7ad6b7169203331",
    "00f067aa0ba902b7",
    "chat gpt",
    1_763_900_000.123456,
    1_763_900_001.5,
    SpanKind.CLIENT,
    {"text": "ä", "flag": True, "count": 7, "cost": 0.000125, "list": ("stop",)},
    "Timeout",
    (Link(TRACE, "0000000000000001", {"corral.retry.reason": "WorkerLost"}),),
    {"service.name": "corral-worker", "k8s.pod.name": "w-1"},
)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
        yield made


@pytest.fixture
async def exporter(there: Collector) -> AsyncIterator[Exporter]:
    made = Exporter()
    yield made
    made.close()


async def test_a_span_arrives_as_it_was_told(exporter: Exporter, there: Collector) -> None:
    assert await exporter.export([SPAN]) == 0
    (found,) = there.spans
    assert (found.trace_id, found.span_id, found.parent_id) == (TRACE, SPAN.span_id, SPAN.parent_id)
    assert (found.name, found.kind, found.error) == ("chat gpt", "CLIENT", "Timeout")
    assert found.start == 1_763_900_000_123_456_000
    assert found.end == 1_763_900_001_500_000_000
    assert found.attributes == SPAN.attributes
    assert found.links == ((TRACE, "0000000000000001"),)
    assert found.resource["service.name"] == "corral-worker"
    assert found.resource["k8s.pod.name"] == "w-1"
    assert found.resource["service.version"]
    assert found.scope == "corral"
    assert there.headers[0]["content-encoding"] == "gzip"
    assert there.headers[0]["authorization"] == "Bearer abc"


async def test_a_root_has_no_parent_and_no_error(exporter: Exporter, there: Collector) -> None:
    await exporter.export([replace(SPAN, parent_id=None, error=None)])
    assert (there.spans[0].parent_id, there.spans[0].error) == ("", None)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_is_refused_for_good_is_told_apart(
    status: int, exporter: Exporter, there: Collector
) -> None:
    there.status = status
    with pytest.raises(SpansRefusedError, match=f"answers {status} no"):
        await exporter.export([SPAN])


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 429, 500, 503])
async def test_what_may_be_taken_later_is_told_apart(
    status: int, exporter: Exporter, there: Collector
) -> None:
    there.status = status
    with pytest.raises(CollectorAwayError, match=str(status)):
        await exporter.export([SPAN])


async def test_nobody_there_is_away_and_is_asked_again(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    exporter = Exporter()
    with pytest.raises(CollectorAwayError, match="does not answer"):
        await exporter.export([SPAN])
    exporter.close()


async def test_spans_that_were_not_taken_are_counted(exporter: Exporter, there: Collector) -> None:
    there.rejects = 1
    assert await exporter.export([SPAN, replace(SPAN, span_id="0" * 15 + "2")]) == 1


async def test_what_can_not_be_encoded_is_refused(exporter: Exporter) -> None:
    with pytest.raises(SpansRefusedError):
        await exporter.export([replace(SPAN, name="\ud800")])


def kept(**caller: Any) -> float:
    """Of a thousand traces, the share that is kept."""
    exporter = Exporter()
    given = SpanRef(TRACE, "b7ad6b7169203331", **caller) if caller else None
    # UUIDs of version 4: not every digit of theirs is chance.
    ids = [f"{number:08x}00004000a{number % 4096:03x}{number:012x}" for number in range(1000)]
    share = sum(exporter.sampled(one, given) for one in ids) / 1000
    exporter.close()
    return share


def test_the_sampler_is_the_one_that_is_named(
    there: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kept() == 1
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    assert 0.2 < kept() < 0.3
    assert kept(sampled=True) == 1
    assert kept(sampled=False) == 0
