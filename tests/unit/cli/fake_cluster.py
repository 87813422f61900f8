"""A server that speaks just enough of the API server's protocol, and a kubeconfig for it."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

ROOT = "/apis/corral.dev/v1alpha1"
DEMO = f"{ROOT}/namespaces/demo"
WORKFLOWS = f"{DEMO}/workflows"


class Api:
    """Objects by path, what was asked, and answers that a test scripts."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.queries: list[dict[str, Any]] = []
        self.watches: list[list[dict[str, Any]]] = []
        self.refusals: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self.logs: dict[str, str] = {}
        self.user = "ann"
        """Who the caller is; empty: that is not told."""

    def put(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        metadata = {"namespace": "demo", "uid": "u", "resourceVersion": "1"} | data["metadata"]
        self.objects[path] = {**data, "metadata": metadata}
        return self.objects[path]

    def answer(self, method: str, path: str, query: dict[str, Any], body: Any) -> tuple[int, Any]:
        if path.endswith("/selfsubjectreviews"):
            told = {"status": {"userInfo": {"username": self.user}}}
            return (201, told) if self.user else (403, {"message": "no"})
        self.asked.append((method, path, body))
        self.queries.append(query)
        if (method, path) in self.refusals:
            return self.refusals[method, path]
        name = path.rsplit("/", 1)[1]
        missing = {"reason": "NotFound", "details": {"name": name}, "message": "not found"}
        if path in self.logs:
            return 200, self.logs[path]
        if method == "POST":
            name = body["metadata"].get("name") or body["metadata"]["generateName"] + "abcde"
            if f"{path}/{name}" in self.objects:
                return 409, {"reason": "AlreadyExists", "details": {"name": name}}
            named = {**body, "metadata": {**body["metadata"], "name": name}}
            if "dryRun" in query:
                return 201, named
            return 201, self.put(f"{path}/{name}", named)
        if method == "PATCH" and body.get("apiVersion"):
            return 200, self.put(path, body)
        if method == "GET" and (path.endswith(("s",)) and path not in self.objects):
            items = [data for at, data in self.objects.items() if at.rsplit("/", 1)[0] == path]
            rows = [{"object": item, "cells": [item["metadata"]["name"], ""]} for item in items]
            return 200, {"items": items, "rows": rows}
        if path not in self.objects:
            return 404, missing
        if method == "DELETE":
            return 200, self.objects.pop(path)
        if method == "PATCH" and "dryRun" in query:
            return 200, self.objects[path]
        if method == "PATCH":
            spec = {**self.objects[path]["spec"], **body["spec"]}
            kept = {key: value for key, value in spec.items() if value is not None}
            self.objects[path] = {**self.objects[path], "spec": kept}
        return 200, self.objects[path]


def handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def _serve(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if "watch" in query:
                events = api.watches.pop(0) if api.watches else []
                self._send(200, "".join(json.dumps(event) + "\n" for event in events))
                return
            status, data = api.answer(self.command, url.path, query, body)
            self._send(status, data if isinstance(data, str) else json.dumps(data))

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def kubeconfig(tmp_path: Path, port: int) -> str:
    file = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "demo"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    file.write_text(yaml.safe_dump(config))
    return str(file)
