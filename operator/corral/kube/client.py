"""The API server, as plain JSON.

The official asyncio client does authentication, TLS and connections; objects stay the dicts that
the API server sent, because what a newer CRD adds must be written back unchanged.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import monotonic, perf_counter, time
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config

from corral.telemetry import metrics
from corral.telemetry.logs import in_words

Json = dict[str, Any]
List = list  # a method of Kube is called list


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0).

    Attributes: ``status`` (HTTP), ``reason`` (Kubernetes' word, such as ``Conflict``),
    ``retry_after`` (seconds, where the API server asks for it).
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def conflict(self) -> bool:
        return self.status == 409

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed later without anybody changing anything."""
        return self.status in (0, 429) or self.status >= 500


@dataclass(frozen=True)
class Kind:
    """A kind of resource, as its URL needs it."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{where}/{self.plural}" + (f"/{name}" if name else "") + sub


WORKFLOWS = Kind("corral.dev", "v1alpha1", "workflows")
AGENTS = Kind("corral.dev", "v1alpha1", "agents")
MODELS = Kind("corral.dev", "v1alpha1", "models")
POOLS = Kind("corral.dev", "v1alpha1", "agentpools")
TEMPLATES = Kind("corral.dev", "v1alpha1", "workflowtemplates")
CRONS = Kind("corral.dev", "v1alpha1", "cronworkflows")
APPROVALS = Kind("corral.dev", "v1alpha1", "approvalrequests")
PODS = Kind("", "v1", "pods")
CONFIG_MAPS = Kind("", "v1", "configmaps")
CORE_EVENTS = Kind("", "v1", "events")
EVENTS = Kind("events.k8s.io", "v1", "events")
PRIORITY_CLASSES = Kind("scheduling.k8s.io", "v1", "priorityclasses")
LEASES = Kind("coordination.k8s.io", "v1", "leases")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts")


class Kube:
    """Calls to the API server. All of them raise ``ApiError``."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.may_write: Callable[[], bool] = lambda: True
        """Whether objects may be written now; a process that does not lead may not."""
        # Of the API server's clock over the monotonic one: a local clock that jumps moves nothing.
        self._clock_offset = time() - monotonic()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = 30.0,  # noqa: ASYNC109
        accept: str = "application/json",
    ) -> Json:
        """One call; the answer's JSON."""
        if method != "GET":
            metrics.API_WRITES.labels(method, _resource(path)).inc()
        started = perf_counter()
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._api.update_params_for_auth(
            headers, [], ["BearerToken"], path, method, body, request_auth=None
        )
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            async with asyncio.timeout(timeout):
                async with self._session().request(
                    method,
                    url,
                    headers=headers,
                    data=data,
                    server_hostname=self._api.configuration.tls_server_name,
                ) as response:
                    raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            metrics.API_ERRORS.labels(method, 0).inc()
            raise ApiError(0, "Unreachable", f"{method} {path}: {in_words(error)}") from error
        self._learn_time(response.headers)
        metrics.API_SECONDS.labels(method).observe(perf_counter() - started)
        if response.status >= 400:
            failed = _error(method, path, response.status, raw, response.headers)
            metrics.API_ERRORS.labels(method, response.status).inc()
            if failed.reason == "Conflict":
                metrics.API_CONFLICTS.labels(_resource(path)).inc()
            raise failed
        return json.loads(raw) if raw else {}

    def _learn_time(self, headers: Mapping[str, str]) -> None:
        # The Date header has whole seconds: half a second is added on average.
        date = headers.get("Date")
        if date:
            offset = parsedate_to_datetime(date).timestamp() + 0.5 - monotonic()
            if abs(offset - self._clock_offset) > 1.0:
                self._clock_offset = offset

    def now(self) -> float:
        """The API server's time, in seconds since the epoch."""
        return monotonic() + self._clock_offset

    def _session(self) -> aiohttp.ClientSession:
        """The client's own connections, without its second encoding and logging of bodies."""
        rest = self._api.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        session: aiohttp.ClientSession = rest.pool_manager
        return session

    async def _write(
        self, method: str, path: str, body: Json, content_type: str = "application/json"
    ) -> Json:
        """A call that changes an object. Refused here, unanswered, where another may lead."""
        if not self.may_write():
            raise ApiError(0, "NotLeading", f"{method} {path}: the lease was not renewed in time")
        return await self.request(method, path, body, content_type=content_type)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json:
        """The newest state of an object (a quorum read); without a namespace a cluster's."""
        return await self.request("GET", kind.path(namespace, name))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        accept: str = "application/json",
    ) -> List[Json]:
        """All objects of a kind, read in pages."""
        query = {"limit": "500"}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        items: List[Json] = []
        while True:
            page = await self.request("GET", kind.path(namespace), query=query, accept=accept)
            items += page.get("items") or []  # null where metadata alone is asked for
            query["continue"] = page.get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return items

    async def list_metadata(self, kind: Kind, labels: str = "") -> List[Json]:
        """The metadata of all objects of a kind: cheap where the objects are large."""
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        return await self.list(kind, labels=labels, accept=accept)

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Makes an object; ``ApiError.conflict`` where the name is taken."""
        return await self._write("POST", kind.path(namespace), body)

    async def make(self, kind: Kind, namespace: str, body: Json) -> tuple[Json, bool]:
        """Makes an object, or reads the one that has its name; and whether it was made now.

        ``ApiError.conflict`` where there is none either: it has been deleted since, or the 409
        came from a quota that others were writing to.
        """
        try:
            return await self.create(kind, namespace, body), True
        except ApiError as refused:
            if not refused.conflict:
                raise
            try:
                return await self.get(kind, namespace, body["metadata"]["name"]), False
            except ApiError as error:
                raise (refused if error.not_found else error) from error

    async def put_status(self, kind: Kind, obj: Json) -> Json:
        """Replaces an object's status, if it is still as it was read."""
        meta = obj["metadata"]
        return await self._write("PUT", kind.path(meta["namespace"], meta["name"], "/status"), obj)

    async def patch(self, kind: Kind, namespace: str, name: str, changes: Json) -> Json:
        """Changes fields of an object, by a merge patch.

        With ``metadata.uid`` or ``metadata.resourceVersion`` among the changes, another object of
        that name, or a newer state, is ``ApiError.conflict``.
        """
        path = kind.path(namespace, name)
        return await self._write("PATCH", path, changes, "application/merge-patch+json")

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        uid: str,
        grace: int | None = None,
        version: str | None = None,
    ) -> None:
        """Deletes the object of that UID; that it is gone already is no error.

        ``ApiError.conflict`` where it is still there, as somebody wrote before.

        Args:
            grace: seconds that a pod has to end, if not what the pod itself says.
            version: the resourceVersion that it must still have; else it stays.
        """
        body: Json = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if version is not None:
            body["preconditions"]["resourceVersion"] = version
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            await self._write("DELETE", kind.path(namespace, name), body)
        except ApiError as error:
            if not error.not_found and not (
                error.conflict and await self._is_gone(kind, namespace, name, uid)
            ):
                raise

    async def _is_gone(self, kind: Kind, namespace: str, name: str, uid: str) -> bool:
        try:
            found = await self.get(kind, namespace, name)
        except ApiError as error:
            if not error.not_found:
                raise
            return True
        return bool(found["metadata"]["uid"] != uid)


def version_of(obj: Json) -> int:
    """An object's resourceVersion as a number, which the API server's etcd storage makes it."""
    version = obj["metadata"].get("resourceVersion", "0")
    return int(version) if version.isdigit() else 0


def _resource(path: str) -> str:
    """What a path is about: ``workflows/status``, ``pods``; without names, as a metric's label."""
    parts = path.split("/")[3 if path.startswith("/api/") else 4 :]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    return "/".join([parts[0], *parts[2:]])


def _error(method: str, path: str, status: int, raw: bytes, headers: Mapping[str, str]) -> ApiError:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = {}
    message = answer.get("message") or raw[:200].decode(errors="replace") or "no message"
    retry_after = headers.get("Retry-After", "")
    return ApiError(
        status,
        answer.get("reason", ""),
        f"{method} {path}: {message}",
        float(retry_after) if retry_after.isdigit() else 0,
    )


def _proxy(host: str) -> str | None:
    """The proxy that the environment names for the API server."""
    server = urlsplit(host)
    return None if proxy_bypass(server.hostname or "") else getproxies().get(server.scheme)


@asynccontextmanager
async def connect() -> AsyncIterator[Kube]:
    """A client for the cluster this runs in, else for the current kubeconfig's context."""
    configuration = client.Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    else:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    configuration.connection_pool_maxsize = 64
    # Else aiohttp reads .netrc and the environment's proxies anew for every single call.
    configuration.client_session_kwargs = {
        "trust_env": False,
        "proxy": _proxy(configuration.host),
    }
    async with client.ApiClient(configuration) as api:
        yield Kube(api)
