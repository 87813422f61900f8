"""Pools that somebody else scales: a HorizontalPodAutoscaler for real, KEDA's objects by schema."""

import time
from collections.abc import Iterator

import pytest
import yaml

from tests.cluster import gitops
from tests.cluster.harness import REPO, Cluster, Json, agent, rows, simulated, workflow
from tests.cluster.harness import pool as made_pool

MANIFESTS = REPO / "manifests/autoscaling"
KEDA = ("github.com/kedacore/keda/v2", "v2.18.3")


def shipped(name: str) -> Json:
    found: Json = yaml.safe_load((MANIFESTS / name).read_text())
    return found


@pytest.fixture
def keda() -> Iterator[None]:
    """KEDA's CRDs, without KEDA."""
    crds = [
        crd
        for crd in gitops.crds(*KEDA, "config/crd/bases")
        if crd["metadata"]["name"] == "scaledobjects.keda.sh"
    ]
    cluster = Cluster("default")
    cluster.kubectl("apply", "--server-side", "--filename=-", input=yaml.safe_dump_all(crds))
    cluster.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
    yield
    cluster.kubectl("delete", "crd", "scaledobjects.keda.sh", "--wait=false")


def test_the_shipped_autoscaling_manifests_are_valid(cluster: Cluster, keda: None) -> None:
    for path in sorted(MANIFESTS.glob("*.yaml")):
        dry = ("create", "--dry-run=server", "--validate=strict", "--filename", str(path))
        cluster.kubectl(*dry)
    hpa = shipped("hpa.yaml")
    commented = (MANIFESTS / "hpa.yaml").read_text()
    external = [line.removeprefix("  # ") for line in commented.splitlines() if "  # " in line]
    hpa["spec"]["metrics"] = yaml.safe_load("\n".join(external[1:]))
    assert [metric["type"] for metric in hpa["spec"]["metrics"]] == ["External"]
    cluster.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump(hpa)
    )


BUSY = """
steps:
- name: a
  agentRef: {{name: researcher}}
  input: go {0}
  forEach: {{items: {1}}}
"""


def knows_the_cpu(hpa: Json) -> bool:
    current = hpa.get("status", {}).get("currentMetrics") or []
    return any(
        "averageUtilization" in one.get("resource", {}).get("current", {}) for one in current
    )


def test_an_hpa_scales_a_pool_by_its_cpu_and_back(cluster: Cluster) -> None:
    served = cluster.kubectl("get", "--raw=/apis/metrics.k8s.io/v1beta1/nodes", check=False)
    if served.returncode != 0:
        pytest.skip("the cluster has no metrics API: `make hpa-test` adds a metrics-server")
    request = "template: {resources: {requests: {cpu: 20m, memory: 64Mi}}}"
    cluster.apply(
        simulated("quick", "latency: 20ms\nreply: done")
        + agent("researcher", "quick")
        + made_pool("researcher", request)
    )
    hpa = shipped("hpa.yaml")
    hpa["spec"]["maxReplicas"] = 3
    hpa["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] = 0
    cluster.apply(yaml.safe_dump(hpa))
    cluster.wait(
        "agentpool", "researcher", lambda p: p["status"]["readyReplicas"] == 1, "at one worker"
    )
    cluster.wait("hpa", "researcher", knows_the_cpu, "told of the pool's CPU", 120)

    # Work until there are more workers: the HPA writes spec.replicas, as `kubectl scale` would.
    names: list[str] = []
    deadline = time.monotonic() + 240
    while cluster.get("agentpool", "researcher")["status"]["readyReplicas"] < 2:
        assert time.monotonic() < deadline, cluster.get("hpa", "researcher")["status"]
        names.append(f"busy-{len(names)}")
        cluster.apply(workflow(names[-1], BUSY.format(len(names), list(range(400)))))
        cluster.finished(names[-1], timeout=120)
    scaled = cluster.get("agentpool", "researcher")["spec"]
    assert 2 <= scaled["replicas"] <= 3

    # And back, with nothing left to do.
    cluster.wait(
        "agentpool",
        "researcher",
        lambda p: (p["spec"]["replicas"], p["status"]["replicas"]) == (1, 1),
        "at one worker again",
        240,
    )
    for found in cluster.list("workflows"):
        items = rows(found)["a"]["items"]
        assert (items["total"], items["succeeded"]) == (400, 400)
