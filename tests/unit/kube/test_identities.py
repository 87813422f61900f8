"""Whose answer it is: tokens of pods, verified with the API server's keys."""

import base64
import json
import time
from typing import Any

import jwt
import pytest

from corral.kube import identities as module
from corral.kube import tokens as token_module
from corral.kube.identities import LEEWAY, Identities
from corral.kube.tokens import Tokens
from tests.unit.kube.test_tokens import Api
from tests.unit.worker.bench import ec_key, jwks, other_key, rsa_key

POD = "11111111-2222-3333-4444-555555555555"
ISSUER = "https://issuer"
NOW = 1_800_000_000.0


def shown(key: Any = None, algorithm: str = "ES256", kid: str = "ec", **claims: Any) -> str:
    """A pod's token, with claims replaced; None leaves a claim out."""
    merged = {
        "iss": ISSUER,
        "sub": "system:serviceaccount:team:default",
        "aud": ["corral.dev/operator"],
        "exp": NOW + 600,
        "kubernetes.io": {"namespace": "team", "pod": {"name": "w-0", "uid": POD}},
        **claims,
    }
    present = {name: value for name, value in merged.items() if value is not None}
    return jwt.encode(present, key or ec_key(), algorithm=algorithm, headers={"kid": kid})


def unsigned() -> str:
    _, body, _ = shown().split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "ec"}).encode()).decode()
    return f"{none.rstrip('=')}.{body}."


class Judge:
    """Identities with a clock and an API server of the test's."""

    def __init__(self) -> None:
        self.now = NOW
        self.api = Api()
        self.api.keys = jwks()
        self.identities = Identities(Tokens(self.api, "corral-system"), lambda: self.now)  # type: ignore[arg-type]

    async def __call__(self, token: str, pod: str = POD) -> str | None:
        return await self.identities.doubt(pod, token)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
async def test_a_token_of_the_pod_is_believed(judge: Judge, algorithm: str) -> None:
    key, kid = (ec_key(), "ec") if algorithm == "ES256" else (rsa_key(), "rsa")
    assert await judge(shown(key, algorithm, kid)) is None


@pytest.mark.parametrize(
    ("token", "why"),
    [
        pytest.param("", "no token", id="none"),
        pytest.param("garbage", "wrong", id="garbage"),
        pytest.param("a.b.c", "wrong", id="three words"),
        pytest.param("gärbäge", "wrong", id="no ASCII"),
        pytest.param(unsigned(), "wrong", id="algorithm none"),
        pytest.param(shown(other_key()), "wrong", id="another key under a known id"),
        pytest.param(shown(kid="other"), "unknown key", id="unknown key"),
        pytest.param(shown("s" * 32, "HS256"), "wrong", id="a shared secret's signature"),
        pytest.param(shown(aud=["https://kubernetes"]), "wrong", id="for the API server"),
        pytest.param(shown(aud=[POD]), "wrong", id="the operator's own, sent back"),
        pytest.param(shown(aud=None), "wrong", id="for nobody"),
        pytest.param(shown(iss="https://elsewhere"), "wrong", id="another cluster's"),
        pytest.param(shown(exp=None), "wrong", id="without an end"),
        pytest.param(shown(exp=NOW - LEEWAY - 1), "expired", id="expired"),
        pytest.param(shown(**{"kubernetes.io": None}), "another pod's", id="of no pod"),
        pytest.param(shown(**{"kubernetes.io": {"pod": []}}), "another pod's", id="of a list"),
        pytest.param(
            shown(**{"kubernetes.io": {"pod": {"name": "w-0", "uid": "other"}}}),
            "another pod's",
            id="of a pod of the same name",
        ),
    ],
)
async def test_another_token_is_not_believed(judge: Judge, token: str, why: str) -> None:
    assert why in (await judge(token) or "")
    assert await judge(shown()) is None, "a wrong token has spoilt the right one"


async def test_a_good_token_of_one_pod_is_none_of_another(judge: Judge) -> None:
    token = shown()
    assert await judge(token) is None
    assert "another pod's" in (await judge(token, "another-pod") or "")


async def test_a_token_is_verified_once_and_again_when_it_has_expired(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0
    decode = module.jwt.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr(module.jwt, "decode", counted)
    token = shown()
    assert [await judge(token) for _ in range(5)] == [None] * 5
    assert decoded == 1
    judge.now += 600 + LEEWAY
    assert "expired" in (await judge(token) or "")
    assert await judge(shown(exp=judge.now + 600)) is None
    judge.identities.forget(POD)
    assert await judge(shown(exp=judge.now + 600)) is None
    assert decoded == 4


async def test_the_clock_of_this_machine_does_not_matter(judge: Judge) -> None:
    judge.now = time.time() - 10 * 3600
    token = shown(exp=judge.now + 600, iat=judge.now, nbf=judge.now)
    assert await judge(token) is None


async def test_a_new_key_of_the_api_server_is_read_but_not_at_every_answer(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(token_module.time, "monotonic", lambda: clock)
    everything = judge.api.keys
    assert everything is not None
    judge.api.keys = {"keys": everything["keys"][1:]}
    assert "unknown key" in (await judge(shown()) or "")
    judge.api.keys = everything
    reads = judge.api.asked.count("/openid/v1/jwks")
    for _ in range(50):
        assert "unknown key" in (await judge(shown()) or "")
    assert judge.api.asked.count("/openid/v1/jwks") == reads
    clock += 11
    assert await judge(shown()) is None


async def test_nothing_is_believed_while_the_keys_were_never_read(judge: Judge) -> None:
    judge.api.keys = None
    assert "can't be read" in (await judge(shown()) or "")
