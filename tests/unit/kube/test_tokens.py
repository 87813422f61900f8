"""The operator's tokens for workers, and the keys that workers check them with."""

import base64
import json
from typing import Any

import pytest

from corral.kube import tokens as module
from corral.kube.client import ApiError
from corral.kube.tokens import Tokens


class Api:
    """Answers TokenRequests and the JWKS; counts what it was asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] | None = {"keys": [{"kid": "one"}]}
        self.asked: list[str] = []

    async def request(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/openid/v1/jwks":
            if self.keys is None:
                raise ApiError(503, "ServiceUnavailable", "away")
            return self.keys
        audience = body["spec"]["audiences"][0]
        claims = json.dumps({"iss": "https://issuer", "aud": audience}).encode()
        middle = base64.urlsafe_b64encode(claims).decode().rstrip("=")
        return {"status": {"token": f"head.{middle}.{len(self.asked)}"}}


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def tokens(api: Api, clock: list[float]) -> Tokens:
    return Tokens(api, "corral-system")  # type: ignore[arg-type]


async def test_a_token_is_made_out_to_one_pod_and_kept(tokens: Tokens, api: Api) -> None:
    first = await tokens.token("pod-1")
    assert await tokens.token("pod-1") == first
    assert await tokens.token("pod-2") != first
    assert len(api.asked) == 2


async def test_a_token_is_renewed_before_it_expires(tokens: Tokens, clock: list[float]) -> None:
    first = await tokens.token("pod-1")
    clock[0] += module.LIFETIME - module.RENEW_BEFORE + 1
    assert await tokens.token("pod-1") != first


async def test_workers_are_given_the_issuer_the_account_and_the_keys(tokens: Tokens) -> None:
    identity = await tokens.identity()
    assert identity.issuer == "https://issuer"
    assert identity.subject == "system:serviceaccount:corral-system:corral-operator"
    assert identity.jwks == {"keys": [{"kid": "one"}]}


async def test_new_keys_of_the_api_server_are_noticed(
    tokens: Tokens, api: Api, clock: list[float]
) -> None:
    await tokens.identity()
    api.keys = {"keys": [{"kid": "two"}]}
    assert (await tokens.identity()).jwks == {"keys": [{"kid": "one"}]}
    clock[0] += module.KEYS_PERIOD + 1
    assert (await tokens.identity()).jwks == {"keys": [{"kid": "two"}]}


async def test_keys_that_cannot_be_read_again_are_kept(
    tokens: Tokens, api: Api, clock: list[float]
) -> None:
    await tokens.identity()
    api.keys = None
    clock[0] += module.KEYS_PERIOD + 1
    assert (await tokens.identity()).jwks == {"keys": [{"kid": "one"}]}


async def test_keys_that_were_never_read_are_an_error(tokens: Tokens, api: Api) -> None:
    api.keys = None
    with pytest.raises(ApiError):
        await tokens.identity()
