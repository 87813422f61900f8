"""A pass over a CronWorkflow against an API server that refuses, loses and takes names."""

from typing import Any, cast

import pytest

from corral.kube.client import CRONS, WORKFLOWS, ApiError, Kind, Kube
from corral.plan.times import parse
from corral.reconcile.crons import Crons
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.world import Wake, World

Json = dict[str, Any]
KEY = ("ns", "c")
NOON = parse("2026-06-01T12:00:00Z")
MINUTE = int(NOON // 60)


class FakeKube:
    """Workflows and one CronWorkflow; what is to fail is said beforehand."""

    def __init__(self) -> None:
        self.time = NOON + 61
        self.objects: dict[tuple[str, str], Json] = {}
        self.version = 1
        self.calls: list[str] = []
        self.refuses: dict[str, ApiError] = {}

    def now(self) -> float:
        return self.time

    def put(self, kind: Kind, obj: Json) -> Json:
        self.version += 1
        meta = obj["metadata"]
        stored = {**obj, "metadata": {**meta, "resourceVersion": str(self.version)}}
        stored["metadata"].setdefault("uid", f"uid-{meta['name']}-{self.version}")
        stored["metadata"].setdefault("creationTimestamp", "2026-06-01T12:00:30Z")
        stored["metadata"].setdefault("generation", 1)
        self.objects[(kind.plural, meta["name"])] = stored
        return {**stored, "metadata": dict(stored["metadata"])}

    def _called(self, verb: str, name: str) -> None:
        self.calls.append(f"{verb} {name}")
        if verb in self.refuses:
            raise self.refuses.pop(verb)

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        self._called("get", name)
        return self.objects[(kind.plural, name)]

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        name = body["metadata"]["name"]
        self._called("create", name)
        if (kind.plural, name) in self.objects:
            raise ApiError(409, "AlreadyExists", "exists")
        return self.put(kind, body)

    make = Kube.make

    async def put_status(self, kind: Kind, obj: Json) -> Json:
        self._called("status", obj["metadata"]["name"])
        return self.put(kind, obj)

    async def patch(self, kind: Kind, namespace: str, name: str, changes: Json) -> Json:
        self._called("patch", name)
        found = self.objects[(kind.plural, name)]
        return self.put(kind, {**found, "spec": {**found["spec"], **changes["spec"]}})

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        self._called("delete", name)
        del self.objects[(kind.plural, name)]


class Lab:
    """A cron that is made anew by every operator."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **spec: Any) -> None:
        self.kube = FakeKube()
        self.events: list[str] = []
        self.wishes: list[float] = []
        self.woken: list[str] = []
        work = {"steps": [{"name": "a", "transform": "x"}], "fromTheFuture": 1}
        meta = {
            "name": "c",
            "namespace": "ns",
            "annotations": {"corral.dev/created-by": "anna", "other": "note"},
            "labels": {"team": "x"},
        }
        self.kube.put(
            CRONS,
            {
                "apiVersion": "corral.dev/v1alpha1",
                "kind": "CronWorkflow",
                "metadata": meta,
                "spec": {"schedule": "* * * * *", "workflowSpec": work, **spec},
            },
        )

        async def post(kube: Any, about: Json, kind: str, reason: str, message: str) -> None:
            self.events.append(reason)

        monkeypatch.setattr("corral.reconcile.crons.post_event", post)
        self.restart()

    def restart(self) -> None:
        """Another operator, which lists everything."""
        wake = Wake(
            cron=lambda _, delay=0.0: self.wishes.append(delay),
            workflow=lambda key, delay=0.0: self.woken.append(key[1]),
        )
        nothing: Any = None  # these passes call nobody but the API server
        self.world = World(
            cast("Any", self.kube), nothing, nothing, nothing, nothing, "", wake=wake
        )
        self.crons = Crons(self.world)
        for (plural, _), obj in self.kube.objects.items():
            store = self.world.crons if plural == "cronworkflows" else self.world.workflows
            store.see({**obj, "metadata": dict(obj["metadata"])})

    async def turn(self) -> list[str]:
        """One pass; the calls that it made."""
        before = len(self.kube.calls)
        await self.crons.reconcile(KEY)
        return self.kube.calls[before:]

    @property
    def status(self) -> Json:
        found: Json = self.kube.objects[("cronworkflows", "c")].get("status", {})
        return found

    @property
    def runs(self) -> list[str]:
        return [name for plural, name in self.kube.objects if plural == "workflows"]


RUN = f"c-{MINUTE + 1}"


async def test_the_run_is_made_before_the_status_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch)
    assert await lab.turn() == [f"create {RUN}", "status c"]
    assert lab.status["active"] == [RUN]
    assert lab.woken == [RUN], "its watch has nothing new to tell"
    assert lab.events == ["Created"]
    [delay] = lab.wishes
    assert delay == pytest.approx(59)
    assert await lab.turn() == []


async def test_a_run_has_the_crons_spec_whole_and_its_creator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    await lab.turn()
    made = lab.kube.objects[("workflows", RUN)]
    assert made["spec"]["fromTheFuture"] == 1
    assert made["metadata"]["annotations"] == {"corral.dev/created-by": "anna"}
    assert "team" not in made["metadata"]["labels"]


async def test_an_operator_that_died_before_the_status_has_a_successor_that_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    lab.kube.refuses["status"] = ApiError(0, "Unreachable", "no")
    with pytest.raises(RetryLaterError):
        await lab.turn()
    lab.restart()
    assert await lab.turn() == ["status c"]
    assert lab.runs == [RUN]
    assert lab.status["lastScheduleTime"] == "2026-06-01T12:01:00Z"


async def test_a_run_that_no_watch_has_told_of_yet_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    await lab.turn()
    lab.kube.objects[("cronworkflows", "c")].pop("status")
    lab.restart()
    lab.world.workflows.remove(("ns", RUN))
    assert await lab.turn() == [f"create {RUN}", f"get {RUN}"]
    assert lab.wishes[-1] == 0
    assert await lab.turn() == ["status c"]
    assert lab.status["missed"] == 0


async def test_somebody_elses_workflow_of_that_name_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    lab.kube.put(WORKFLOWS, {"metadata": {"name": RUN, "namespace": "ns"}, "spec": {}})
    assert await lab.turn() == [f"create {RUN}", f"get {RUN}"]
    assert await lab.turn() == ["status c"]
    assert lab.status["missed"] == 1
    assert lab.events == ["NameTaken"]


async def test_what_the_api_server_will_not_have_is_said_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    for _ in range(2):
        lab.kube.refuses["create"] = ApiError(403, "Forbidden", "exceeded quota")
        with pytest.raises(RetryLaterError) as caught:
            await lab.turn()
        assert caught.value.after == 30
    [ready] = [c for c in lab.status["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "Failed")
    assert f"Workflow {RUN} can't be made: exceeded quota" in ready["message"]
    assert lab.kube.calls.count("status c") == 1, "the same is not written twice"
    await lab.turn()
    assert lab.runs == [RUN]
    [ready] = [c for c in lab.status["conditions"] if c["type"] == "Ready"]
    assert ready["status"] == "True"


async def test_the_old_run_is_stopped_before_the_new_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch, concurrencyPolicy="Replace")
    await lab.turn()
    lab.kube.time += 60
    assert await lab.turn() == [f"patch {RUN}", f"create c-{MINUTE + 2}", "status c"]
    assert lab.kube.objects[("workflows", RUN)]["spec"]["shutdown"] == "Stop"
    assert lab.woken == [RUN, RUN, f"c-{MINUTE + 2}"]
    assert "Replaced" in lab.events


async def test_what_is_deleted_was_told_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch, historyLimits={"succeeded": 0})
    await lab.turn()
    run = lab.kube.objects[("workflows", RUN)]
    ended = {"phase": "Succeeded", "finishedAt": "2026-06-01T12:01:20Z"}
    lab.world.workflows.see(lab.kube.put(WORKFLOWS, {**run, "status": ended}))
    assert await lab.turn() == ["status c", f"delete {RUN}"]
    assert lab.status["lastSuccessfulTime"] == "2026-06-01T12:01:20Z"


async def test_a_spec_of_a_newer_version_stalls_the_cron_and_keeps_its_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(monkeypatch)
    await lab.turn()
    obj = lab.kube.objects[("cronworkflows", "c")]
    newer = {**obj, "spec": {**obj["spec"], "schedule": {"every": "1h"}}}
    lab.world.crons.see(lab.kube.put(CRONS, newer))
    await lab.turn()
    [stalled] = [c for c in lab.status["conditions"] if c["type"] == "Stalled"]
    assert stalled["status"] == "True"
    assert "spec.schedule" in stalled["message"]
    assert lab.status["lastScheduleTime"] == "2026-06-01T12:01:00Z"


async def test_a_cron_that_is_gone_or_going_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch)
    obj = lab.kube.objects[("cronworkflows", "c")]
    going = {**obj["metadata"], "deletionTimestamp": "2026-06-01T12:00:59Z"}
    lab.world.crons.see(lab.kube.put(CRONS, {**obj, "metadata": going}))
    assert await lab.turn() == []
    lab.world.crons.remove(KEY)
    assert await lab.turn() == []
