"""Alerts that real faults make fire and resolve, in a real Prometheus and Alertmanager.

`make alerts-test`: the rules run sixty times as fast there. What no fault from outside can cause
(several leaders, errors that nobody expected), and what takes days, promtool alone tests:
tests/unit/prometheus.
"""

import itertools
import json
import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml

from cluster import observe
from cluster.config import VOLUME
from grafana.prometheus_api import Prometheus
from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.gitops import crds
from tests.cluster.harness import REPO, Cluster, Json, simulated
from tests.cluster.lab import (
    SYSTEM,
    Lab,
    agent,
    each,
    lease,
    led_since,
    searches,
    served_model,
    step,
    tool_server,
    workflow,
)

OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
MONITORED = ("servicemonitors", "podmonitors", "prometheusrules")
CRDS = "example/prometheus-operator-crd/monitoring.coreos.com"
PATIENCE = 120.0
"""Seconds until an alert has failed to come, or to go."""
DEAR = '{inputPerMillionUSD: "1000", outputPerMillionUSD: "1000"}'
"""By simulated() a call has 70 tokens: 0.07 USD."""
MODELS = (
    simulated("good")
    + simulated("bad", "failurePercent: 100")
    + simulated("slow", "latency: 9s")
    + simulated("steady", "latency: 300ms")
    + simulated("dear", price=DEAR)
)


class Watch:
    """What Prometheus and Alertmanager say."""

    def __init__(self, at: observe.Addresses, namespace: str) -> None:
        self.at, self.namespace = at, namespace
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def _get(self, url: str) -> Json:
        with self.open(url, timeout=10) as answer:
            found: Json = json.loads(answer.read())
        return found

    def query(self, expr: str) -> list[Json]:
        """What an expression gives now."""
        return Prometheus(self.at.prometheus).now(expr)

    def active(self) -> set[str]:
        """Alerts that Alertmanager has, of this test's namespace or of none."""
        everything = self._get(f"{self.at.alertmanager}/api/v2/alerts?active=true")
        return {
            one["labels"]["alertname"]
            for one in everything
            if one["labels"].get("namespace", self.namespace) == self.namespace
        }

    def until(
        self,
        holds: Callable[[set[str]], bool],
        what: str,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Waits until Alertmanager's alerts are as they should be; does something meanwhile."""
        end = time.monotonic() + PATIENCE
        while not holds(active := self.active()):
            assert time.monotonic() < end, f"not {what}: {sorted(active)}"
            meanwhile()
            time.sleep(0.2)

    @contextmanager
    def fires(self, *names: str) -> Iterator[None]:
        """The block's fault has these alerts fire; they resolve once it is over."""
        started = time.monotonic()
        yield
        self.until(set(names).isdisjoint, f"resolved: {names}")
        print(f"{', '.join(names)}: gone {time.monotonic() - started:.0f} s after the fault began")

    def comes(self, *names: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Waits until these fire."""
        started = time.monotonic()
        self.until(set(names).issubset, f"firing: {names}", meanwhile)
        print(f"{', '.join(names)}: fired after {time.monotonic() - started:.0f} s")


@pytest.fixture(scope="module")
def lab(at: observe.Addresses) -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        cluster.apply(MODELS)
        made.make(served_model("silent", {"timeout": "2s"}))
        objects: list[Json] = [*agent("worker"), *agent("silent", model="silent")]
        for name in ("good", "bad", "slow", "steady"):
            objects += agent(name, model=name)
        made.build({"latency": "20ms", "rules": []}, *objects, *tool_server())
        yield made


@pytest.fixture(scope="module")
def watch(at: observe.Addresses, lab: Lab) -> Watch:
    return Watch(at, lab.cluster.namespace)


def test_operator_and_workers_are_scraped(watch: Watch) -> None:
    watch.until(lambda _: len(watch.query('up{job="corral-workers"} == 1')) >= 6, "scraped")
    assert len(watch.query('up{job="corral-operator"} == 1')) == 1
    [running] = watch.query("sum(corral_leader)")
    assert running["value"][1] == "1"
    rules = watch._get(f"{watch.at.prometheus}/api/v1/rules")["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
    assert set(health.values()) == {"ok"}, health


def test_steps_that_fail(lab: Lab, watch: Watch) -> None:
    with watch.fires("CorralStepsFailFast", "CorralStepsFail"):
        count = itertools.count()

        def fail() -> None:
            steps = [step(f"s{k}", agent="bad") for k in range(5)]
            lab.make(workflow(f"fails-{next(count)}", *steps, failFast=False))

        watch.comes("CorralStepsFailFast", "CorralStepsFail", meanwhile=fail)


def test_steps_that_are_slow(lab: Lab, watch: Watch) -> None:
    with watch.fires("CorralStepsSlow"):
        names = [f"s{n}" for n in range(3)]
        for run in range(3):
            chain = [
                step(name, *names[max(0, k - 1) : k], agent="slow") for k, name in enumerate(names)
            ]
            lab.make(workflow(f"slow-{run}", *chain))
            time.sleep(3)
        watch.comes("CorralStepsSlow")


def test_steps_that_nobody_works_on(lab: Lab, watch: Watch) -> None:
    lab.cluster.kubectl("scale", "agentpool/good", "--replicas=0")
    with watch.fires("CorralQueueDeep", "CorralQueueOld", "CorralWorkflowStuck"):
        items = [str(n) for n in range(150)]
        lab.make(workflow("deep", step("wide", agent="good", input="$(item)", **each(*items))))
        watch.comes("CorralQueueDeep", "CorralQueueOld", "CorralWorkflowStuck")
        lab.cluster.kubectl("scale", "agentpool/good", "--replicas=1")
    assert lab.cluster.finished("deep")["status"]["phase"] == "Succeeded"


def test_a_pool_whose_workers_fit_nowhere(lab: Lab, watch: Watch) -> None:
    def place(selector: Json | None) -> None:
        lab.cluster.patch("agentpool", "steady", {"spec": {"template": {"nodeSelector": selector}}})

    with watch.fires("CorralPoolCannotStart"):
        place({"nowhere": "true"})
        watch.comes("CorralPoolCannotStart")
        place(None)


def test_workers_that_die_again_and_again(lab: Lab, watch: Watch) -> None:
    lab.cluster.kubectl("scale", "agentpool/bad", "--replicas=5")
    lab.ready("bad", 5)
    with watch.fires("CorralWorkersCrash"):
        for pod in lab.workers("bad"):
            processes.kill(processes.of_pod(pod))
        watch.comes("CorralWorkersCrash")
    lab.cluster.kubectl("scale", "agentpool/bad", "--replicas=1")


def test_budgets_that_are_nearly_gone_and_a_namespace_that_spends_more(
    lab: Lab, watch: Watch
) -> None:
    budget = {"period": "Monthly", "maxCostUSD": "20.00"}
    of_call = {"limits": {"maxCostUSD": "0.08"}, "budget": budget}
    lab.make(*agent("dear", model="dear", more=of_call))
    lab.ready("dear", 1)
    # What it is compared with: a little, an hour before (a minute at this pace).
    lab.make(workflow("before", step("one", agent="dear"), step("two", "one", agent="dear")))
    lab.cluster.finished("before")
    time.sleep(65)
    budgets = ("CorralAgentBudgetNearlyGone", "CorralWorkflowBudgetNearlyGone")
    with watch.fires(*budgets, "CorralCostSpike"):
        items = [str(n) for n in range(262)]
        wide = step("wide", agent="dear", input="$(item)", **each(*items))
        # Which keeps the run unfinished for a while.
        then = [step("then", "wide", agent="slow"), step("last", "then", agent="slow")]
        lab.make(workflow("spends", wide, *then, budget={"maxCostUSD": "20.00"}))
        watch.comes(*budgets, "CorralCostSpike")
        lab.cluster.patch("workflow", "spends", {"spec": {"budget": {"maxCostUSD": "100.00"}}})
        lab.cluster.patch("agent", "dear", {"spec": {"budget": {"maxCostUSD": "100.00"}}})


def test_calls_whose_cost_nobody_knows(lab: Lab, watch: Watch) -> None:
    # One that no answer ended: answers of a test's model server count as simulated.
    lab.answer_by({"rules": [{"match": "^unknown", "fault": "Hang"}]})
    with watch.fires("CorralUnpricedUsage"):
        lab.make(workflow("unknown", step("one", agent="silent", input="unknown")))
        lab.cluster.finished("unknown")
        watch.comes("CorralUnpricedUsage")


def test_a_model_that_does_not_answer(lab: Lab, watch: Watch) -> None:
    lab.answer_by({"rules": [{"match": "", "fault": "ServerError"}]})
    patient: Json = {"retryStrategy": {"limit": 100, "backoff": {"duration": "1s"}}}
    with watch.fires("CorralCircuitOpen"):
        lab.make(workflow("unanswered", step("one", **patient)))
        watch.comes("CorralCircuitOpen")
        lab.answer_by({"rules": []})
    assert lab.cluster.finished("unanswered")["status"]["phase"] == "Succeeded"


def test_a_tool_server_that_is_gone(lab: Lab, watch: Watch) -> None:
    search = searches(
        *"abcdefgh",
        retryStrategy={"limit": 100, "backoff": {"duration": "200ms", "maxDuration": "1s"}},
    )
    lab.cluster.kubectl("scale", "deployment/tool-server", "--replicas=0")
    with watch.fires("CorralToolServerDown"):
        lab.make(workflow("without-tools", search))
        watch.comes("CorralToolServerDown")
        lab.cluster.kubectl("scale", "deployment/tool-server", "--replicas=1")
    assert lab.cluster.finished("without-tools")["status"]["phase"] == "Succeeded"


def test_an_artifact_store_that_is_gone(lab: Lab, watch: Watch) -> None:
    volume = processes.folder() / VOLUME
    mode = volume.stat().st_mode
    volume.chmod(0)
    with watch.fires("CorralArtifactStoreDown"):
        try:
            # More than the journal keeps: it has to be stored.
            large: Json = {"name": "size", "transform": "$(arguments.text)"}
            lab.make(workflow("large", large, arguments={"text": "x" * 5000}))
            watch.comes("CorralArtifactStoreDown")
        finally:
            volume.chmod(mode)
    assert lab.cluster.finished("large")["status"]["phase"] == "Succeeded"


@contextmanager
def ledger_held(statement: str, undo: str) -> Iterator[None]:
    """Somebody else does that to the ledger's file."""
    file = sqlite3.connect(processes.folder() / VOLUME / "ledger.db", isolation_level=None)
    try:
        file.execute("PRAGMA busy_timeout=10000")
        file.execute(statement)
        try:
            yield
        finally:
            file.execute(undo)
    finally:
        file.close()


def in_ledger(name: str) -> int:
    """How many rows of a Workflow there are."""
    file = sqlite3.connect(processes.folder() / VOLUME / "ledger.db")
    asked = "SELECT count(*) FROM corral_ledger WHERE workflow = ?"
    try:
        return int(file.execute(asked, (name,)).fetchone()[0])
    finally:
        file.close()


def test_a_ledger_that_cannot_be_written(lab: Lab, watch: Watch) -> None:
    with watch.fires("CorralLedgerBehind"), ledger_held("BEGIN EXCLUSIVE", "ROLLBACK"):
        lab.make(workflow("unbooked", step("one", agent="good")))
        assert lab.cluster.finished("unbooked")["status"]["phase"] == "Succeeded"
        watch.comes("CorralLedgerBehind")
    assert in_ledger("unbooked") == 1


def test_a_ledger_that_refuses_rows(lab: Lab, watch: Watch) -> None:
    refuse = (
        "CREATE TRIGGER refuse BEFORE INSERT ON corral_ledger WHEN NEW.workflow = 'refused' "
        "BEGIN SELECT RAISE(ABORT, 'not here'); END"
    )
    with watch.fires("CorralLedgerRefusesRows"), ledger_held(refuse, "DROP TRIGGER refuse"):
        lab.make(workflow("refused", step("one", agent="good")))
        watch.comes("CorralLedgerRefusesRows")
    assert in_ledger("refused") == 0


def test_a_collector_that_hangs(lab: Lab, watch: Watch) -> None:
    store = processes.of_component("traces")
    processes.kill(store, signal.SIGSTOP)
    with watch.fires("CorralTracesBehind"):
        try:
            lab.make(workflow("untold", step("one", agent="good")))
            watch.comes("CorralTracesBehind")
        finally:
            processes.kill(store, signal.SIGCONT)
    assert lab.cluster.finished("untold")["status"]["phase"] == "Succeeded"


def test_an_operator_that_is_away_and_a_time_that_it_misses(lab: Lab, watch: Watch) -> None:
    cron = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": {"name": "often"},
        "spec": {
            "schedule": "* * * * *",
            "startingDeadline": "1s",
            "workflowSpec": {"steps": [step("one", agent="good")]},
        },
    }
    lab.make(cron)
    epoch = lease()["leaseTransitions"]
    scale = ("scale", "deployment/corral-operator")
    with watch.fires("CorralOperatorDown", "CorralCronMissed"):
        SYSTEM.kubectl(*scale, "--replicas=0")
        try:
            watch.comes("CorralOperatorDown")
            time.sleep(max(0.0, 65 - time.time() % 60))
        finally:
            SYSTEM.kubectl(*scale, "--replicas=1")
        led_since(epoch, 60)
        watch.comes("CorralCronMissed")
        lab.cluster.kubectl("delete", "cronworkflow", "often")


def test_operators_of_which_none_leads(lab: Lab, watch: Watch) -> None:
    epoch = lease()["leaseTransitions"]
    taken = {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}
    with watch.fires("CorralNobodyLeads"):
        SYSTEM.patch("lease", "corral-operator", {"spec": taken})
        try:
            watch.comes("CorralNobodyLeads")
        finally:
            SYSTEM.patch("lease", "corral-operator", {"spec": {"holderIdentity": ""}})
        led_since(epoch, 90)


def test_somebody_who_writes_the_same_objects(lab: Lab, watch: Watch) -> None:
    names = [f"s{n}" for n in range(60)]
    chain = [step(name, *names[max(0, k - 1) : k], agent="steady") for k, name in enumerate(names)]
    over = threading.Event()

    def meddle() -> None:
        count = 0
        while not over.is_set():
            count += 1
            change = {"metadata": {"annotations": {"example.com/count": str(count)}}}
            lab.cluster.patch("workflow", "written", change)

    with watch.fires("CorralApiConflicts"):
        lab.make(workflow("written", *chain))
        meddlers = [threading.Thread(target=meddle) for _ in range(2)]
        for one in meddlers:
            one.start()
        try:
            watch.comes("CorralApiConflicts")
        finally:
            over.set()
            for one in meddlers:
                one.join()
    assert lab.cluster.finished("written")["status"]["phase"] == "Succeeded"


def test_an_api_server_that_is_away(lab: Lab, watch: Watch) -> None:
    names = [f"s{n}" for n in range(60)]
    chain = [step(name, *names[max(0, k - 1) : k], agent="steady") for k, name in enumerate(names)]
    lab.make(workflow("cut-off", *chain))

    def keep_down() -> None:
        if found := processes.of_component("kube-apiserver"):
            processes.kill(found)

    with watch.fires("CorralApiErrors"):
        watch.comes("CorralApiErrors", meanwhile=keep_down)
    assert lab.cluster.finished("cut-off", timeout=180)["status"]["phase"] == "Succeeded"


def test_the_shipped_monitors_are_valid(at: observe.Addresses) -> None:
    found = [crd for kind in MONITORED for crd in crds(*OPERATOR, f"{CRDS}_{kind}.yaml")]
    names = [f"crd/{crd['metadata']['name']}" for crd in found]
    cluster = Cluster("default")
    cluster.kubectl("apply", "--server-side", "--filename=-", input=yaml.safe_dump_all(found))
    try:
        cluster.kubectl("wait", "--for=condition=Established", *names)
        kustomized = cluster.kubectl("kustomize", str(REPO / "manifests/monitoring")).stdout
        dry = ("create", "--dry-run=server", "--validate=strict", "--filename=-")
        SYSTEM.kubectl(*dry, input=kustomized)
    finally:
        cluster.kubectl("delete", "--wait=false", *names)
