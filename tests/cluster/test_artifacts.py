"""Large outputs on a cluster: they are on a volume, and whoever knows their name can read them."""

import hashlib
import json
import time

import pytest

from tests.cluster.lab import SYSTEM, operators

SERVICE = "/api/v1/namespaces/corral-system/services/corral-operator:artifacts/proxy"
RUN = "3f0c3c1e-6c4f-4f2e-9a53-0d2a6f1f8d10"
CONTENT = json.dumps(["größer"] * 400, ensure_ascii=False, separators=(",", ":"))
SHA = hashlib.sha256(CONTENT.encode()).hexdigest()

# As the operator would store it; the argument is its content.
PUT = """
import asyncio, hashlib, sys
from corral.artifacts.store import ArtifactStore
from corral.handlers.main import ARTIFACTS_URL
async def put(content):
    store = ArtifactStore(ARTIFACTS_URL)
    await store.put("team", sys.argv[1], hashlib.sha256(content).hexdigest(), content)
    await store.close()
asyncio.run(put(sys.argv[2].encode()))
"""


@pytest.fixture(scope="module", autouse=True)
def _an_artifact() -> None:
    name = operators()[0]["metadata"]["name"]
    SYSTEM.kubectl("exec", name, "--", "/opt/corral/bin/python", "-c", PUT, RUN, CONTENT)
    # An operator that was just ended is behind the Service again once its probe has succeeded.
    deadline = time.monotonic() + 60
    while raw(f"{SERVICE}/artifacts/team/{RUN}/{SHA}", "nobody-special", check=False)[0] != 0:
        assert time.monotonic() < deadline, "the operator does not serve artifacts"
        time.sleep(0.5)


def raw(path: str, user: str, check: bool = True) -> tuple[int, str, str]:
    done = SYSTEM.kubectl("get", f"--raw={path}", as_user=user, check=check)
    return done.returncode, done.stdout, done.stderr


def test_a_user_without_any_rights_but_the_name_reads_it_through_the_api_server() -> None:
    _, found, _ = raw(f"{SERVICE}/artifacts/team/{RUN}/{SHA}", "nobody-special")
    assert found.strip() == CONTENT


def test_without_the_name_there_is_nothing_to_be_had() -> None:
    places = ("team", f"team/{RUN}", f"team/{RUN}/{'0' * 64}", f"team/memo/{SHA}", "")
    for place in places:
        code, _, error = raw(f"{SERVICE}/artifacts/{place}", "nobody-special", check=False)
        assert code != 0
        assert "NotFound" in error or "not found" in error.lower(), error


def test_the_right_is_for_that_port_and_for_reading() -> None:
    metrics = SERVICE.replace("corral-operator:artifacts", "corral-operator-metrics:metrics")
    for path in (f"{metrics}/metrics", SERVICE.removesuffix(":artifacts/proxy")):
        code, _, error = raw(path, "nobody-special", check=False)
        assert code != 0
        assert "Forbidden" in error, error
    for verb in ("create", "update", "delete"):
        done = SYSTEM.kubectl(
            "auth", "can-i", verb, "services/corral-operator:artifacts", "--subresource=proxy",
            as_user="nobody-special", check=False,
        )  # fmt: skip
        assert done.stdout.strip() == "no"


def test_artifacts_outlive_the_operators_pod() -> None:
    old = {pod["metadata"]["name"] for pod in operators()}
    SYSTEM.kubectl("delete", "pod", *old, "--wait=true")
    SYSTEM.kubectl("rollout", "status", "deployment/corral-operator", "--timeout=60s")
    assert old.isdisjoint({pod["metadata"]["name"] for pod in operators()})
    _, found, _ = raw(f"{SERVICE}/artifacts/team/{RUN}/{SHA}", "nobody-special")
    assert found.strip() == CONTENT
