"""An API server in memory, as strict as the real one where corral relies on it.

What it does: resource versions and their conflicts, generations, the status subresource, defaults
of the real CRDs, preconditions, graceful deletion of pods, garbage collection by owner, lists with
label selectors, merge patches, watches, token requests. What it leaves out: validation, admission,
field selectors, pages.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from corral.api.attempt import WORKER_AUDIENCE
from corral.kube.client import ApiError, Json, Kind
from tests.explore.clock import wall

REPO = Path(__file__).parents[2]
ISSUER = "https://kubernetes.default.svc"
COLLECT_AFTER = 0.3
"""Seconds after which the garbage collector finds what has lost its owner."""
_PATH = re.compile(
    r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|token))?$"
)
_FOR_EVER = 4_000_000_000
"""When tokens expire, by the real clock too, which PyJWT reads."""

Key = tuple[str, str, str]
"""(plural, namespace, name)."""


class Watcher(Protocol):
    """Who watches: told of every change, in order."""

    def __call__(self, plural: str, event: str, obj: Json) -> None: ...


def copied(obj: Any) -> Any:
    """What arrives on the other side of a connection."""
    return json.loads(json.dumps(obj))


@cache
def _signing_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _jwks() -> Json:
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_signing_key().public_key()))
    return {"keys": [{**public, "kid": "1", "use": "sig", "alg": "ES256"}]}


@cache
def _token(subject: str, audience: str, pod_uid: str = "") -> str:
    claims: Json = {"iss": ISSUER, "sub": subject, "aud": [audience], "exp": _FOR_EVER}
    if pod_uid:
        claims["kubernetes.io"] = {"pod": {"uid": pod_uid}}
    return jwt.encode(claims, _signing_key(), algorithm="ES256", headers={"kid": "1"})


@cache
def _schemas() -> dict[str, Json]:
    """The CRDs' schemas, by plural."""
    found = {}
    for path in sorted((REPO / "crds").glob("*.yaml")):
        spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        found[spec["names"]["plural"]] = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _set_defaults(schema: Mapping[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        for name, sub in (schema.get("properties") or {}).items():
            if name not in value and "default" in sub:
                value[name] = copied(sub["default"])
            if name in value:
                _set_defaults(sub, value[name])
    elif isinstance(value, list):
        for one in value:
            _set_defaults(schema.get("items") or {}, one)


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def selected(obj: Json, selector: str) -> bool:
    """Whether a label selector of equalities selects an object."""
    labels = obj["metadata"].get("labels") or {}
    wanted = (term.split("=", 1) for term in selector.split(",") if term)
    return all(labels.get(name) == value for name, value in wanted)


class ApiServer:
    """The objects of a cluster."""

    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self._watchers: list[Watcher] = []
        self._version = 100
        self._made: dict[Key, int] = {}
        self.on_pod_leaving: Callable[[Json], None] = lambda pod: None
        """Told of a pod that has to end; whoever runs it removes it then."""

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tells of every change from now on, until what it returns is called."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def all(self, plural: str) -> list[Json]:
        """The objects of a kind, by name."""
        return [self.objects[key] for key in sorted(self.objects) if key[0] == plural]

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """An object as it is now."""
        return self.objects.get((kind.plural, namespace, name))

    def apply(self, kind: Kind, obj: Json) -> Json:
        """Makes an object, as a person does."""
        return self.call("POST", kind.path(obj["metadata"]["namespace"]), obj)

    def change(self, kind: Kind, namespace: str, name: str, patch: Json) -> Json:
        """Patches an object, as a person, a kubelet or a controller does."""
        return self.call("PATCH", kind.path(namespace, name), patch)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        accept: str = "",
    ) -> Json:
        """One request; the answer is the caller's own.

        Raises:
            ApiError: it is refused.
        """
        answer = self._call(method, path, copied(body), query or {}, accept)
        return copied(answer)  # type: ignore[no-any-return]

    def _call(
        self, method: str, path: str, body: Any, query: Mapping[str, str], accept: str
    ) -> Json:
        if path == "/openid/v1/jwks":
            return _jwks()
        found = _PATH.match(path)
        if found is None:
            raise ApiError(404, "NotFound", f"{method} {path}: no such path")
        namespace, name, sub = found["namespace"] or "", found["name"], found["sub"]
        key = (found["plural"], namespace, name or "")
        if sub == "token":
            return _token_answer(namespace, name, body)
        if method == "GET" and name is None:
            return self._list(found["plural"], namespace, query, "PartialObject" in accept)
        if method == "POST":
            return self._create((key[0], namespace, body["metadata"]["name"]), body)
        known = self.objects.get(key)
        if known is None:
            raise ApiError(404, "NotFound", f"{method} {path}: not found")
        if method == "GET":
            return known
        if method == "DELETE":
            return self._delete(key, known, body or {})
        if method == "PATCH":
            meta = body.get("metadata") or {}
            expected = {field: meta[field] for field in ("uid", "resourceVersion") if field in meta}
            body = _merge(known, body)
            body["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
            self._check(known, expected, path)
        return self._replace(key, known, body, path, sub)

    def _list(self, plural: str, namespace: str, query: Mapping[str, str], short: bool) -> Json:
        items = [
            {"metadata": obj["metadata"]} if short else obj
            for obj in self.all(plural)
            if namespace in ("", obj["metadata"].get("namespace"))
            and selected(obj, query.get("labelSelector", ""))
        ]
        if query.get("fieldSelector"):
            items = []  # nobody writes the Events of pods here
        return {"items": items, "metadata": {"resourceVersion": str(self._version)}}

    def _create(self, key: Key, obj: Json) -> Json:
        if key in self.objects:
            raise ApiError(409, "AlreadyExists", f"{key[0]} {key[2]!r} already exists")
        if key[0] == "events":
            return obj
        self._made[key] = self._made.get(key, 0) + 1
        if key[0] in _schemas():
            obj.pop("status", None)
            _set_defaults(_schemas()[key[0]], obj)
        obj["metadata"] |= {
            # The same for the same object in every exploration, so that ends can be compared.
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join((*key, str(self._made[key]))))),
            "creationTimestamp": datetime.fromtimestamp(wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "generation": 1,
        }
        self._store(key, obj, "ADDED")
        if obj["metadata"].get("ownerReferences"):
            self._collect_soon()
        return obj

    def _replace(self, key: Key, known: Json, obj: Json, path: str, sub: str | None) -> Json:
        sent = obj["metadata"]
        self._check(known, {"resourceVersion": sent.get("resourceVersion")}, path)
        if sent.get("uid", known["metadata"]["uid"]) != known["metadata"]["uid"]:
            raise ApiError(409, "Conflict", f"PUT {path}: another object has that name")
        if sub == "status":
            new = {**known, "status": obj.get("status") or {}}
        else:
            kept = ("uid", "creationTimestamp", "generation", "deletionTimestamp")
            meta = known["metadata"]
            new = {**obj, "metadata": {**sent, **{f: meta[f] for f in kept if f in meta}}}
            if key[0] in _schemas() and "status" in known:
                new["status"] = known["status"]
                _set_defaults(_schemas()[key[0]], new)
        if new == known:
            return known
        new["metadata"] = dict(new["metadata"])
        if new.get("spec") != known.get("spec"):
            new["metadata"]["generation"] += 1
        self._store(key, new, "MODIFIED")
        return new

    def _check(self, known: Json, expected: Mapping[str, Any], path: str) -> None:
        for name, value in expected.items():
            if value is not None and value != known["metadata"][name]:
                raise ApiError(409, "Conflict", f"{path}: {name} is another by now")

    def _delete(self, key: Key, known: Json, options: Json) -> Json:
        self._check(known, options.get("preconditions") or {}, "/".join(key))
        if key[0] != "pods":
            self.remove(key)
            return known
        meta = dict(known["metadata"])
        grace = options.get("gracePeriodSeconds")
        if grace is None:
            grace = known["spec"].get("terminationGracePeriodSeconds", 30)
        if meta.get("deletionGracePeriodSeconds", grace + 1) > grace:
            meta |= {"deletionTimestamp": meta.get("deletionTimestamp") or wall()}
            meta |= {"deletionGracePeriodSeconds": grace}
            new = {**known, "metadata": meta}
            self._store(key, new, "MODIFIED")
            self.on_pod_leaving(new)
            return new
        return known

    def remove(self, key: Key) -> None:
        """Takes an object away at once; what it owns follows."""
        known = self.objects.pop(key, None)
        if known is not None:
            self._version += 1
            meta = {**known["metadata"], "resourceVersion": str(self._version)}
            self._tell(key[0], "DELETED", {**known, "metadata": meta})
            self._collect_soon()

    def set_status(self, key: Key, status: Json) -> None:
        """Replaces a status whatever its version, as a kubelet does."""
        if (known := self.objects.get(key)) is not None:
            meta = dict(known["metadata"])
            self._store(key, {**known, "metadata": meta, "status": status}, "MODIFIED")

    def _store(self, key: Key, obj: Json, event: str) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = obj
        self._tell(key[0], event, obj)

    def _tell(self, plural: str, event: str, obj: Json) -> None:
        for watcher in list(self._watchers):
            watcher(plural, event, copied(obj))

    def _collect_soon(self) -> None:
        asyncio.get_running_loop().call_later(COLLECT_AFTER, self._collect)

    def _collect(self) -> None:
        """Deletes whatever has lost its last owner."""
        living = {obj["metadata"]["uid"] for obj in self.objects.values()}
        for key, obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in living for owner in owners):
                self._delete(key, obj, {})


def pod_token(pod: Json) -> str:
    """What the kubelet mounts into a worker's pod."""
    meta = pod["metadata"]
    subject = f"system:serviceaccount:{meta['namespace']}:default"
    return _token(subject, WORKER_AUDIENCE, meta["uid"])


def _token_answer(namespace: str, account: str, body: Json) -> Json:
    subject = f"system:serviceaccount:{namespace}:{account}"
    [audience] = body["spec"]["audiences"]
    return {"status": {"token": _token(subject, audience)}}
