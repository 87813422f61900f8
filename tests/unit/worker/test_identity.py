"""Who the worker says it is: to callers that it has verified, and to nobody else."""

from pathlib import Path

from corral.api.attempt import HEADER_IDENTITY
from corral.worker.app import OPEN_PATHS
from corral.worker.identity import FileIdentity
from tests.unit.worker.bench import SHOWN, working


async def test_every_answer_to_the_operator_says_who_the_worker_is() -> None:
    async with working() as operator:
        answers = [
            await operator.send("r.a.0.1.1"),
            await operator.task("r.a.0.1.1"),
            await operator.task("r.unknown.0.1.1"),
            await operator.send("r.b.0.1.1", headers={"Corral-Epoch": "6"}),
            await operator.ack("r.a.0.1.1"),
            await operator.client.post("/", headers=operator.headers, content=b"{"),
            await operator.client.post(
                "/message:send", headers=operator.headers, content=b"x" * (16 * 2**20 + 1)
            ),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 412, 204, 200, 413]
    assert [answer.headers.get(HEADER_IDENTITY) for answer in answers] == [SHOWN] * len(answers)


async def test_nobody_else_is_told() -> None:
    async with working() as operator:
        answers = [await operator.client.get(path) for path in sorted(OPEN_PATHS)]
        answers += [
            await operator.client.get("/corral/v1/inventory"),
            await operator.client.get(
                "/corral/v1/inventory", headers={"Authorization": "Bearer wrong"}
            ),
        ]
    for answer in answers:
        assert HEADER_IDENTITY not in answer.headers
        assert SHOWN not in answer.text


def test_a_renewed_token_is_read_again_but_not_at_every_call(tmp_path: Path) -> None:
    now = 1000.0
    file = tmp_path / "token"
    identity = FileIdentity(str(file), lambda: now)
    assert identity() is None
    file.write_text("one\n")
    assert identity() == "one"
    file.write_text("two")
    assert identity() == "one"
    now += 31
    assert identity() == "two"
    file.unlink()
    now += 31
    assert identity() is None
