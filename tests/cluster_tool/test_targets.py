"""What the Prometheus beside a cluster is told to scrape."""

from typing import Any

from cluster.targets import targets


def pod(name: str, component: str, **status: Any) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/component": component,
        "corral.dev/agent": "writer",
        "corral.dev/pool": "writers",
    }
    return {
        "metadata": {"name": name, "namespace": "team", "labels": labels},
        "status": {"phase": "Running", "podIP": "10.0.0.1", **status},
    }


def test_workers_are_told_by_namespace_agent_and_pool_as_the_monitors_do() -> None:
    [found] = targets([pod("w", "worker")])
    assert found["targets"] == ["10.0.0.1:8080"]
    assert found["labels"] == {
        "job": "corral-workers",
        "pod": "w",
        "namespace": "team",
        "agent": "writer",
        "pool": "writers",
    }


def test_an_operators_series_keep_their_own_namespace() -> None:
    [found] = targets([pod("o", "operator")])
    assert found == {
        "targets": ["10.0.0.1:9090"],
        "labels": {"job": "corral-operator", "pod": "o"},
    }


def test_what_does_not_run_is_left_out() -> None:
    pods = [pod("a", "worker", phase="Pending"), pod("b", "worker", podIP=None)]
    assert list(targets([*pods, pod("c", "worker", phase="Failed")])) == []
