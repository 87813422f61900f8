"""The API server, as the commands need it: plain JSON, and errors that are one sentence.

No generated classes: every object is a dict, so that nothing that this version does not know is
lost, and a kind of somebody else's can be applied as well.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from corral.api.crd.kinds import GROUP, VERSION, Kind
from corral.cli.errors import CliError, Exit

FIELD_MANAGER = "corral-cli"
_TIMEOUT = (5.0, 30.0)
_WATCH_SECONDS = 240
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_PATIENCE = 60.0
"""Seconds for which a server that was reachable before may be unreachable while following."""


class ApiError(CliError):
    """The API server said no."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        details: dict[str, Any],
        *,
        denied: bool = False,
    ) -> None:
        code = Exit.REFUSED if denied or status in (400, 422) else Exit.FAILED
        super().__init__(message, code)
        self.status = status
        self.reason = reason
        self.details = details
        self.causes = _causes(details)


class UnreachableError(CliError):
    """There is no API server to be reached."""


class Cluster:
    """One cluster, in the context that kubectl would use."""

    def __init__(
        self, client: Any, namespace: str, timeout: tuple[float, float] = _TIMEOUT
    ) -> None:
        self._client = client
        self.namespace = namespace
        self._timeout = timeout

    @classmethod
    def connect(
        cls,
        kubeconfig: str | None = None,
        context: str | None = None,
        timeout: tuple[float, float] = _TIMEOUT,
    ) -> "Cluster":
        """Reads KUBECONFIG, ~/.kube/config or the pod's own account; calls nobody yet.

        Args:
            timeout: seconds to connect, and for an answer.

        Raises:
            CliError: there is no usable configuration.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            load: Any = config.load_kube_config
            load(kubeconfig, context, client_configuration=settings)
            list_contexts: Any = config.list_kube_config_contexts
            contexts, active = list_contexts(kubeconfig)
            chosen = next((c for c in contexts if c["name"] == context), active)
            namespace = chosen.get("context", {}).get("namespace") or "default"
        except Exception as error:  # the loader lets through whatever a broken file leads to
            namespace = _in_cluster(settings, kubeconfig, error)
        settings.retries = False
        return cls(client.ApiClient(settings), namespace, timeout)

    def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        """The object.

        Raises:
            ApiError: status 404 where there is none.
        """
        return self.call("GET", path_of(kind, namespace, name))

    def objects(
        self, kind: Kind, namespace: str | None, selector: str | None = None
    ) -> list[dict[str, Any]]:
        """The kind's objects in a namespace, or in all; those with the labels, if there are any."""
        query = {"labelSelector": selector} if selector else {}
        listed = self.call("GET", path_of(kind, namespace), query)
        about = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind.name}
        return [{**about, **item} for item in listed.get("items", [])]

    def summaries(self, path: str, limit: int = 500) -> list[tuple[str, str]]:
        """(name, first column that is not the name) of the objects at a path, without their specs.

        What kubectl prints as a table: small also where the objects are large.
        """
        text = self._read("GET", path, {"limit": str(limit)}, None, None, accept=_TABLE)
        listed = json.loads(text)
        return [
            (row["object"]["metadata"]["name"], str(row["cells"][1]) if row["cells"][1:] else "")
            for row in listed.get("rows", [])
        ]

    def username(self) -> str | None:
        """Who the API server takes one for; None where it does not tell."""
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            answer = self.call("POST", path, {}, body)
        except ApiError:
            return None
        name = answer.get("status", {}).get("userInfo", {}).get("username")
        return name if isinstance(name, str) and name else None

    def create(self, kind: Kind, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Creates the object; fields that the cluster does not know are refused."""
        path = path_of(kind, body["metadata"]["namespace"])
        return self.call("POST", path, {**_STRICT, **_dry(dry_run)}, body)

    def apply(
        self, path: str, body: dict[str, Any], *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Server-side apply."""
        query = {**_STRICT, "force": str(force).lower(), **_dry(dry_run)}
        return self.call("PATCH", path, query, body, "application/apply-patch+yaml")

    def merge(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: dict[str, Any],
        *,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Changes the fields that are in the patch; null removes one."""
        path = path_of(kind, namespace, name)
        query = {**_MANAGER, **_dry(dry_run)}
        return self.call("PATCH", path, query, patch, "application/merge-patch+json")

    def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Deletes that very object, and what it owns, in the background."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        self.call("DELETE", path_of(kind, namespace, name), {}, body)

    def path_of_foreign(self, body: dict[str, Any], namespace: str) -> str:
        """Where an object of any kind is; asks the server for the kind's plural."""
        version, name = body["apiVersion"], quote(body["metadata"]["name"])
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in self.call("GET", root).get("resources", []):
            if resource["kind"] == body["kind"] and "/" not in resource["name"]:
                if not resource["namespaced"]:
                    return f"{root}/{resource['name']}/{name}"
                where = quote(body["metadata"].get("namespace") or namespace)
                return f"{root}/namespaces/{where}/{resource['name']}/{name}"
        raise CliError(f"the cluster has no kind {body['kind']} in {version}")

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """The pods with these labels."""
        path = f"/api/v1/namespaces/{quote(namespace)}/pods"
        items: list[dict[str, Any]] = self.call("GET", path, {"labelSelector": selector})["items"]
        return items

    def pod_log(self, namespace: str, pod: str, since: str | None = None) -> list[str]:
        """What a pod has logged, or has since a time (RFC 3339)."""
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/log"
        query = {"sinceTime": since} if since else {}
        return self._read("GET", path, query, None, None).decode(errors="replace").splitlines()

    def events(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        """The Events about the object of that UID."""
        path = f"/api/v1/namespaces/{quote(namespace)}/events"
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        items: list[dict[str, Any]] = self.call("GET", path, query).get("items", [])
        return items

    def follow(
        self, kind: Kind, namespace: str, name: str, until: float | None
    ) -> Iterator[dict[str, Any]]:
        """The object now, and after every change, for ever.

        Watches that end, lost connections and versions that are too old start it over.

        Raises:
            TimeoutError: ``until``, a time by the monotonic clock, is over.
            ApiError: the object is gone.
            UnreachableError: the server has been for a minute.
        """
        lost: float | None = None
        while True:
            _check(until)
            try:
                data = self.get(kind, namespace, name)
                lost = None
                yield data
                yield from self._watch(kind, namespace, data, until)
            except UnreachableError:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > _PATIENCE:
                    raise
            except ApiError as error:
                if error.status not in (410, 429, 500, 502, 503, 504):
                    raise
            time.sleep(0.5)

    def _watch(
        self, kind: Kind, namespace: str, data: dict[str, Any], until: float | None
    ) -> Iterator[dict[str, Any]]:
        metadata = data["metadata"]
        left = _WATCH_SECONDS if until is None else until - time.monotonic()
        seconds = max(1, min(_WATCH_SECONDS, round(left + 0.5)))
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={metadata['name']}",
            "resourceVersion": metadata["resourceVersion"],
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        for line in self._lines(path_of(kind, namespace), query, seconds + 10.0):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return  # too old, most likely: read it again
            if event["type"] == "DELETED":
                raise ApiError(404, "NotFound", f"{kind.name} {metadata['name']!r} was deleted", {})
            if event["type"] != "BOOKMARK":
                yield event["object"]

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request; the answer's JSON.

        Raises:
            ApiError: the server refused it.
            UnreachableError: there was no answer.
        """
        text = None if body is None else json.dumps(body)
        answer: dict[str, Any] = json.loads(
            self._read(method, path, query or {}, text, content_type) or b"{}"
        )
        return answer

    def read(self, path: str) -> bytes:
        """What is at a path, as it is; errors as of ``call``."""
        return self._read("GET", path, {}, None, None, accept="*/*")

    def _read(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: str | None,
        kind: str | None,
        accept: str = "application/json",
    ) -> bytes:
        response = self._send(method, path, query, body, kind, self._timeout, accept)
        data: bytes = self._guarded(lambda: response.data)
        if not 200 <= response.status < 300:
            raise _error(response.status, data, path)
        return data

    def _lines(self, path: str, query: dict[str, str], patience: float) -> Iterator[str]:
        from kubernetes.watch import watch

        response = self._send("GET", path, query, None, None, (self._timeout[0], patience))
        if response.status != 200:
            raise _error(response.status, self._guarded(lambda: response.data), path)
        read_lines: Any = watch.iter_resp_lines
        lines = read_lines(response)
        try:
            while (line := self._guarded(lambda: next(lines, None))) is not None:
                if line:
                    yield line
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: str | None,
        kind: str | None,
        timeout: tuple[float, float],
        accept: str = "application/json",
    ) -> Any:
        headers = {"Accept": accept, "User-Agent": "corral-cli"}
        if body is not None and kind is not None:
            headers["Content-Type"] = kind
        sent = self._client.param_serialize(
            method=method,
            resource_path=path,
            query_params=list(query.items()),
            header_params=headers,
            auth_settings=["BearerToken"],
        )
        url, prepared = sent[1], sent[2]
        pool = self._client.rest_client.pool_manager
        import urllib3

        limits = urllib3.Timeout(connect=timeout[0], read=timeout[1])
        return self._guarded(
            lambda: pool.request(
                method, url, body=body, headers=prepared, timeout=limits, preload_content=False
            )
        )

    def _guarded(self, request: Any) -> Any:
        import urllib3

        try:
            return request()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self._client.configuration.host
            raise UnreachableError(
                f"the cluster at {host} can't be reached: {_cause(error)} "
                "(which cluster: KUBECONFIG, --kubeconfig, --context)"
            ) from None


_MANAGER = {"fieldManager": FIELD_MANAGER}
_STRICT = {"fieldValidation": "Strict", **_MANAGER}
_POLICY = re.compile(
    r".*?ValidatingAdmissionPolicy '[^']+' with binding '[^']+' denied request: ", re.DOTALL
)
_INVALID_VALUE = re.compile(r"^Invalid value: (\"(object|array|string|integer|number)\"|\{.*\}): ")


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def path_of(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    """Where the objects of a kind of corral's are."""
    path = f"/apis/{GROUP}/{VERSION}"
    if namespace is not None:
        path += f"/namespaces/{quote(namespace)}"
    path += f"/{kind.plural}"
    return path if name is None else f"{path}/{quote(name)}"


def _in_cluster(settings: Any, kubeconfig: str | None, error: Exception) -> str:
    from pathlib import Path

    from kubernetes import config

    account = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if kubeconfig is None and account.exists():
        load: Any = config.load_incluster_config
        load(client_configuration=settings)
        return account.read_text().strip()
    if kubeconfig is not None and not Path(kubeconfig).exists():
        raise CliError(f"there is no kubeconfig {kubeconfig}", Exit.USAGE) from None
    said = str(error).strip().splitlines()
    raise CliError(
        f"there is no usable kubeconfig: {said[0] if said else type(error).__name__} "
        "(which cluster: KUBECONFIG, --kubeconfig, --context)",
        Exit.USAGE,
    ) from None


def _check(until: float | None) -> None:
    if until is not None and time.monotonic() >= until:
        raise TimeoutError


def _cause(error: BaseException) -> str:
    """``Connection refused`` out of urllib3's nested texts."""
    deepest = error
    while (inner := deepest.__cause__ or deepest.__context__) is not None:
        deepest = inner
    text = getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__
    return text.splitlines()[0][:200]


def _error(status: int, body: bytes, path: str) -> ApiError:
    try:
        data = json.loads(body)
    except ValueError:
        data = {"message": body.decode(errors="replace").strip()[:300]}
    data = data if isinstance(data, dict) else {}
    details = data.get("details") or {}
    message = data.get("message")
    if status == 404 and not details.get("name") and f"/apis/{GROUP}/" in path:
        message = "the cluster has no corral: its CRDs are not installed"
    elif status == 404 and details.get("name"):
        message = f"there is no {details.get('kind', 'object')} {details['name']!r}"
    elif status == 401:
        message = "the cluster does not accept these credentials (401 Unauthorized)"
    elif message and (policy := _POLICY.match(message)):
        message = message[policy.end() :]
        return ApiError(status, data.get("reason", ""), message, details, denied=True)
    elif status == 422 and (causes := _causes(details)):
        message = "; ".join(f"{field}: {said}" if field else said for field, said in causes)
    elif status == 403:
        message = f"no rights: {message}"
    return ApiError(status, data.get("reason", ""), message or f"HTTP {status}", details)


def _causes(details: dict[str, Any]) -> list[tuple[str, str]]:
    """(field, what is wrong with it), without the value, which may be long."""
    return [
        (cause.get("field", "").replace("<nil>", ""), _plain(cause["message"]))
        for cause in details.get("causes") or []
        if isinstance(cause, dict) and cause.get("message")
    ]


def _plain(message: str) -> str:
    return _INVALID_VALUE.sub("", _POLICY.sub("", message))
