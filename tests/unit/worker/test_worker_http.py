"""The worker over real HTTP: one execution per attempt, whatever the operator's calls look like."""

import asyncio
import base64
import time
from typing import Any

import httpx
import pytest

from tests.unit.worker.bench import (
    ISSUER,
    SUBJECT,
    UID,
    other_key,
    reason,
    report,
    rpc,
    rsa_key,
    token,
    working,
)

SLOW = {"latency": "10s"}


def unsigned() -> str:
    """A token that says that it needs no signature."""
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"ec"}').decode().rstrip("=")
    return f"{head}.{token().split('.')[1]}."


async def _until_working(operator: Any, attempt_id: str) -> None:
    while (await operator.task(attempt_id)).status_code == 404:
        await asyncio.sleep(0.01)


async def test_an_attempt_comes_back_with_its_output_and_report() -> None:
    async with working() as operator:
        task = (await operator.send("run.plan.0.1.1")).json()["task"]
    assert task["id"] == "run.plan.0.1.1"
    assert task["contextId"] == "run-1"
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "done"}]
    assert report(task)["podUID"] == UID
    assert report(task)["attemptID"] == "run.plan.0.1.1"
    assert report(task)["usage"] == [
        {
            "modelRef": "fast",
            "provider": "simulated",
            "model": "simulated",
            "requests": "1",
            "inputTokens": "50",
            "outputTokens": "20",
            "cachedInputTokens": "0",
            "unanswered": "0",
            "answered": True,
            "failures": "0",
            "simulated": True,
        }
    ]


async def test_structured_output_comes_as_a_data_part() -> None:
    async with working() as operator:
        task = (await operator.send("r.a.0.1.1", "json", outputSchema='{"type":"object"}')).json()
    [part] = task["task"]["artifacts"][0]["parts"]
    assert part["data"] == {"a": [1, 2.5], "big": "é"}


async def test_input_data_keeps_whole_numbers_whole() -> None:
    script = {"script": [{"match": r'^\{"n":3,"x":1.5\}$', "reply": "whole"}]}
    async with working(simulation=script) as operator:
        task = (await operator.send("r.a.0.1.1", None, data={"n": 3, "x": 1.5})).json()["task"]
    assert task["artifacts"][0]["parts"][0]["text"] == "whole"


async def test_three_concurrent_sends_are_one_execution() -> None:
    async with working(simulation={"latency": "50ms"}) as operator:
        answers = await asyncio.gather(*(operator.send("r.a.0.1.1") for _ in range(3)))
    tasks = [answer.json()["task"] for answer in answers]
    assert {task["status"]["state"] for task in tasks} == {"TASK_STATE_COMPLETED"}
    assert [report(task)["usage"][0]["requests"] for task in tasks] == ["1", "1", "1"]


async def test_a_hung_up_send_goes_on_and_a_second_one_attaches() -> None:
    async with working(simulation={"latency": "200ms"}) as operator:
        first = asyncio.create_task(operator.send("r.a.0.1.1"))
        await _until_working(operator, "r.a.0.1.1")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        task = (await operator.send("r.a.0.1.1")).json()["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert report(task)["usage"][0]["requests"] == "1"


async def test_a_send_after_the_end_gets_the_same_result() -> None:
    async with working() as operator:
        first = (await operator.send("r.a.0.1.1")).json()["task"]
        second = (await operator.send("r.a.0.1.1")).json()["task"]
    assert second["artifacts"] == first["artifacts"]
    assert report(second)["usage"][0]["requests"] == "1"


async def test_after_the_ack_the_result_is_gone_and_a_send_is_refused() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        assert (await operator.ack("r.a.0.1.1", "unknown")).status_code == 204
        assert (await operator.ack("r.a.0.1.1")).status_code == 204
        again = await operator.send("r.a.0.1.1")
        got = await operator.task("r.a.0.1.1")
        inventory = await operator.inventory()
    assert (again.status_code, reason(again)) == (410, "Tombstoned")
    assert got.status_code == 404
    assert inventory["attempts"] == []


async def test_a_wait_of_zero_answers_working_and_polling_gets_the_end() -> None:
    async with working(simulation={"latency": "200ms"}) as operator:
        task = (await operator.send("r.a.0.1.1", wait=0)).json()["task"]
        assert task["status"]["state"] == "TASK_STATE_WORKING"
        polled = (await operator.task("r.a.0.1.1", wait=25)).json()
    assert polled["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_another_pods_uid_is_refused() -> None:
    async with working() as operator:
        answer = await operator.send("r.a.0.1.1", headers={"Corral-Worker-UID": "another"})
        assert (await operator.inventory())["attempts"] == []
    assert (answer.status_code, reason(answer)) == (421, "WrongWorker")


async def test_a_lower_epoch_is_refused_everywhere_once_a_higher_one_was_seen() -> None:
    async with working() as operator:
        operator.headers["Corral-Epoch"] = "8"
        assert (await operator.inventory())["epoch"] == 8
        operator.headers["Corral-Epoch"] = "7"
        answers = [
            await operator.send("r.a.0.1.1"),
            await operator.task("r.a.0.1.1"),
            await operator.cancel("r.a.0.1.1"),
            await operator.ack("r.a.0.1.1"),
            await operator.client.get("/corral/v1/inventory", headers=operator.headers),
            await operator.client.post("/corral/v1/drain", headers=operator.headers),
        ]
    assert [(answer.status_code, reason(answer)) for answer in answers] == [(412, "StaleEpoch")] * 6


async def test_another_revision_is_refused() -> None:
    async with working() as operator:
        answer = await operator.send("r.a.0.1.1", agentRevision="rev-0")
    assert (answer.status_code, reason(answer)) == (409, "RevisionMismatch")


async def test_over_twice_the_concurrency_is_refused_and_the_rest_waits_its_turn() -> None:
    async with working(simulation=SLOW, concurrency=2) as operator:
        states = [
            (await operator.send(f"r.a.{n}.1.1", wait=0)).json()["task"]["status"]["state"]
            for n in range(4)
        ]
        answer = await operator.send("r.a.4.1.1", wait=0)
        inventory = await operator.inventory()
    assert states == ["TASK_STATE_WORKING"] * 2 + ["TASK_STATE_SUBMITTED"] * 2
    assert (answer.status_code, reason(answer)) == (429, "NoCapacity")
    assert inventory["free"] == 0
    assert [a["state"] for a in inventory["attempts"]] == ["WORKING"] * 2 + ["SUBMITTED"] * 2


async def test_a_cancel_that_overtakes_its_start_prevents_it() -> None:
    async with working() as operator:
        cancelled = await operator.cancel("r.a.0.1.1")
        answer = await operator.send("r.a.0.1.1")
    assert cancelled.json()["status"]["state"] == "TASK_STATE_CANCELED"
    assert (answer.status_code, reason(answer)) == (410, "Tombstoned")


async def test_a_cancelled_attempt_is_reported_with_its_usage_until_it_is_acked() -> None:
    async with working(simulation=SLOW) as operator:
        await operator.send("r.a.0.1.1", wait=0)
        task = (await operator.cancel("r.a.0.1.1")).json()
        [entry] = (await operator.inventory())["attempts"]
    assert task["status"]["state"] == "TASK_STATE_CANCELED"
    assert report(task)["usage"][0]["inputTokens"] == "50"
    assert entry["state"] == "CANCELED"


async def test_cancelling_what_has_ended_is_success() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        answer = await operator.cancel("r.a.0.1.1")
    assert answer.status_code == 200
    assert answer.json()["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_draining_worker_refuses_starts_but_still_attaches() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        drained = await operator.client.post("/corral/v1/drain", headers=operator.headers)
        refused = await operator.send("r.a.1.1.1")
        attached = await operator.send("r.a.0.1.1")
    assert drained.json()["draining"] is True
    assert drained.json()["free"] == 0
    assert len(drained.json()["attempts"]) == 1
    assert (refused.status_code, reason(refused)) == (503, "Draining")
    assert attached.json()["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_an_attempts_timeout_fails_it_with_its_class() -> None:
    async with working(simulation=SLOW) as operator:
        task = (await operator.send("r.a.0.1.1", timeoutSeconds="0.1")).json()["task"]
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert report(task)["error"]["errorClass"] == "Timeout"
    assert task["status"]["message"]["parts"][0]["text"] == report(task)["error"]["message"]


@pytest.mark.parametrize(
    ("reply", "schema", "limit", "words"),
    [
        pytest.param("é" * 50, None, "99", "100 bytes", id="text, counted in bytes"),
        pytest.param('["aaa"]', "{}", "6", "7 bytes", id="JSON, compact"),
        pytest.param('"\\ud800"', "{}", "100", "can't carry", id="a lone surrogate"),
        pytest.param("1" + "0" * 400, "{}", "999", "can't carry", id="a number beyond a double"),
        pytest.param("[" * 300 + "]" * 300, "{}", "999", "can't carry", id="too deep"),
    ],
)
async def test_an_output_that_cannot_be_given_back_is_invalid(
    reply: str, schema: str | None, limit: str, words: str
) -> None:
    async with working(simulation={"reply": reply}) as operator:
        more = {"outputSchema": schema} if schema else {}
        answer = await operator.send("r.a.0.1.1", maxOutputBytes=limit, **more)
    error = report(answer.json()["task"])["error"]
    assert error["errorClass"] == "InvalidOutput"
    assert words in error["message"]


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="no token"),
        pytest.param("Basic abc", id="another scheme"),
        pytest.param("Bearer garbage", id="garbage"),
        pytest.param(f"Bearer {token(aud=['another-pod'])}", id="another pod's audience"),
        pytest.param(f"Bearer {token(aud=None)}", id="no audience"),
        pytest.param(f"Bearer {token(exp=time.time() - 60)}", id="expired"),
        pytest.param(f"Bearer {token(exp=None)}", id="never expires"),
        pytest.param(f"Bearer {token(sub='system:serviceaccount:demo:x')}", id="another subject"),
        pytest.param(f"Bearer {token(iss='https://elsewhere')}", id="another issuer"),
        pytest.param(f"Bearer {token(key=other_key())}", id="another key"),
        pytest.param(f"Bearer {token(kid='unknown', key=other_key())}", id="an unknown key id"),
        pytest.param(
            f"Bearer {token(algorithm='HS256', key='s' * 32)}", id="an HMAC under an EC key's id"
        ),
        pytest.param(f"Bearer {unsigned()}", id="no signature"),
        pytest.param(f"Bearer {token(nbf=time.time() + 600)}", id="not valid yet"),
        pytest.param(f"Bearer {token(aud='corral.dev/operator')}", id="a worker's own, sent back"),
        pytest.param(f"Bearer {token(aud=UID[:-1] + '6')}", id="for another worker"),
        pytest.param(f"Bearer {token().rpartition('.')[0]}.", id="its signature cut off"),
    ],
)
async def test_without_the_operators_token_everything_is_401(authorization: str | None) -> None:
    async with working() as operator:
        operator.headers.pop("Authorization")
        if authorization:
            operator.headers["Authorization"] = authorization
        headers = operator.headers
        answers = [
            await operator.send("r.a.0.1.1"),
            await operator.task("r.a.0.1.1"),
            await operator.cancel("r.a.0.1.1"),
            await operator.ack("r.a.0.1.1"),
            await operator.client.get("/corral/v1/inventory", headers=headers),
            await operator.client.post("/corral/v1/drain", headers=headers),
            await operator.client.post("/", content=rpc("GetTask", {}), headers=headers),
        ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(("kid", "algorithm"), [("ec", "ES256"), ("rsa", "RS256")])
async def test_both_algorithms_are_accepted(kid: str, algorithm: str) -> None:
    key = rsa_key() if kid == "rsa" else None
    async with working() as operator:
        bearer = token(kid, algorithm, key, iss=ISSUER, sub=SUBJECT)
        operator.headers["Authorization"] = f"Bearer {bearer}"
        assert (await operator.inventory())["podUID"] == UID


async def test_health_readiness_metrics_and_card_need_no_token() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        paths = ("/healthz", "/readyz", "/metrics", "/.well-known/agent-card.json")
        health, ready, metrics, card = [await operator.client.get(path) for path in paths]
    assert (health.status_code, ready.status_code) == (200, 200)
    assert 'corral_worker_attempts_total{error_class="",state="COMPLETED"} 1.0' in metrics.text
    assert "r.a.0.1.1" not in metrics.text
    assert card.json()["name"] == "researcher"
    assert card.json()["skills"][0]["id"] == "research"


async def test_a_missing_key_is_named_and_readiness_recovers_when_it_appears() -> None:
    keys: dict[str, str] = {}
    model = {"apiKeySecretRef": {"name": "model-keys", "key": "openai"}}
    async with working(keys.get, model=model) as operator:
        before = await operator.client.get("/readyz")
        inventory = await operator.inventory()
        refused = await operator.send("r.a.0.1.1")
        keys["fast"] = "k"
        after = await operator.client.get("/readyz")
        sent = await operator.send("r.a.0.1.1")
    assert before.status_code == 503
    assert "Secret model-keys has no key openai" in before.json()["problem"]
    assert inventory["problem"] == before.json()["problem"]
    assert inventory["free"] == 0
    assert reason(refused) == "NoCapacity"
    assert after.status_code == 200
    assert sent.status_code == 200


async def test_attempts_of_an_operator_that_went_away_end_as_lost() -> None:
    async with working(simulation=SLOW) as operator:
        await operator.send("r.a.0.1.1", wait=0)
        operator.worker.stop_abandoned()
        assert (await operator.inventory())["attempts"][0]["state"] == "WORKING"
        operator.worker.gate._renewed_at -= 121
        operator.worker.stop_abandoned()
        task = (await operator.task("r.a.0.1.1", wait=5)).json()
    assert task["status"]["state"] == "TASK_STATE_FAILED"
    assert report(task)["error"]["errorClass"] == "WorkerLost"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({"timeoutSeconds": "soon"}, 400, id="a timeout that is no number"),
        pytest.param({"timeoutSeconds": "0"}, 400, id="no time at all"),
        pytest.param({"outputSchema": "{"}, 400, id="a schema that is no JSON"),
        pytest.param({"attemptID": "other"}, 400, id="ids that differ"),
        pytest.param({"effectKey": None}, 400, id="a missing field"),
    ],
)
async def test_metadata_that_makes_no_sense_is_a_bad_request(
    changes: dict[str, Any], status: int
) -> None:
    async with working() as operator:
        answer = await operator.send("r.a.0.1.1", **changes)
        assert (await operator.inventory())["attempts"] == []
    assert answer.status_code == status


async def test_json_rpc_reaches_the_same_attempts_and_gives_the_same_reasons() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        call = rpc("GetTask", {"id": "r.a.0.1.1"})
        got = await operator.client.post("/", content=call, headers=operator.headers)
        operator.headers["Corral-Worker-UID"] = "another"
        refused = await operator.client.post("/", content=call, headers=operator.headers)
    assert got.json()["result"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert refused.json()["error"]["data"][0]["reason"] == "WrongWorker"


async def test_the_sdks_own_client_works_without_our_headers() -> None:
    from a2a.client import ClientConfig, ClientFactory
    from a2a.client.card_resolver import A2ACardResolver
    from a2a.types import a2a_pb2

    async with working() as operator:
        bearer = {"Authorization": f"Bearer {token()}"}
        async with httpx.AsyncClient(headers=bearer) as http:
            card = await A2ACardResolver(http, operator.url).get_agent_card()
            client = ClientFactory(ClientConfig(httpx_client=http)).create(card)
            message = a2a_pb2.Message(
                message_id="hello/1", role=a2a_pb2.ROLE_USER, parts=[a2a_pb2.Part(text="hi")]
            )
            events = [
                event
                async for event in client.send_message(a2a_pb2.SendMessageRequest(message=message))
            ]
        unacked = operator.worker.table.unacked
    assert events[-1].task.artifacts[0].parts[0].text == "done"
    assert unacked == 0


async def test_a_plain_client_lists_tasks_and_cannot_continue_one() -> None:
    async with working() as operator:
        await operator.send("r.a.0.1.1")
        headers = {key: operator.headers[key] for key in ("Authorization", "A2A-Version")}
        message = {"messageId": "next", "role": "ROLE_USER", "parts": [{"text": "more"}]}
        listed = await operator.client.get("/tasks?contextId=run-1", headers=headers)
        other = await operator.client.get("/tasks?contextId=run-2", headers=headers)
        answers = [
            await operator.client.post(
                "/message:send",
                json={"message": {**message, "taskId": task_id}},
                headers=headers,
            )
            for task_id in ("r.a.0.1.1", "unknown")
        ]
    assert [task["id"] for task in listed.json()["tasks"]] == ["r.a.0.1.1"]
    assert other.json()["tasks"] == []
    assert [reason(answer) for answer in answers] == ["UNSUPPORTED_OPERATION", "TASK_NOT_FOUND"]


async def test_streaming_is_not_offered_and_files_are_not_understood() -> None:
    async with working() as operator:
        part = {"url": "https://example.com/a.pdf"}
        body = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [part]}}
        answers = [
            await operator.client.post(path, json=body, headers=operator.headers)
            for path in ("/message:stream", "/message:send")
        ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert reason(answers[1]) == "CONTENT_TYPE_NOT_SUPPORTED"
