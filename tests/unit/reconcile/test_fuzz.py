"""What the operator is told by others: refused or understood, never a crash, never without a bound.

Objects come from the API server, where admission may have been switched off; journals from a
status; answers from workers, which models and tools have written to.
"""

import asyncio
import base64
import json
import time
import zlib
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tenacity import wait_none

from corral.api.agent import AgentSpec
from corral.api.approval import ApprovalRequestSpec
from corral.api.attempt import EXTENSION, HEADER_IDENTITY
from corral.api.cron import CronSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.workflow import WorkflowSpec
from corral.dispatch import attempts
from corral.dispatch.client import RefusedError, WorkerUnreachableError
from corral.plan.agent import agent_problems, model_problems
from corral.plan.state import JournalError, Run, from_journal
from corral.plan.validate import Problem, workflow_problems
from corral.reconcile.world import read_spec
from tests.unit.dispatch.test_attempts import Bench, task, until
from tests.unit.worker.bench import SHOWN
from tests.unit.worker.test_fuzz import JSON

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXAMPLES = Path(__file__).parents[1] / "api/examples"
KINDS: dict[str, tuple[str, type[BaseModel]]] = {
    "Model": ("model.yaml", ModelSpec),
    "Agent": ("agent.yaml", AgentSpec),
    "AgentPool": ("agentpool.yaml", PoolSpec),
    "Workflow": ("workflow.yaml", WorkflowSpec),
    "WorkflowTemplate": ("workflowtemplate.yaml", TemplateSpec),
    "CronWorkflow": ("cronworkflow.yaml", CronSpec),
    "ApprovalRequest": ("approvalrequest.yaml", ApprovalRequestSpec),
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Everything within a value: what holds it, and under which name or number."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, one in list(inner):
        found.append((value, name))
        if isinstance(one, dict | list):
            found += places(one)
    return found


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_an_object_that_skipped_admission_is_read_or_named(kind: str, data: st.DataObject) -> None:
    file, model = KINDS[kind]
    obj = deepcopy(yaml.safe_load((EXAMPLES / file).read_text()))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, name = data.draw(st.sampled_from(places({"spec": obj["spec"]})))
        if data.draw(st.booleans()) or not isinstance(holder, dict):
            holder[name] = data.draw(JSON)
        else:
            del holder[name]
    if not isinstance(obj.get("spec", {}), dict):
        obj["spec"] = {}  # the API server knows that much of any object
    spec = read_spec(model, obj)
    if isinstance(spec, list):
        assert spec
        assert all(isinstance(problem, Problem) for problem in spec)
        assert all(problem.field.startswith("spec") for problem in spec)
    elif isinstance(spec, WorkflowSpec):
        workflow_problems(spec)
    elif isinstance(spec, AgentSpec):
        agent_problems(spec, {})
    elif isinstance(spec, ModelSpec):
        model_problems(spec)


@FEW
@given(
    text=st.one_of(
        st.text(max_size=50),
        st.builds(lambda body: f"1:{body}", st.text(max_size=50)),
        st.builds(
            lambda value: "1:" + base64.b64encode(zlib.compress(repr(value).encode())).decode(),
            JSON,
        ),
    )
)
def test_a_journal_that_somebody_wrote_is_a_journal_or_none(text: str) -> None:
    try:
        assert isinstance(from_journal(text), Run)
    except JournalError as error:
        assert len(str(error)) < 2000


def test_a_small_journal_of_a_large_size_is_none() -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join([packer.compress(b" " * 2**20) for _ in range(128)]) + packer.flush()
    assert len(bomb) < 2 * 2**20
    started = time.process_time()
    with pytest.raises(JournalError, match="more than"):
        from_journal("1:" + base64.b64encode(bomb).decode())
    assert time.process_time() - started < 2


ANSWER = st.one_of(
    JSON,
    st.builds(
        lambda state, metadata, artifacts: {
            "task": {"status": {"state": state}, "metadata": metadata, "artifacts": artifacts}
        },
        st.sampled_from(["TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_INPUT_REQUIRED"]),
        JSON | st.builds(lambda report: {EXTENSION: report}, JSON),
        JSON,
    ),
    st.builds(
        lambda changes: {
            "task": {
                **task()["task"],
                "metadata": {EXTENSION: {**task()["task"]["metadata"][EXTENSION], **changes}},
            }
        },
        st.dictionaries(
            st.sampled_from(
                ["attemptID", "podUID", "usage", "error", "inputRequired", "durationSeconds"]
            ),
            JSON,
            max_size=3,
        ),
    ),
    st.builds(lambda error: {"error": error}, JSON | st.builds(lambda d: {"details": d}, JSON)),
)


class Mouth:
    """A worker that gives one answer to everything, without a network."""

    def __init__(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        headers = {HEADER_IDENTITY: SHOWN}
        self.made = Bench("http://worker")
        self.made.gone = True  # what can't be understood is asked for once more
        self.made.client._http = httpx.AsyncClient(  # type: ignore[assignment]
            transport=httpx.MockTransport(
                lambda _: httpx.Response(status, stream=httpx.ByteStream(body), headers=headers)
            )
        )


@FEW
@given(answer=ANSWER, status=st.sampled_from([200, 200, 200, 204, 400, 404, 409, 412, 429, 500]))
def test_any_answer_of_a_worker_is_a_result_or_none(answer: Any, status: int) -> None:
    async def scenario() -> None:
        made = Mouth(status, answer).made
        for call in ("follow", "cancel"):
            made.results.clear()
            if call == "follow":
                made.follow()
            else:
                made.attempts.cancel("run.o.0.1.1", made.worker, made.book, made.results.append)
            await until(lambda: bool(made.results))
            [result] = made.results
            assert result.error is None or result.error in ErrorClass
            assert len(result.message) < 2000
        for ask in (made.client.inventory, made.client.drain):
            with suppress(RefusedError, WorkerUnreachableError):
                assert isinstance((await ask(made.worker)).free, int)
        await made.attempts.close()
        await made.client.close()

    with patch.object(attempts, "wait_exponential_jitter", lambda **_: wait_none()):
        asyncio.run(scenario())
