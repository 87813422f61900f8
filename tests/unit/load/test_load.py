"""What the benchmark puts on a cluster, and how it follows what becomes of it."""

import asyncio

import pytest

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.workflow import WorkflowSpec
from corral.kube.client import Json
from tests.load import objects
from tests.load.__main__ import _arguments
from tests.load.parts import PARTS
from tests.load.site import LoadError, Runs, Site
from tests.load.sizes import QUICK, WHOLE, Sizes


def event(what: str, name: str, phase: str = "Running", calls: int = 0) -> Json:
    status: Json = {"phase": phase, "usage": {"requests": calls}}
    if phase == "Succeeded":
        status["finishedAt"] = "2026-01-31T12:00:00Z"
    return {"type": what, "object": {"metadata": {"name": name}, "status": status}}


def runs(timeout: float = 5.0) -> Runs:
    found = Runs(Site(None, Sizes(timeout=timeout)), "ns")  # type: ignore[arg-type]
    found.made = {"a": 0.0, "b": 0.0}
    return found


def test_what_is_put_on_the_cluster_is_as_the_api_has_it() -> None:
    ModelSpec.model_validate(objects.model("m", "50ms")["spec"])
    AgentSpec.model_validate(objects.agent("m")["spec"])
    PoolSpec.model_validate(objects.pool("m", 1, 64)["spec"])
    chain = WorkflowSpec.model_validate(objects.chain("c", 3, "m", suspend=True)["spec"])
    assert [step.depends_on for step in chain.steps or []] == [None, ["s0"], ["s1"]]
    assert chain.suspend
    wide = WorkflowSpec.model_validate(objects.wide("w", 1000, "m")["spec"])
    assert wide.steps and wide.steps[0].for_each is not None


async def test_who_has_finished_is_told_by_the_watch_and_others_workflows_do_not_count() -> None:
    followed = runs()
    waiting = asyncio.create_task(followed.until_finished(["a", "b"]))
    followed._see(event("ADDED", "a"))
    followed._see(event("MODIFIED", "a", "Succeeded", calls=2))
    followed._see(event("MODIFIED", "other", "Succeeded", calls=50))
    await asyncio.sleep(0)
    assert not waiting.done()
    followed._see(event("MODIFIED", "b", "Succeeded", calls=1))
    await waiting
    assert followed.phases() == {"Succeeded": 2}
    assert followed.model_calls() == 3
    assert followed.changes["a"] == 1


async def test_what_does_not_finish_in_time_is_told_with_where_it_got_to() -> None:
    followed = runs(timeout=0.01)
    followed._see(event("ADDED", "a", "Succeeded"))
    followed._see(event("ADDED", "b", "Running"))
    with pytest.raises(LoadError, match=r"ns: not all of 2 finished .* 1 Succeeded, 1 Running"):
        await followed.until_finished(["a", "b"])


def test_a_watch_that_the_server_ends_is_an_error() -> None:
    with pytest.raises(LoadError, match="too old"):
        runs()._see({"type": "ERROR", "object": {"message": "too old resource version"}})


def test_parts_and_sizes_are_chosen_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "somewhere")
    monkeypatch.setattr("sys.argv", ["load"])
    options, sizes = _arguments()
    assert (options.only, sizes) == (list(PARTS), WHOLE)
    monkeypatch.setattr("sys.argv", ["load", "--quick", "--only=wide,floor", "--width=7"])
    options, sizes = _arguments()
    assert options.only == ["wide", "floor"]
    assert (sizes.width, sizes.chains) == (7, QUICK.chains)
    assert options.sizes == "--quick --width=7"


@pytest.mark.parametrize(
    ("words", "message"), [(["--only=none"], "no such part: none"), ([], "KUBECONFIG")]
)
def test_what_can_not_be_run_is_refused(
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["load", *words])
    if words:
        monkeypatch.setenv("KUBECONFIG", "somewhere")
    else:
        monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(SystemExit):
        _arguments()
    assert message in capsys.readouterr().err
