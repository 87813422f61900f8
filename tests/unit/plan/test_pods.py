"""The manifests of worker pods: restricted, without secrets, and replaced when they must be."""

import json

import pytest

from corral.api.agent import AgentSpec
from corral.api.attempt import IDENTITY_FILE, OperatorIdentity, WorkerConfig
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.plan.agent import agent_problems, model_problems, models_used, revision
from corral.plan.names import ANNOTATION_CONFIG, POOL_NAME_LIMIT, default_pool_name
from corral.plan.pods import pod_manifest, pod_revision, pod_template, worker_config

OPERATOR = OperatorIdentity(issuer="https://issuer", subject="system:operator", jwks={"keys": []})
MODEL = {
    "provider": "openai",
    "name": "gpt-5-mini",
    "apiKeySecretRef": {"name": "model-keys", "key": "openai"},
}


def pod(agent: object = None, model: object = None, **pool: object) -> dict[str, object]:
    pool_spec = PoolSpec.model_validate({"agentRef": {"name": "a"}, **pool})
    config = worker_config(
        "ns",
        "a",
        AgentSpec.model_validate(agent or {"modelRef": {"name": "m"}}),
        "rev",
        {"m": ModelSpec.model_validate(model or MODEL)},
        pool_spec,
        OPERATOR,
    )
    template = pod_template("p", pool_spec, config, "corral:dev")
    return pod_manifest(template, pod_revision(template), "p-1", 0, "p", "uid")


def test_a_worker_pod_is_restricted_and_has_no_token_for_the_api_server() -> None:
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert "serviceAccountName" not in spec
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_only_token_in_a_worker_pod_is_for_the_operator() -> None:
    spec = pod()["spec"]
    tokens = [
        source["serviceAccountToken"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    ]
    assert tokens == [
        {"audience": "corral.dev/operator", "expirationSeconds": 3600, "path": "token"}
    ]
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts["identity"]["mountPath"] + "/token" == IDENTITY_FILE
    assert mounts["identity"]["readOnly"] is True


def test_a_key_is_mounted_and_written_nowhere() -> None:
    made = pod()
    (volume,) = [v for v in made["spec"]["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == "model-keys"
    assert volume["secret"]["items"] == [{"key": "openai", "path": "key"}]
    mounts = made["spec"]["containers"][0]["volumeMounts"]
    assert "/etc/corral/keys/m" in {mount["mountPath"] for mount in mounts}
    assert not any("valueFrom" in e and "secretKeyRef" in e["valueFrom"]
                   for e in made["spec"]["containers"][0]["env"])  # fmt: skip


def test_the_worker_can_read_its_configuration_back() -> None:
    annotation = pod()["metadata"]["annotations"][ANNOTATION_CONFIG]
    config = WorkerConfig.model_validate(json.loads(annotation))
    assert config.agent_name == "a"
    assert config.models["m"].name == "gpt-5-mini"
    assert config.operator.subject == "system:operator"


def test_users_shape_pods_but_not_what_is_ours() -> None:
    made = pod(
        template={
            "labels": {"team": "red", "corral.dev/pool": "other", "app.kubernetes.io/name": "x"},
            "annotations": {"note": "hi", "corral.dev/worker-config": "{}"},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "env": [
                {"name": "HTTPS_PROXY", "value": "http://proxy"},
                {"name": "CORRAL_WORKER_CONFIG", "value": "/tmp/mine"},
                {"name": "POD_UID", "value": "another"},
            ],
            "resources": {"limits": {"memory": "1Gi"}},
        }
    )
    labels = made["metadata"]["labels"]
    assert labels["team"] == "red"
    assert labels["corral.dev/pool"] == "p"
    assert labels["app.kubernetes.io/name"] == "corral"
    assert made["metadata"]["annotations"]["note"] == "hi"
    assert made["metadata"]["annotations"]["corral.dev/worker-config"] != "{}"
    assert made["spec"]["nodeSelector"] == {"disk": "fast"}
    assert made["spec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    (container,) = made["spec"]["containers"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy"} in container["env"]
    names = [variable["name"] for variable in container["env"]]
    assert names == ["POD_UID", "POD_NAME", "HTTPS_PROXY"]
    assert container["resources"]["limits"] == {"memory": "1Gi"}
    assert container["resources"]["requests"]


def test_a_worker_knows_prices_since_attempts_have_caps() -> None:
    price = {"inputPerMillionUSD": "1", "outputPerMillionUSD": "2"}
    config = json.loads(
        pod(model={**MODEL, "price": price})["metadata"]["annotations"][ANNOTATION_CONFIG]
    )
    assert config["models"]["m"]["price"] == price


def test_headers_of_tools_are_files_in_one_volume_and_written_nowhere() -> None:
    def header(name: str, secret: str) -> dict[str, object]:
        return {"name": name, "secretKeyRef": {"name": secret, "key": "k"}}

    tools = [
        {"name": "a", "mcp": {"url": "http://a", "headersFrom": [header("X-One", "s1")]}},
        {
            "name": "b",
            "mcp": {
                "url": "http://b",
                "headersFrom": [header("X-One", "s2"), header("X-Two", "s2")],
            },
        },
    ]
    spec = pod(agent={"modelRef": {"name": "m"}, "tools": tools})["spec"]
    (volume,) = [v for v in spec["volumes"] if v["name"] == "headers"]
    assert volume["projected"]["defaultMode"] == 0o440
    assert [
        (s["secret"]["name"], s["secret"]["optional"], s["secret"]["items"])
        for s in volume["projected"]["sources"]
    ] == [
        ("s1", True, [{"key": "k", "path": "a/X-One"}]),
        ("s2", True, [{"key": "k", "path": "b/X-One"}]),
        ("s2", True, [{"key": "k", "path": "b/X-Two"}]),
    ]
    (container,) = spec["containers"]
    assert {"name": "headers", "mountPath": "/etc/corral/headers", "readOnly": True} in container[
        "volumeMounts"
    ]
    assert "headers" not in {v["name"] for v in pod()["spec"]["volumes"]}
    assert pod(model={**MODEL, "name": "gpt-6"}) != pod()


def test_a_pod_is_owned_by_its_pool() -> None:
    (owner,) = pod()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
        "AgentPool", "p", "uid", True,
    )  # fmt: skip


def test_the_grace_period_covers_the_drain() -> None:
    assert pod(drainTimeout="90s")["spec"]["terminationGracePeriodSeconds"] == 105


AGENT = {"modelRef": {"name": "m"}, "instructions": "Be brief."}


@pytest.mark.parametrize(
    ("agent", "model", "changes"),
    [
        pytest.param({**AGENT, "instructions": "Be long."}, MODEL, True, id="other instructions"),
        pytest.param(AGENT, {**MODEL, "name": "other"}, True, id="another model"),
        pytest.param(AGENT, {**MODEL, "baseURL": "http://x"}, True, id="another address"),
        pytest.param(
            AGENT,
            {**MODEL, "price": {"inputPerMillionUSD": "1", "outputPerMillionUSD": "1"}},
            False,
            id="a price is no part of it",
        ),
        pytest.param({**AGENT, "defaultPool": "Disabled"}, MODEL, False, id="how pools are made"),
        pytest.param({**AGENT, "limits": {"maxTurns": 10}}, MODEL, False, id="a default, written"),
        pytest.param({**AGENT, "limits": {"maxTurns": 3}}, MODEL, True, id="another limit"),
    ],
)
def test_the_revision_changes_with_what_decides_the_answer(
    agent: object, model: object, changes: bool
) -> None:
    def of(agent: object, model: object) -> str:
        return revision(AgentSpec.model_validate(agent), {"m": ModelSpec.model_validate(model)})

    assert (of(agent, model) != of(AGENT, MODEL)) is changes


@pytest.mark.parametrize(
    ("agent", "field"),
    [
        ({"type": "Remote", "a2a": {"url": "http://x"}}, "spec.type"),
        ({**AGENT, "tools": [{"name": "t", "agent": {"name": "b"}}]}, "spec.tools[0].agent"),
        (
            {**AGENT, "tools": [{"name": "t", "mcp": {"url": "http://t"}}] * 2},
            "spec.tools[1].name",
        ),
        (
            {**AGENT, "fallbackModels": [{"modelRef": {"name": "nobody"}}]},
            "spec.fallbackModels[0].modelRef",
        ),
        (
            {**AGENT, "budget": {"period": "Daily", "maxTokens": 5, "timeZone": "Mars/Olympus"}},
            "spec.budget.timeZone",
        ),
        ({**AGENT, "modelRef": {"name": "nobody"}}, "spec.modelRef"),
        ({}, "spec.modelRef"),
    ],
)
def test_what_an_agent_cannot_do_names_its_field(agent: object, field: str) -> None:
    problems = agent_problems(
        AgentSpec.model_validate(agent), {"m": ModelSpec.model_validate(MODEL)}
    )
    assert field in [problem.field for problem in problems]


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"provider": "nobody", "name": "x"}, "spec.provider"),
        ({"provider": "openai"}, "spec.name"),
    ],
)
def test_what_a_model_cannot_do_names_its_field(model: object, field: str) -> None:
    assert [p.field for p in model_problems(ModelSpec.model_validate(model))] == [field]


def test_fallback_models_are_part_of_the_revision() -> None:
    agent = AgentSpec.model_validate({**AGENT, "fallbackModels": [{"modelRef": {"name": "n"}}]})
    models = {
        name: ModelSpec.model_validate({**MODEL, "name": name}) for name in ("m", "n", "other")
    }
    used = models_used(agent, models)
    assert list(used) == ["m", "n"]
    changed = models_used(agent, {**models, "n": models["other"]})
    assert revision(agent, used) != revision(agent, changed)


@pytest.mark.parametrize("name", ["a", "researcher", "x" * 44, "x" * 45, "x" * 63])
def test_a_default_pools_name_always_fits(name: str) -> None:
    made = default_pool_name(name)
    assert len(made) <= POOL_NAME_LIMIT
    assert made.endswith("-default")
    assert made != default_pool_name(name[:-1] + "y")


@pytest.mark.parametrize(
    ("given", "requests", "limits"),
    [
        ({}, {"cpu": "50m", "memory": "160Mi"}, {"memory": "512Mi"}),
        (
            {"requests": {"memory": "1Gi"}},
            {"cpu": "50m", "memory": "1Gi"},
            {"memory": "1Gi"},
        ),
        (
            {"limits": {"memory": "100Mi", "cpu": "0.01"}},
            {"cpu": "0.01", "memory": "100Mi"},
            {"memory": "100Mi", "cpu": "0.01"},
        ),
        (
            {"requests": {"cpu": "2", "example.dev/gpu": "1"}, "limits": {"memory": "2G"}},
            {"cpu": "2", "memory": "160Mi", "example.dev/gpu": "1"},
            {"memory": "2G"},
        ),
    ],
)
def test_what_the_pool_does_not_say_of_resources_fits_to_what_it_says(
    given: dict[str, object], requests: dict[str, str], limits: dict[str, str]
) -> None:
    (container,) = pod(template={"resources": given})["spec"]["containers"]
    assert container["resources"] == {"requests": requests, "limits": limits}


def test_the_environment_of_a_pool_reaches_the_worker_but_for_its_identity() -> None:
    env = [{"name": "POD_UID", "value": "forged"}, {"name": "HTTPS_PROXY", "value": "http://p"}]
    (container,) = pod(template={"env": env})["spec"]["containers"]
    found = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert found == {"POD_UID": None, "POD_NAME": None, "HTTPS_PROXY": "http://p"}


def test_a_bad_schema_and_a_bad_pattern_are_found_before_anything_runs() -> None:
    agent = AgentSpec.model_validate({"modelRef": {"name": "m"}, "outputSchema": {"type": "x"}})
    (problem,) = agent_problems(agent, {"m": ModelSpec.model_validate(MODEL)})
    assert problem.field == "spec.outputSchema"
    script = [{"match": "fine"}, {"match": "("}]
    model = {"provider": "simulated", "simulation": {"script": script}}
    (problem,) = model_problems(ModelSpec.model_validate(model))
    assert problem.field == "spec.simulation.script[1].match"
