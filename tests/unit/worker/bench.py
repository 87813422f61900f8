"""A worker behind real HTTP, with a simulated model, and an operator that calls it."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from corral.api.attempt import EXTENSION, WorkerConfig
from corral.worker.app import Worker
from tests.unit.worker.serving import serving

UID = "11111111-2222-3333-4444-555555555555"
ISSUER = "https://kubernetes.default.svc"
SUBJECT = "system:serviceaccount:corral-system:corral-operator"
REVISION = "rev-1"
SHOWN = "the-token-of-this-pod"
"""What the worker shows in its answers."""


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def other_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def jwks() -> dict[str, Any]:
    ec_jwk = jwt.algorithms.ECAlgorithm.to_jwk(ec_key().public_key(), as_dict=True)
    rsa_jwk = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True)
    return {
        "keys": [{**ec_jwk, "kid": "ec", "alg": "ES256"}, {**rsa_jwk, "kid": "rsa", "alg": "RS256"}]
    }


def token(kid: str = "ec", algorithm: str = "ES256", key: Any = None, **claims: Any) -> str:
    """The operator's token, with claims replaced; None leaves a claim out."""
    merged = {
        "iss": ISSUER,
        "sub": SUBJECT,
        "aud": [UID],
        "exp": time.time() + 600,
        **claims,
    }
    present = {name: value for name, value in merged.items() if value is not None}
    key = key or (ec_key() if kid == "ec" else rsa_key())
    return jwt.encode(present, key, algorithm=algorithm, headers={"kid": kid})


def config(**changes: Any) -> WorkerConfig:
    simulation = {
        "reply": "done",
        "script": [{"match": "^json", "reply": '{"a": [1, 2.5], "big": "é"}'}],
        "inputTokens": 50,
        "outputTokens": 20,
        **changes.pop("simulation", {}),
    }
    return WorkerConfig.model_validate(
        {
            "namespace": "demo",
            "agentName": "researcher",
            "agent": {
                "description": "Finds sources.",
                "capabilities": ["research"],
                "modelRef": {"name": "fast"},
                **changes.pop("agent", {}),
            },
            "agentRevision": REVISION,
            "models": {
                "fast": {
                    "provider": "simulated",
                    "simulation": simulation,
                    **changes.pop("model", {}),
                }
            },
            "concurrency": 4,
            "drainTimeoutSeconds": 30.0,
            "operator": {"issuer": ISSUER, "subject": SUBJECT, "jwks": jwks()},
            **changes,
        }
    )


@dataclass
class Operator:
    """Calls one worker as the operator would."""

    worker: Worker
    url: str
    client: httpx.AsyncClient
    headers: dict[str, str] = field(
        default_factory=lambda: {
            "Authorization": f"Bearer {token()}",
            "A2A-Version": "1.0",
            "A2A-Extensions": EXTENSION,
            "Corral-Worker-UID": UID,
            "Corral-Epoch": "7",
        }
    )

    async def send(
        self,
        attempt_id: str,
        text: str | None = "go",
        *,
        data: Any = None,
        wait: int = 25,
        headers: dict[str, str] | None = None,
        **request: Any,
    ) -> httpx.Response:
        parts: list[dict[str, Any]] = [{"text": text}] if text is not None else []
        if data is not None:
            parts.append({"data": data})
        body = {
            "message": {
                "messageId": attempt_id,
                "taskId": attempt_id,
                "contextId": "run-1",
                "role": "ROLE_USER",
                "parts": parts,
                "metadata": {
                    EXTENSION: {
                        "attemptID": attempt_id,
                        "effectKey": attempt_id.rpartition(".")[0],
                        "agentRevision": REVISION,
                        "timeoutSeconds": "30",
                        **request,
                    }
                },
            }
        }
        return await self.client.post(
            "/message:send",
            json=body,
            headers={**self.headers, "Prefer": f"wait={wait}", **(headers or {})},
        )

    async def task(self, attempt_id: str, wait: int = 0) -> httpx.Response:
        headers = {**self.headers, "Prefer": f"wait={wait}"}
        return await self.client.get(f"/tasks/{attempt_id}", headers=headers)

    async def cancel(self, attempt_id: str) -> httpx.Response:
        return await self.client.post(f"/tasks/{attempt_id}:cancel", headers=self.headers, json={})

    async def ack(self, *attempt_ids: str) -> httpx.Response:
        body = {"attemptIds": list(attempt_ids)}
        return await self.client.post("/corral/v1/ack", headers=self.headers, json=body)

    async def inventory(self) -> dict[str, Any]:
        answer = await self.client.get("/corral/v1/inventory", headers=self.headers)
        assert answer.status_code == 200, answer.text
        inventory: dict[str, Any] = answer.json()
        return inventory


def report(task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = task["metadata"][EXTENSION]
    return found


def reason(answer: httpx.Response) -> str:
    found: str = answer.json()["error"]["details"][0]["reason"]
    return found


@asynccontextmanager
async def working(
    keys: Callable[[str], str | None] = lambda model: None, **changes: Any
) -> AsyncIterator[Operator]:
    """A served worker."""
    worker = Worker(config(**changes), UID, keys, shown=lambda: SHOWN)
    async with (
        serving(worker.app()) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield Operator(worker, url, client)
        for attempt in worker.table.attempts():
            worker.table.cancel(attempt.attempt_id)
            await attempt.ended.wait()


def rpc(method: str, params: dict[str, Any]) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
