"""CronWorkflows by the real clock: three minutes that all of them share, in the second of which
nobody leads."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pytest
import yaml

from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Cluster, Json, condition, why
from tests.cluster.lab import SYSTEM

QUICK = {"steps": [{"name": "a", "transform": "x"}], "output": "$(steps.a.output)"}
LONG = {"steps": [{"name": "a", "wait": {"duration": "1h"}}]}
BROKEN = {"steps": [{"name": "a", "transform": "$(1 / int(string(0)))"}]}
EVERY_MINUTE = "* * * * *"
DEPLOYMENT = "deployment/corral-operator"


def cron(name: str, work: Json, schedule: str = EVERY_MINUTE, **spec: object) -> Json:
    return {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": {"name": name, "labels": {"team": "users"}},
        "spec": {"schedule": schedule, "workflowSpec": work, **spec},
    }


CRONS = (
    cron("allow", LONG),
    cron("forbid", LONG, concurrencyPolicy="Forbid"),
    cron("replace", LONG, concurrencyPolicy="Replace", historyLimits={"failed": 5}),
    cron("quick", QUICK, timeZone="Asia/Kathmandu", historyLimits={"succeeded": 1}),
    cron("broken", BROKEN, historyLimits={"failed": 2}),
    cron("paused", QUICK, suspend=True),
    cron("nightly", QUICK, "@daily", timeZone="Europe/Berlin"),
    cron("nowhere", QUICK, timeZone="Europe/Atlantis"),
    cron("never", QUICK, "0 0 30 2 *"),
    cron("taken", QUICK),
)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


@dataclass
class Story:
    """What had become of everything after the three minutes."""

    cluster: Cluster
    minutes: list[int]
    """The scheduled minutes, in minutes since the epoch."""
    user: str

    def runs(self, name: str) -> dict[str, Json]:
        """A cron's Workflows, by name."""
        found = self.cluster.list("workflow", f"--selector=corral.dev/cron={name}")
        return {run["metadata"]["name"]: run for run in found}

    def status(self, name: str) -> Json:
        found: Json = self.cluster.get("ccron", name)["status"]
        return found

    def names(self, name: str, *which: int) -> list[str]:
        """The Workflows' names of the first, second, third minute."""
        return [f"{name}-{self.minutes[n - 1]}" for n in which or (1, 2, 3)]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with fresh_namespace() as cluster:
        me = json.loads(cluster.kubectl("auth", "whoami", "--output=json").stdout)
        user = me["status"]["userInfo"]["username"]
        if time.time() % 60 > 50:
            time.sleep(11)
        first = int(time.time() // 60) + 1
        CRONS[0]["metadata"]["annotations"] = {"corral.dev/created-by": user}
        squatter = {
            "apiVersion": "corral.dev/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": f"taken-{first}"},
            "spec": {"suspend": True, **QUICK},
        }
        cluster.apply(yaml.safe_dump_all([*CRONS, squatter]))
        assert time.time() < first * 60 - 1, "the machine is too slow for this test"
        replicas = SYSTEM.get("deployment", "corral-operator")["spec"]["replicas"]
        sleep_until((first + 1) * 60 - 15)
        SYSTEM.kubectl("scale", DEPLOYMENT, "--replicas=0")
        try:
            SYSTEM.gone("pod", "app.kubernetes.io/component=operator", timeout=14)
            assert time.time() < (first + 1) * 60, "the operator was there for too long"
            sleep_until((first + 1) * 60 + 2)
        finally:
            SYSTEM.kubectl("scale", DEPLOYMENT, f"--replicas={replicas}")
        sleep_until((first + 2) * 60 + 8)
        yield Story(cluster, [first, first + 1, first + 2], user)


def test_every_minute_has_its_run_once_also_the_one_that_nobody_led(story: Story) -> None:
    runs = story.runs("allow")
    assert list(runs) == story.names("allow")
    late = {
        name: seconds(run["metadata"]["creationTimestamp"]) - 60 * minute
        for (name, run), minute in zip(runs.items(), story.minutes, strict=True)
    }
    first, second, third = late.values()
    assert 0 <= first <= 2, late
    assert 0 <= third <= 2, late
    assert second > 1, "somebody led"
    status = story.status("allow")
    assert status["missed"] == 0
    assert status["active"] == list(runs)
    assert seconds(status["lastScheduleTime"]) == 60 * story.minutes[2]
    assert seconds(status["nextScheduleTime"]) == 60 * (story.minutes[2] + 1)


def test_a_run_is_owned_by_its_cron_and_carries_its_creator_but_not_its_labels(
    story: Story,
) -> None:
    owner = story.cluster.get("ccron", "allow")["metadata"]
    for run in story.runs("allow").values():
        meta = run["metadata"]
        [reference] = meta["ownerReferences"]
        assert (reference["kind"], reference["uid"]) == ("CronWorkflow", owner["uid"])
        assert reference["controller"] is True
        assert meta["annotations"]["corral.dev/created-by"] == story.user
        assert "team" not in meta["labels"]
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "corral"
    for run in story.runs("forbid").values():
        assert "corral.dev/created-by" not in run["metadata"].get("annotations", {})


def test_replace_stops_the_run_before(story: Story) -> None:
    runs = story.runs("replace")
    assert list(runs) == story.names("replace")
    assert [run["status"]["phase"] for run in runs.values()] == ["Stopped", "Stopped", "Running"]


def test_history_keeps_as_many_as_it_says(story: Story) -> None:
    assert list(story.runs("quick")) == story.names("quick", 3)
    [run] = story.runs("quick").values()
    assert (run["status"]["phase"], run["status"]["output"]) == ("Succeeded", "x")
    status = story.status("quick")
    assert seconds(status["lastSuccessfulTime"]) >= 60 * story.minutes[2]
    assert "active" not in status
    assert list(story.runs("broken")) == story.names("broken", 2, 3)
    assert {run["status"]["phase"] for run in story.runs("broken").values()} == {"Failed"}


def test_what_is_suspended_makes_nothing_and_says_so(story: Story) -> None:
    found = story.cluster.get("ccron", "paused")
    assert story.runs("paused") == {}
    assert condition(found, "Suspended") == "True"
    assert "nextScheduleTime" not in found["status"]


def test_the_next_time_is_by_the_zone(story: Story) -> None:
    coming = datetime.fromisoformat(story.status("nightly")["nextScheduleTime"])
    assert coming.hour in (22, 23)
    assert story.runs("nightly") == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "spec.timeZone: there is no time zone 'Europe/Atlantis'"),
        ("never", "spec.schedule: "),
    ],
)
def test_what_cannot_be_is_stalled(story: Story, name: str, message: str) -> None:
    found = story.cluster.get("ccron", name)
    assert condition(found, "Stalled") == "True"
    assert message in why(found, "Stalled")
    assert story.runs(name) == {}


def test_somebody_elses_workflow_of_a_runs_name_is_left_alone(story: Story) -> None:
    squatter = story.cluster.get("workflow", story.names("taken", 1)[0])
    assert squatter["spec"]["suspend"] is True
    assert list(story.runs("taken")) == story.names("taken", 2, 3)
    assert story.status("taken")["missed"] == 1
    assert "NameTaken" in story.cluster.events("taken", "NameTaken")


def test_idle_crons_are_not_written(story: Story) -> None:
    before = story.cluster.get("ccron", "nightly")["metadata"]["resourceVersion"]
    time.sleep(3)
    assert story.cluster.get("ccron", "nightly")["metadata"]["resourceVersion"] == before


def test_forbid_waits_for_the_run_before_and_then_makes_the_latest(story: Story) -> None:
    runs = story.runs("forbid")
    assert list(runs) == story.names("forbid", 1)
    assert "AlreadyActive" in story.cluster.events("forbid", "AlreadyActive")
    [first] = runs
    story.cluster.patch("workflow", first, {"spec": {"shutdown": "Terminate"}})
    latest = f"forbid-{int(time.time() // 60)}"
    story.cluster.wait("workflow", latest, lambda _: True, "made", timeout=10)
    status = story.cluster.wait(
        "ccron", "forbid", lambda c: c["status"]["active"] == [latest], "told of", timeout=5
    )["status"]
    assert status["missed"] == int(latest.rpartition("-")[2]) - story.minutes[0] - 1


def test_runs_go_with_their_cron(story: Story) -> None:
    story.cluster.kubectl("delete", "ccron", "replace")
    story.cluster.gone("workflow", "corral.dev/cron=replace")
