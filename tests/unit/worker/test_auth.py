"""Tokens: remembered until they expire, and keys that are rotated."""

import time
from typing import Any

import pytest

import corral.worker.auth as auth
from corral.api.attempt import OperatorIdentity
from corral.worker.auth import TokenVerifier
from tests.unit.worker.bench import ISSUER, SUBJECT, UID, jwks, token


class Identity:
    """The operator's identity as the configuration file tells it."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = jwks()
        self.reads = 0

    def __call__(self) -> OperatorIdentity:
        self.reads += 1
        return OperatorIdentity(issuer=ISSUER, subject=SUBJECT, jwks=self.keys)


def test_a_good_token_is_verified_once_and_forgotten_when_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    decodes = 0
    decode = auth.jwt.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal decodes
        decodes += 1
        return decode(*args, **kwargs)

    monkeypatch.setattr(auth.jwt, "decode", counted)
    verifier = TokenVerifier(Identity(), UID, lambda: now)
    bearer = f"Bearer {token(exp=now + 300)}"
    assert all(verifier.accepts(bearer) for _ in range(5))
    assert decodes == 1
    now += 310
    assert not verifier.accepts(bearer)


def test_an_unknown_key_id_reads_the_identity_again_but_not_at_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = Identity()
    everything = identity.keys
    identity.keys = {"keys": everything["keys"][1:]}
    clock = 1000.0
    monkeypatch.setattr(auth, "monotonic", lambda: clock)
    verifier = TokenVerifier(identity, UID)
    identity.keys = everything
    bearer = f"Bearer {token()}"
    assert not verifier.accepts(bearer)
    assert identity.reads == 1
    clock += 11
    assert verifier.accepts(bearer)
    assert identity.reads == 2


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer gärbäge", "Bearer a.b.c"]
)
def test_garbage_is_no_token(header: str | None) -> None:
    assert not TokenVerifier(Identity(), UID).accepts(header)
