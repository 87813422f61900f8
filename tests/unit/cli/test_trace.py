"""``corral trace``: a run as a waterfall, from its status and from what stores answer."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from corral.api.trace import span_id
from corral.cli.trace_view import Trace, used_by, waterfall
from corral.plan.names import ANNOTATION_TRACEPARENT
from corral.tracing import genai
from corral.tracing.otlp_json import read, written
from corral.tracing.span import Link, Span, SpanKind, Value
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import WORKFLOWS, Api
from tests.unit.plan.driver import RUN_ID, T0, fails, ok, run

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
WORKER: dict[str, Value] = {"service.name": "corral-worker"}
STEPS = """
failFast: false
steps:
- {name: plan, agentRef: {name: planner}}
- name: write
  dependsOn: [plan]
  agentRef: {name: writer}
  retryStrategy: {limit: 3, backoff: {duration: 1s}}
"""


def attempt(step: str, number: int = 1) -> str:
    return f"{RUN_ID}.{step}.0.1.{number}"


def chat(about: str, ordinal: int, at: float, **more: Value) -> Span:
    """A model call, as the operator exports it."""
    told: dict[str, Value] = {
        genai.OPERATION: genai.CHAT,
        genai.MODEL_REF: "fast",
        genai.INPUT_TOKENS: 100,
        genai.OUTPUT_TOKENS: 10,
    }
    return Span(
        TRACE,
        span_id(about, "call", str(ordinal)),
        span_id(about),
        "chat gpt-5-mini",
        T0 + at,
        T0 + at + 0.5,
        SpanKind.CLIENT,
        told | more,
        resource=WORKER,
    )


def workflow(api: Api, name: str = "report", **status: Any) -> dict[str, Any]:
    """Puts a run into the cluster whose second step failed once."""
    sim = run(STEPS, {"write#1": fails("RateLimited", "HTTP 429"), "write": ok(takes=2)})
    known = sim.status.to_json() | {"traceID": TRACE, "runID": RUN_ID}
    data = {
        "metadata": {"name": name, "uid": RUN_ID, "annotations": {ANNOTATION_TRACEPARENT: CALLER}},
        "spec": sim.spec.to_json(),
        "status": {key: value for key, value in (known | status).items() if value is not None},
    }
    return api.put(f"{WORKFLOWS}/{name}", data)


@pytest.fixture
def stored(corral: Corral, api: Api) -> list[Span]:
    """What a store has of that run: all of it, with three calls and a span of a tool's server."""
    workflow(api, usage=None)
    _, out, _ = corral("trace", "report", "-n", "demo", "-o", "json")
    called = chat(attempt("plan"), 1, 0.1, **{genai.COST: 0.0001})
    server = Span(TRACE, "1" * 16, called.span_id, "GET /v1", T0 + 0.2, T0 + 0.3)
    return [
        *read(json.loads(out)),
        called,
        server,
        chat(attempt("write"), 1, 1.1, **{genai.UNPRICED: 1}),
        chat(attempt("write", 2), 1, 3.1, **{genai.COST: 0.0002, genai.SIMULATED: True}),
    ]


class Store:
    """A trace store that answers by path, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def has(self, path: str, data: Any, status: int = 200) -> None:
        self.answers[path] = (status, data if isinstance(data, str) else json.dumps(data))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            status, text = made.answers.get(self.path, (404, "404 page not found"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.delenv("CORRAL_TRACE_STORE", raising=False)


def words(text: str) -> list[str]:
    """Lines without bars and the space that is for looks."""
    return [" ".join(line.replace("█", "").replace("▏", "").split()) for line in text.splitlines()]


def test_status_alone_shows_the_run_its_steps_and_attempts(corral: Corral, api: Api) -> None:
    used = {"requests": 3, "inputTokens": 9, "costUSD": "0.5", "unpricedRequests": 1}
    data = workflow(api, usage=used)
    data["status"]["steps"][0]["costUSD"] = "0.1"
    for row in data["status"]["steps"][1:]:
        del row["costUSD"]
    code, out, _ = corral("trace", "report", "-n", "demo")
    assert code == 0
    head, where, _, *lines = words(out)
    assert head.startswith("Workflow demo/report Succeeded 2/2")
    assert where == f"Trace {TRACE}: what status knows; calls of models and tools are in a " + (
        "trace store only"
    )
    assert lines == [
        "SPAN 0s 4.5s TIME COST",
        "invoke_workflow report 4.5s $0.5 + unknown",
        "├─ step plan 1.0s $0.1",
        "│ └─ invoke_agent planner 1.0s",
        "└─ step write 3.5s",
        "├─ invoke_agent writer 1.0s",
        "│ RateLimited: HTTP 429",
        "└─ invoke_agent writer #2 2.0s",
        "retry of attempt 1: RateLimited",
        "",
        "Spans 6, 1 failed, 1 retry; of corral-operator",
        "Duration 4.5s",
        "Cost $0.5 (unpriced: 1 request)",
        "Tokens 9 in, 0 out, 3 requests",
    ]


def test_bars_stand_where_the_time_was(corral: Corral, api: Api) -> None:
    workflow(api)
    _, out, _ = corral("trace", "report", "-n", "demo")
    lines = out.splitlines()[3:8]
    begin = lines[0].index("0s")
    whole = lines[1].count("█")
    plan, write = lines[2], lines[4]
    assert lines[1].index("█") == plan.index("█") == begin
    assert abs(plan.count("█") - whole / 4.5) <= 1
    assert abs(write.index("█") - begin - whole / 4.5) <= 1
    assert write.rindex("█") == lines[1].rindex("█")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_longer_than_the_terminal(stored: list[Span], width: int, encoding: str) -> None:
    lines = waterfall(Trace.of(stored), width, unicode=encoding == "utf-8")
    assert max(len(line.plain) for line in lines) <= width
    for line in lines:
        line.plain.encode(encoding)


def test_a_store_has_calls_with_their_costs_and_what_others_added(
    corral: Corral, store: Store, stored: list[Span]
) -> None:
    store.has(f"/api/v3/traces/{TRACE}", {"result": written(stored)})
    code, out, err = corral("trace", "report", "-n", "demo", "--store", store.url)
    assert (code, err) == (0, "note: status says $0: the store does not have all spans (yet)\n")
    assert words(out)[1] == f"Trace {TRACE} of {store.url}"
    assert words(out)[4:] == [
        "invoke_workflow report 4.5s $0.0003 + unknown",
        "├─ step plan 1.0s $0.0001",
        "│ └─ invoke_agent planner 1.0s $0.0001",
        "│ └─ chat gpt-5-mini 0.5s $0.0001",
        "│ └─ GET /v1 0.1s",
        "└─ step write 3.5s $0.0002 + unknown",
        "├─ invoke_agent writer 1.0s unknown",
        "│ │ RateLimited: HTTP 429",
        "│ └─ chat gpt-5-mini 0.5s unknown",
        "└─ invoke_agent writer #2 2.0s $0.0002",
        "│ retry of attempt 1: RateLimited",
        "└─ chat gpt-5-mini 0.5s $0.0002",
        "",
        "Spans 10, 1 failed, 1 retry; of ?, corral-operator, corral-worker",
        "Duration 4.5s",
        "Cost $0.0003 (unpriced: 1 request) (simulated: 1 of 3 requests)",
        "Tokens 300 in, 30 out, 3 requests",
    ]


def test_nothing_is_noted_where_spans_and_status_come_to_the_same(
    corral: Corral, api: Api, store: Store, stored: list[Span]
) -> None:
    workflow(api, usage={"requests": 3, "costUSD": "0.0003", "unpricedRequests": 1})
    store.has(f"/api/v3/traces/{TRACE}", {"result": written(stored)})
    assert corral("trace", "report", "-n", "demo", "--store", store.url)[2] == ""


def test_while_a_run_goes_on_status_tells_what_no_store_has_yet(
    corral: Corral, api: Api, store: Store, stored: list[Span]
) -> None:
    workflow(api, phase="Running", finishedAt=None)
    calls = [span for span in stored if genai.MODEL_REF in span.attributes]
    store.has(f"/api/v3/traces/{TRACE}", {"result": written(calls)})
    _, out, err = corral("trace", "report", "-n", "demo", "--store", store.url)
    assert "│  └─ invoke_agent planner" in out
    assert "│     └─ chat gpt-5-mini" in out
    assert err == "note: 6 of the spans are from status: the store does not have them (yet)\n"


def test_a_span_that_was_sent_twice_is_there_once(stored: list[Span]) -> None:
    once, twice = Trace.of(stored), Trace.of([*stored, *stored])
    assert twice.spans == once.spans
    assert twice.used == once.used


def test_what_has_no_parent_there_and_circles_stand_at_the_left() -> None:
    def span(name: str, parent: str | None) -> Span:
        return Span(TRACE, name * 16, parent and parent * 16, name, T0, T0 + 1)

    found = Trace.of([span("a", "f"), span("b", "a"), span("c", "c"), span("d", None)])
    assert [(line.lead, line.span.name) for line in found.lines] == [
        ("", "a"),
        ("└─ ", "b"),
        ("", "d"),
        ("", "c"),
    ]
    circle = [span("a", "b"), span("b", "c"), span("c", "a"), span("d", None)]
    names = ["d", "a", "c", "b"]
    assert [one.name for one in Trace.of(circle).spans] == names
    assert [one.name for one in Trace.of(circle, "a" * 16).spans] == names[1:]
    assert Trace.of(circle, "e" * 16).spans == []


def test_costs_add_up_as_decimals_do() -> None:
    calls = [chat(attempt("plan"), n, n / 10, **{genai.COST: 0.1}) for n in range(1000)]
    assert Trace.of(calls).used.cost_text == "100"


def test_calls_that_have_no_span_of_their_own_count_as_many() -> None:
    rest = chat(attempt("plan"), 1, 0, **{genai.UNTOLD_REQUESTS: 7, genai.COST: 0.5})
    assert used_by(rest).requests == 7
    [_, line] = waterfall(Trace.of([rest]), 100)
    assert line.plain.startswith("chat gpt-5-mini (7 calls)")


def test_another_services_spans_of_models_are_no_cost_of_ours() -> None:
    told: dict[str, Value] = {genai.OPERATION: genai.CHAT, genai.COST: 5.0, genai.INPUT_TOKENS: 9}
    other = Span(TRACE, "1" * 16, None, "chat x", T0, T0 + 1, attributes=told)
    assert used_by(other).requests == 0


def test_what_others_say_stays_on_its_line_and_commands_no_terminal() -> None:
    odd = Span(TRACE, "1" * 16, None, "a\nb\x1b[2J", T0, T0, error="no\r\x07luck", links=())
    lines = [line.plain for line in waterfall(Trace.of([odd]), 100)]
    assert len(lines) == 3
    assert lines[1].startswith("a b [2J  ")
    assert lines[2].strip() == "no luck"


def test_numbers_that_are_none_count_as_nothing() -> None:
    odd = chat(
        attempt("plan"),
        1,
        0,
        **{genai.COST: math.nan, genai.INPUT_TOKENS: math.inf, genai.SIMULATED: "x"},
    )
    used = used_by(odd)
    assert (used.requests, used.cost, used.input_tokens, used.simulated_requests) == (1, None, 0, 0)


def test_a_link_to_any_span_is_told_by_its_name() -> None:
    one = Span(TRACE, "1" * 16, None, "publish", T0, T0 + 1)
    two = Span(
        TRACE,
        "2" * 16,
        None,
        "consume",
        T0,
        T0 + 1,
        links=(Link(TRACE, "1" * 16), Link(TRACE, "3" * 16)),
    )
    shown = [line.plain.strip() for line in waterfall(Trace.of([one, two]), 100)]
    assert shown[-2:] == ["linked to publish", "linked to 3333333333333333"]


def test_json_is_otlp_and_can_be_read_again(
    corral: Corral, stored: list[Span], tmp_path: Path
) -> None:
    file = tmp_path / "spans.json"
    file.write_text(json.dumps(written(stored)))
    code, out, _ = corral("trace", "--store", str(file), "-o", "json", cluster=False)
    assert code == 0
    assert sorted(read(json.loads(out)), key=str) == sorted(stored, key=str)


@pytest.mark.parametrize(
    "path", [f"/api/v3/traces/{TRACE}", f"/api/v2/traces/{TRACE}", f"/api/traces/{TRACE}"]
)
def test_the_query_apis_of_jaeger_and_tempo_are_tried_in_turn(
    corral: Corral, store: Store, stored: list[Span], path: str
) -> None:
    store.has(path, {"trace": written(stored)})
    words = ("--trace-id", TRACE.upper(), "--store", store.url + "/")
    assert corral("trace", *words, cluster=False)[0] == 0
    assert store.asked[-1][0] == path


def test_headers_go_with_the_question(
    corral: Corral, store: Store, stored: list[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_TRACE_STORE", store.url)
    monkeypatch.setenv(
        "CORRAL_TRACE_STORE_HEADERS", "X-Scope-OrgID=team,authorization=Basic%20eA=="
    )
    store.has(f"/api/v3/traces/{TRACE}", written(stored))
    assert corral("trace", "--trace-id", TRACE, cluster=False)[0] == 0
    [(_, headers)] = store.asked
    assert (headers["x-scope-orgid"], headers["authorization"]) == ("team", "Basic eA==")


def test_an_empty_store_is_none(
    corral: Corral, api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow(api)
    monkeypatch.setenv("CORRAL_TRACE_STORE", store.url)
    assert corral("trace", "report", "-n", "demo", "--store=")[0] == 0
    assert not store.asked


def test_only_what_is_below_the_run_is_shown_of_a_trace_of_several(
    corral: Corral, store: Store, stored: list[Span]
) -> None:
    caller = Span(TRACE, "b7ad6b7169203331", None, "nightly build", T0 - 5, T0 + 20)
    store.has(f"/api/v3/traces/{TRACE}", written([*stored, caller]))
    _, out, err = corral("trace", "report", "-n", "demo", "--store", store.url)
    assert "nightly build" not in out
    assert f"note: 1 more of the trace are not below this run: --trace-id {TRACE}" in err
    _, out, _ = corral("trace", "--trace-id", TRACE, "--store", store.url, cluster=False)
    assert "└─ invoke_workflow report" in out


def test_a_collectors_file_has_an_object_a_line(
    corral: Corral, stored: list[Span], tmp_path: Path
) -> None:
    other = Span("f" * 32, "1" * 16, None, "another trace", T0, T0 + 1)
    file = tmp_path / "spans.jsonl"
    lines = [written(stored[:4]), written([other]), written(stored[4:])]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, _ = corral("trace", "report", "-n", "demo", "--store", str(file))
    assert code == 0
    assert "Spans     10" in out
    code, _, err = corral("trace", "--store", str(file), cluster=False)
    assert (code, err) == (
        2,
        f"error: {file} has several traces: choose by --trace-id: {TRACE}, {'f' * 32}\n",
    )
    piped = json.dumps(written([other]))
    assert "another trace" in corral("trace", "--store", "-", stdin=piped, cluster=False)[1]


def test_what_is_wrong_with_a_run_is_one_sentence(corral: Corral, api: Api, store: Store) -> None:
    workflow(api)
    fails_with(corral, 1, "did you mean 'report'?", "reprot", "-n", "demo")
    api.put(
        f"{WORKFLOWS}/new",
        {"metadata": {"name": "new"}, "spec": {"steps": [{"name": "a", "transform": "1"}]}},
    )
    fails_with(corral, 1, "Workflow 'new' has not begun", "new", "-n", "demo")
    workflow(api, "dark", traceID=None)
    said = "Workflow 'dark' has no trace: its operator does not export any"
    fails_with(corral, 1, said, "dark", "-n", "demo", "--store", store.url)
    fails_with(corral, 2, "name a WORKFLOW, or say by --store")
    fails_with(corral, 2, "leave out --trace-id", "report", "--trace-id", TRACE)
    fails_with(corral, 2, "is not 32 hexadecimal digits", "--trace-id", "abc", "--store", store.url)
    fails_with(corral, 2, "say which trace", "--store", store.url)


def test_what_is_wrong_with_a_store_is_one_sentence(
    corral: Corral, api: Api, store: Store, tmp_path: Path
) -> None:
    workflow(api)

    def refused(said: str, where: str = store.url, code: int = 1) -> None:
        fails_with(corral, code, said, "report", "-n", "demo", "--store", where)

    missing = f"there is no trace {TRACE} in {store.url} (yet): spans come some seconds late"
    refused(missing)
    store.has(f"/api/v3/traces/{TRACE}", {"error": {"httpCode": 404}}, 404)
    store.has(f"/api/v2/traces/{TRACE}", "<html>the page of a store</html>")
    refused(missing)
    store.answers.clear()
    store.has(f"/api/traces/{TRACE}", "<html>the page of a store</html>")
    refused("does not answer with traces as OTLP JSON: api/traces/:")
    store.has(f"/api/traces/{TRACE}", {"data": [{"traceID": TRACE}]})
    refused("it has no resourceSpans, but data")
    store.has(f"/api/v3/traces/{TRACE}", "who are you?", 401)
    refused("answered HTTP 401: who are you?; headers go into CORRAL_TRACE_STORE_HEADERS")
    refused("can't be reached", "http://127.0.0.1:1")
    refused("can't be read: No such file", str(tmp_path / "none.json"), 2)
    file = tmp_path / "spans.json"
    file.write_text('{"resourceSpans": []}\n{"resource')
    refused(f"{file}:2: this is no JSON", str(file), 2)
    file.write_text('{"spans": []}')
    refused("it has no resourceSpans, but spans", str(file), 2)
    file.write_bytes(b"\xff\x00")
    refused("is no text", str(file), 2)


def fails_with(corral: Corral, code: int, said: str, *words: str) -> None:
    found, out, err = corral("trace", *words)
    assert (found, out) == (code, ""), err
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
