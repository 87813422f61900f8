"""Whatever a worker is sent: an answer or a refusal, never a crash.

One worker takes all requests: one that a request broke would fail those that follow.
"""

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.api.attempt import EXTENSION, HEADER_EPOCH, HEADER_WORKER_UID, AttemptRequest
from tests.unit.worker.bench import REVISION, Operator, other_key, token, working

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "0", "-1", "NaN", "1e999", "9" * 400, "\ud800", "../x", "a/b", "\x00"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
REQUEST = st.fixed_dictionaries(
    {}, optional={field.alias or name: JSON for name, field in AttemptRequest.model_fields.items()}
)
PART = st.one_of(
    st.fixed_dictionaries({"text": JSON}),
    st.fixed_dictionaries({"data": JSON}),
    st.fixed_dictionaries({"url": JSON, "raw": JSON}),
    JSON,
)
RIGHT: dict[str, Any] = {
    "attemptID": "r.a.0.1.1",
    "effectKey": "r.a.0.1",
    "agentRevision": REVISION,
    "timeoutSeconds": "5",
}
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "messageId": JSON,
        "taskId": JSON,
        "contextId": JSON,
        "role": st.sampled_from(["ROLE_USER", "ROLE_AGENT", "?", 7]),
        "parts": st.lists(PART, max_size=3) | JSON,
        "metadata": st.builds(lambda changes: {EXTENSION: {**RIGHT, **changes}}, REQUEST) | JSON,
        "extensions": JSON,
        "referenceTaskIds": JSON,
    },
)
ID = st.text(
    alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="?#\x7f"),
    min_size=1,
    max_size=40,
)
HEADER_TEXT = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255), max_size=30)


EPOCH = HEADER_TEXT | st.integers().map(str) | st.sampled_from(["9" * 19, "9" * 5000, "\u00b2"])


def _bytes(value: Any) -> bytes:
    """JSON as Python writes it: with NaN and lone surrogates, which are none."""
    return json.dumps(value).encode()


BODY = st.one_of(
    st.builds(lambda message: _bytes({"message": message}), MESSAGE),
    st.builds(_bytes, JSON),
    st.binary(max_size=60),
)


class Victim:
    """A served worker, in a loop that runs while a test does."""

    def __init__(self, runner: asyncio.Runner, operator: Operator) -> None:
        self._runner = runner
        self.operator = operator

    def suffers(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Runs requests; then the worker has to answer, and is made as it was."""
        self._runner.run(scenario)
        self._runner.run(_still_works(self.operator))


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        operator = runner.run(stack.enter_async_context(working(concurrency=64)))
        yield Victim(runner, operator)
        runner.run(stack.aclose())


async def _still_works(operator: Operator) -> None:
    table = operator.worker.table
    for attempt in table.attempts():
        table.cancel(attempt.attempt_id)
        await attempt.ended.wait()
    table.ack([attempt.attempt_id for attempt in table.attempts()])
    assert table.idle
    assert table.unacked_bytes == 0
    table.draining = False
    table._tombstones.clear()
    operator.worker.gate.epoch = 7
    inventory = await operator.client.get(
        "/corral/v1/inventory", headers={"Authorization": f"Bearer {token()}"}
    )
    assert inventory.status_code == 200, inventory.text


def _answered(answer: httpx.Response) -> None:
    """No failure of the worker's own, and nothing of the program shown."""
    assert answer.status_code < 500, (answer.status_code, answer.text[:300])
    assert "Traceback" not in answer.text
    assert "-32603" not in answer.text, answer.text[:300]  # JSON-RPC's internal error


@FEW
@given(bodies=st.lists(BODY, min_size=1, max_size=4))
def test_any_message_is_answered_or_refused(victim: Victim, bodies: list[bytes]) -> None:
    operator = victim.operator

    async def scenario() -> None:
        for body in bodies:
            await _everywhere(operator, body)

    victim.suffers(scenario())


async def _everywhere(operator: Operator, body: bytes) -> None:
    headers = {**operator.headers, "Content-Type": "application/json", "Prefer": "wait=0"}
    for path in ("/message:send", "/", "/corral/v1/ack", "/corral/v1/drain"):
        _answered(await operator.client.post(path, content=body, headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 50_000, id="lists without an end"),
        pytest.param(b"[" * 50_000 + b"]" * 50_000, id="lists in lists"),
        pytest.param(b'{"a":' * 20_000 + b"1" + b"}" * 20_000, id="objects in objects"),
        pytest.param(
            b'{"message":{"metadata":' + b'{"a":' * 400 + b"1" + b"}" * 402, id="metadata"
        ),
        pytest.param(b'"' + b"x" * 300_000 + b'"', id="a long text"),
        pytest.param(b"1" * 9_000, id="a long number"),
        pytest.param(b'{"message":{"parts":[{"data":Infinity}]}}', id="a number that is none"),
        pytest.param(b'{"message":{"parts":[{"data":1e999}]}}', id="a number without bounds"),
        pytest.param(b"\xff\xfe{}", id="another encoding"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_breaks_parsers_is_refused(victim: Victim, body: bytes) -> None:
    victim.suffers(_everywhere(victim.operator, body))


@FEW
@given(
    method=st.sampled_from(
        ["SendMessage", "GetTask", "ListTasks", "CancelTask", "SendStreamingMessage", "x", ""]
    ),
    params=JSON,
    identity=JSON,
)
def test_any_json_rpc_call_is_answered_or_refused(
    victim: Victim, method: str, params: Any, identity: Any
) -> None:
    operator = victim.operator
    body = _bytes({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})

    async def scenario() -> None:
        headers = {**operator.headers, "Content-Type": "application/json"}
        _answered(await operator.client.post("/", content=body, headers=headers))

    victim.suffers(scenario())


@FEW
@given(identity=ID, prefer=HEADER_TEXT, uid=HEADER_TEXT, epoch=EPOCH)
def test_any_id_and_header_is_answered_or_refused(
    victim: Victim, identity: str, prefer: str, uid: str, epoch: str
) -> None:
    operator = victim.operator

    async def scenario() -> None:
        path = httpx.URL(f"{operator.url}/").copy_with(path=f"/tasks/{identity}")
        for changes in (
            {"Prefer": prefer},
            {HEADER_WORKER_UID: uid},
            {HEADER_EPOCH: epoch},
            {"A2A-Version": uid, "A2A-Extensions": prefer},
            {"Accept": epoch},
        ):
            raw = {
                name.encode(): value.strip().encode("latin-1")
                for name, value in {**operator.headers, **changes}.items()
            }
            _answered(await operator.client.get(path, headers=raw))
        cancel = f"{path}:cancel"
        _answered(await operator.client.post(cancel, json={}, headers=operator.headers))
        assert operator.worker.gate.epoch < 2**63

    victim.suffers(scenario())


@FEW
@given(
    authorization=st.one_of(
        HEADER_TEXT,
        st.builds(lambda text: f"Bearer {text}", HEADER_TEXT),
        st.builds(
            lambda claims: f"Bearer {token(**claims)}",
            st.fixed_dictionaries(
                {},
                optional={
                    "aud": st.sampled_from([[], "", ["x"], 7, {"a": 1}]),
                    "iss": st.sampled_from(["", "x"]),
                    "exp": st.sampled_from([0, -1, 1.5]),
                },
            ).filter(bool),
        ),
        st.builds(
            lambda claims: f"Bearer {token(key=other_key(), **claims)}",
            st.dictionaries(st.sampled_from(["nbf", "iat", "jti"]), st.integers(0, 9), max_size=2),
        ),
    )
)
def test_no_other_authorization_opens_anything(victim: Victim, authorization: str) -> None:
    operator = victim.operator

    async def scenario() -> None:
        raw = {b"Authorization": authorization.strip().encode("latin-1")}
        answer = await operator.client.get("/corral/v1/inventory", headers=raw)
        assert answer.status_code == 401

    victim.suffers(scenario())


@FEW
@given(ids=st.lists(st.text(max_size=30), max_size=50), other=JSON)
def test_acks_of_anything_leave_no_trace(victim: Victim, ids: list[str], other: Any) -> None:
    operator = victim.operator

    async def scenario() -> None:
        for body in (_bytes({"attemptIds": ids}), _bytes({"attemptIds": other})):
            headers = {**operator.headers, "Content-Type": "application/json"}
            answer = await operator.client.post("/corral/v1/ack", content=body, headers=headers)
            assert answer.status_code in (204, 400)
        assert not operator.worker.table._tombstones

    victim.suffers(scenario())


async def test_what_a_worker_remembers_of_strangers_is_bounded() -> None:
    async with working() as operator:
        operator.worker.table._max_tombstones = 100
        for number in range(300):
            answer = await operator.cancel(f"r.a.{number}.1.1")
            assert answer.status_code == 200
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        huge = b'{"message":{"messageId":"' + b"x" * (15 * 2**20) + b'"}}'
        headers = {**operator.headers, "Content-Type": "application/json", "Prefer": "wait=0"}
        await operator.client.post("/message:send", content=huge, headers=headers)

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 2000:
                sent += 1
                yield b" " * 2**20

        sent = 0
        try:
            answer = await operator.client.post("/", content=endless(), headers=headers)
            assert answer.status_code == 413
        except httpx.TransportError:
            pass  # the worker has hung up while more was sent
        assert sent < 200, "a body without a length is read to its end"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert len(operator.worker.table._tombstones) == 100
        assert grown < 200 * 1024, f"{grown} KiB for a request of 15 MiB"
