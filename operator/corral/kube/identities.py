"""Which pod an answer comes from: addresses are reused, and anybody can answer at one.

Every worker has a token of its pod, made by the API server for ``WORKER_AUDIENCE``, renewed by the
kubelet, and shows it in its answers to calls that it has verified. The pod's UID is in it.
"""

import hmac
from collections.abc import Callable
from typing import Any

import jwt

from corral.api.attempt import WORKER_AUDIENCE
from corral.kube.client import ApiError
from corral.kube.tokens import KEYS_RETRY, Tokens

ALGORITHMS = ["RS256", "ES256"]
LEEWAY = 60.0
"""Seconds: a worker looks for a renewed token only now and then."""


class Identities:
    """Verifies workers' tokens, and remembers those that were good until they expire.

    Args:
        tokens: knows the issuer and its public keys.
        now: the API server's clock, in seconds since the epoch.
    """

    def __init__(self, tokens: Tokens, now: Callable[[], float]) -> None:
        self._tokens = tokens
        self._now = now
        self._good: dict[str, tuple[str, float]] = {}

    async def doubt(self, pod_uid: str, token: str) -> str | None:
        """Why the token does not show that the pod of that UID sent it; None if it does."""
        known, until = self._good.get(pod_uid, ("", 0.0))
        if known and self._now() < until and hmac.compare_digest(known.encode(), token.encode()):
            return None
        if not token:
            return "it has no token"
        try:
            claims = await self._verified(token)
        except ApiError as error:
            return f"the API server's keys can't be read: {error}"
        except jwt.PyJWTError as error:
            return f"its token is wrong: {error}"
        until = claims["exp"] + LEEWAY
        if self._now() >= until:
            return "its token has expired"
        if _pod_uid(claims) != pod_uid:
            return "its token is another pod's"
        self._good[pod_uid] = (token, until)
        return None

    def forget(self, pod_uid: str) -> None:
        """Drops what is kept about a worker that is gone."""
        self._good.pop(pod_uid, None)

    async def _verified(self, token: str) -> dict[str, Any]:
        key_id = jwt.get_unverified_header(token).get("kid")
        identity = await self._tokens.identity()
        if key_id not in (keys := _keys(identity.jwks)):
            # Issuers rotate their keys.
            identity = await self._tokens.identity(max_age=KEYS_RETRY)
            keys = _keys(identity.jwks)
        if key_id not in keys:
            raise jwt.InvalidKeyError("unknown key")
        claims: dict[str, Any] = jwt.decode(
            token,
            keys[key_id],
            algorithms=ALGORITHMS,
            issuer=identity.issuer,
            audience=WORKER_AUDIENCE,
            # Times by the API server's clock, which made them: this machine's may be wrong.
            options={
                "require": ["exp", "iss", "aud"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        if not isinstance(claims["exp"], int | float):
            raise jwt.DecodeError("exp is no number")
        return claims


def _keys(jwks: dict[str, object]) -> dict[str | None, jwt.PyJWK]:
    keys = jwt.PyJWKSet.from_dict(dict(jwks)).keys
    return {key.key_id: key for key in keys if key.algorithm_name in ALGORITHMS}


def _pod_uid(claims: dict[str, Any]) -> object:
    """What the API server says of the pod that a token is bound to."""
    private = claims.get("kubernetes.io")
    pod = private.get("pod") if isinstance(private, dict) else None
    return pod.get("uid") if isinstance(pod, dict) else None
