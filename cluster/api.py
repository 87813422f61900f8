"""The few calls that `up` makes to a new cluster: is it there yet, and may CoreDNS read."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Api:
    """The API server, called as its admin."""

    def __init__(self, server: str, pki: Path) -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        handler = urllib.request.HTTPSHandler(context=self._context)
        # Never by a proxy of the environment: it is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)

    def call(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """GET, or POST of a body. The status is 0 where nobody answers."""
        request = urllib.request.Request(  # noqa: S310 - always https
            self._server + path,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def ready(self) -> bool:
        return self.call("/readyz") == (200, b"ok")

    def exists(self, path: str) -> bool:
        return self.call(path)[0] == 200

    def node_ready(self, name: str) -> bool:
        status, answer = self.call(f"/api/v1/nodes/{name}")
        if status != 200:
            return False
        conditions = json.loads(answer)["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def create(self, path: str, body: dict[str, Any]) -> bool:
        """Whether it is there now."""
        return self.call(path, body)[0] in (201, 409)


def allow_dns(api: Api) -> bool:
    """Let CoreDNS read what it answers from."""
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", "system:coredns"
    read = ["list", "watch"]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    return api.create(f"{rbac}/clusterroles", role) and api.create(
        f"{rbac}/clusterrolebindings", binding
    )


def resolves(server: str, name: str, timeout: float = 0.5) -> bool:
    """Whether a DNS server knows an address of a name."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        try:
            udp.connect((server, 53))
            udp.send(query)
            answer = udp.recv(4096)
        except OSError:
            return False
    _, flags, _, answers, _, _ = struct.unpack("!6H", answer[:12])
    return flags & 0xF == 0 and bool(answers)
