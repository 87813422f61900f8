"""The pods of a pool, as manifests."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from corral.api.agent import AgentSpec, Tool
from corral.api.attempt import (
    CONFIG_FILE,
    HEADERS_DIR,
    HEALTH_PATH,
    IDENTITY_FILE,
    KEYS_DIR,
    READY_PATH,
    WORKER_AUDIENCE,
    WORKER_PORT,
    OperatorIdentity,
    WorkerConfig,
)
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec, ResourceRequirements
from corral.api.types import seconds
from corral.plan.expressions import compact_json
from corral.plan.names import (
    ANNOTATION_CONFIG,
    ANNOTATION_IMAGE_REVISION,
    API_VERSION,
    LABEL_REVISION,
    LABEL_SLOT,
    digest,
    worker_labels,
)

_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "160Mi"},
    "limits": {"memory": "512Mi"},
}
DO_NOT_EVICT = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""What keeps node autoscalers from moving workers about, which costs what they run. On idle ones
too: to tell busy from idle would cost a write for every change."""
_IDENTITY_SECONDS = 3600
_OWN_ENV = ("POD_UID", "POD_NAME", "CORRAL_WORKER_")
"""Variables whose names begin so are not the user's to set."""
_RESERVED = ("corral.dev/", "app.kubernetes.io/", "kubernetes.io/", "pod-security.kubernetes.io/")


def worker_config(
    namespace: str,
    agent_name: str,
    agent: AgentSpec,
    agent_revision: str,
    models: Mapping[str, ModelSpec],
    pool: PoolSpec,
    operator: OperatorIdentity,
) -> WorkerConfig:
    """What a worker of the pool knows: nothing whose change needs no other worker."""
    return WorkerConfig(
        namespace=namespace,
        agent_name=agent_name,
        agent=agent.model_copy(update={"budget": None, "default_pool": "Enabled"}),
        agent_revision=agent_revision,
        models={
            name: model.model_copy(update={"limits": None, "circuit_breaker": None})
            for name, model in models.items()
        },
        concurrency=pool.concurrency,
        drain_timeout_seconds=seconds(pool.drain_timeout),
        operator=operator,
    )


def pod_template(
    pool_name: str, pool: PoolSpec, config: WorkerConfig, image: str, image_revision: str = ""
) -> dict[str, Any]:
    """A worker pod without its name, revision and owner.

    ``image_revision`` tells images apart that have the same name, such as ``corral:dev``.

    The pod is restricted (non-root, read-only root, no capabilities, no token for the API server),
    and holds only the keys of its agent's models and the headers of its tools, as files that the
    kubelet mounts; and a token by which the operator knows its answers.
    """
    user = pool.template
    labels = _allowed(user.labels or {}) | worker_labels(config.agent_name, pool_name)
    annotations = _allowed(user.annotations or {})
    annotations[ANNOTATION_CONFIG] = compact_json(config.to_json())
    annotations |= DO_NOT_EVICT
    if image_revision:
        annotations[ANNOTATION_IMAGE_REVISION] = image_revision
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(config.drain_timeout_seconds) + 15,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pool, image)],
        "volumes": [
            {
                "name": "config",
                "downwardAPI": {
                    "items": [
                        {
                            "path": CONFIG_FILE.rsplit("/", 1)[1],
                            "fieldRef": {
                                "fieldPath": f"metadata.annotations['{ANNOTATION_CONFIG}']"
                            },
                        }
                    ]
                },
            },
            {
                "name": "identity",
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [
                        {
                            "serviceAccountToken": {
                                "audience": WORKER_AUDIENCE,
                                "expirationSeconds": _IDENTITY_SECONDS,
                                "path": IDENTITY_FILE.rsplit("/", 1)[1],
                            }
                        }
                    ],
                },
            },
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    _mount_keys(spec, config.models)
    _mount_headers(spec, config.agent.tools or [])
    if user.node_selector:
        spec["nodeSelector"] = dict(user.node_selector)
    if user.tolerations:
        spec["tolerations"] = [toleration.to_json() for toleration in user.tolerations]
    if user.affinity:
        spec["affinity"] = user.affinity
    if user.image_pull_secrets:
        spec["imagePullSecrets"] = [secret.to_json() for secret in user.image_pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": config.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    }


def _allowed(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if not key.startswith(_RESERVED)}


def _container(pool: PoolSpec, image: str) -> dict[str, Any]:
    user = pool.template

    def probe(path: str, period: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": path, "port": WORKER_PORT},
            "periodSeconds": period,
            "failureThreshold": failures,
            "timeoutSeconds": 5,
        }

    return {
        "name": "worker",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["worker"],
        "ports": [{"name": "a2a", "containerPort": WORKER_PORT}],
        "env": [
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *(
                variable.to_json()
                for variable in user.env or []
                if not variable.name.startswith(_OWN_ENV)
            ),
        ],
        "resources": _resources(user.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": probe(HEALTH_PATH, 1, 60),
        "readinessProbe": probe(READY_PATH, 5, 3),
        "livenessProbe": probe(HEALTH_PATH, 20, 3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_FILE.rsplit("/", 1)[0], "readOnly": True},
            {"name": "identity", "mountPath": IDENTITY_FILE.rsplit("/", 1)[0], "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _resources(given: ResourceRequirements | None) -> dict[str, dict[str, str]]:
    """What the user says, and else our own: as far as it fits to what the user says."""
    user = given.to_json() if given else {}
    requests, limits = user.get("requests", {}), user.get("limits", {})
    merged = {"requests": {**requests}, "limits": {**limits}}
    for resource, own in _RESOURCES["requests"].items():
        if resource not in requests:
            bounds = [own, limits[resource]] if resource in limits else [own]
            merged["requests"][resource] = min(bounds, key=_quantity)
    for resource, own in _RESOURCES["limits"].items():
        if resource not in limits:
            merged["limits"][resource] = max(own, merged["requests"][resource], key=_quantity)
    return merged


def _quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity such as ``500m`` or ``1Gi`` means."""
    digits = text.rstrip("kmMGTPEi")
    unit = text[len(digits) :]
    if unit == "m":
        return Decimal(digits) / 1000
    power = " kMGTPE".index(unit.removesuffix("i").replace("K", "k") or " ")
    return Decimal(digits) * Decimal(1024 if unit.endswith("i") else 1000) ** power


def _mount_keys(spec: dict[str, Any], models: Mapping[str, ModelSpec]) -> None:
    """A Secret that is missing does not keep the pod from starting: the worker says which it is."""
    for index, (name, model) in enumerate(sorted(models.items())):
        reference = model.api_key_secret_ref
        if reference is None:
            continue
        spec["volumes"].append(
            {
                "name": f"key-{index}",
                "secret": {
                    "secretName": reference.name,
                    "optional": True,
                    "defaultMode": 0o440,
                    "items": [{"key": reference.key, "path": "key"}],
                },
            }
        )
        spec["containers"][0]["volumeMounts"].append(
            {"name": f"key-{index}", "mountPath": f"{KEYS_DIR}/{name}", "readOnly": True}
        )


def _mount_headers(spec: dict[str, Any], tools: Sequence[Tool]) -> None:
    """One volume of all headers, ``<tool>/<header>``; what is missing is as with keys."""
    sources = [
        {
            "secret": {
                "name": header.secret_key_ref.name,
                "optional": True,
                "items": [{"key": header.secret_key_ref.key, "path": f"{tool.name}/{header.name}"}],
            }
        }
        for tool in tools
        for header in (tool.mcp.headers_from if tool.mcp else None) or []
    ]
    if sources:
        spec["volumes"].append(
            {"name": "headers", "projected": {"defaultMode": 0o440, "sources": sources}}
        )
        spec["containers"][0]["volumeMounts"].append(
            {"name": "headers", "mountPath": HEADERS_DIR, "readOnly": True}
        )


def config_of(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What a pod's worker was told, as ``WorkerConfig`` writes it; empty if that can't be read."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_CONFIG)
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def knows_caller(config: Mapping[str, Any], newest: Mapping[str, Any]) -> bool:
    """Whether a worker of an old revision takes the tokens that the operator has now."""
    return bool(config.get("agentRevision")) and config.get("operator") == newest.get("operator")


def pod_revision(template: Mapping[str, Any]) -> str:
    """A hash of all that a pod is made of: pods of another revision are replaced."""
    return digest(compact_json(template), length=16)


def pod_manifest(
    template: Mapping[str, Any], revision: str, name: str, slot: int, pool_name: str, pool_uid: str
) -> dict[str, Any]:
    """The pod for one place of the pool."""
    metadata = template["metadata"]
    return {
        **template,
        "metadata": {
            **metadata,
            "name": name,
            "labels": {**metadata["labels"], LABEL_REVISION: revision, LABEL_SLOT: str(slot)},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "AgentPool",
                    "name": pool_name,
                    "uid": pool_uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }
