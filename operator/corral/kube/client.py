"""The API server, as plain JSON.

The official asyncio client does authentication, TLS and connections; objects stay the dicts that
the API server sent, because what a newer CRD adds must be written back unchanged.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any
from urllib.parse import urlencode

from kubernetes.aio import client, config

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
PODS = Kind("", "v1", "pods")
CORE_EVENTS = Kind("", "v1", "events")
EVENTS = Kind("events.k8s.io", "v1", "events")
LEASES = Kind("coordination.k8s.io", "v1", "leases")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts")


class Kube:
    """Calls to the API server. All of them raise ``ApiError``."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.writes = 0
        """Calls that change something, for metrics and benchmarks."""
        self.clock_offset = 0.0
        """Seconds by which the API server's clock is ahead of this machine's."""

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
            self.writes += 1
        headers = {"Accept": accept, "Content-Type": content_type}
        await self._api.update_params_for_auth(
            headers, [], ["BearerToken"], path, method, body, request_auth=None
        )
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
            raw = await response.read()
        except (OSError, TimeoutError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error!r}") from error
        except Exception as error:
            # aiohttp's errors are no OSErrors where a connection broke half-way.
            if type(error).__module__.startswith("aiohttp"):
                raise ApiError(0, "Unreachable", f"{method} {path}: {error!r}") from error
            raise
        self._learn_time(response.headers)
        if response.status >= 400:
            raise _error(method, path, response.status, raw, response.headers)
        return json.loads(raw) if raw else {}

    def _learn_time(self, headers: Mapping[str, str]) -> None:
        # The Date header has whole seconds: half a second is added on average.
        date = headers.get("Date")
        if date:
            offset = parsedate_to_datetime(date).timestamp() + 0.5 - time()
            if abs(offset - self.clock_offset) > 1.0:
                self.clock_offset = offset if abs(offset) > 1.0 else 0.0

    def now(self) -> float:
        """The API server's time, in seconds since the epoch."""
        return time() + self.clock_offset

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """The newest state of an object (a quorum read)."""
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
            items += page.get("items", [])
            query["continue"] = page.get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return items

    async def list_metadata(self, kind: Kind, labels: str = "") -> List[Json]:
        """The metadata of all objects of a kind: cheap where the objects are large."""
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        return await self.list(kind, labels=labels, accept=accept)

    async def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Makes an object; ``ApiError.conflict`` where the name is taken."""
        return await self.request("POST", kind.path(namespace), body)

    async def put_status(self, kind: Kind, obj: Json) -> Json:
        """Replaces an object's status, if it is still as it was read."""
        meta = obj["metadata"]
        return await self.request("PUT", kind.path(meta["namespace"], meta["name"], "/status"), obj)

    async def put(self, kind: Kind, obj: Json) -> Json:
        """Replaces an object, if it is still as it was read."""
        meta = obj["metadata"]
        return await self.request("PUT", kind.path(meta["namespace"], meta["name"]), obj)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Deletes the object of that UID; that it is gone already is no error."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", kind.path(namespace, name), body)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise


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
    async with client.ApiClient(configuration) as api:
        yield Kube(api)
