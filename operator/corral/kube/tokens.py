"""The operator's identity towards workers.

The operator asks the API server for tokens of its own service account whose only audience is one
pod's UID; a worker checks them with the API server's public keys, which it is given when it is
made. So there is no shared secret, and a token that leaks from one worker opens no other.
"""

import asyncio
import base64
import json
import logging
import time
from typing import Any

from corral.api.attempt import OperatorIdentity
from corral.kube.client import SERVICE_ACCOUNTS, ApiError, Kube
from corral.plan.names import OPERATOR

log = logging.getLogger(__name__)

LIFETIME = 3600
RENEW_BEFORE = 900.0
KEYS_PERIOD = 600.0
"""Seconds after which the API server's public keys are read again."""
KEYS_RETRY = 10.0
"""Seconds between two attempts to read them."""


class Tokens:
    """Tokens by pod UID, renewed before they expire."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._tokens: dict[str, tuple[str, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._jwks: dict[str, Any] | None = None
        self._read_at = 0.0
        self._tried_at = float("-inf")
        self._issuer = ""

    async def token(self, pod_uid: str) -> str:
        """A token that only the worker with this pod UID accepts.

        Raises:
            ApiError: the API server gave none.
        """
        if token := self._known(pod_uid):
            return token
        # A new worker is sent many attempts at once: one of them asks.
        async with self._locks.setdefault(pod_uid, asyncio.Lock()):
            if token := self._known(pod_uid):
                return token
            token = await self._request(pod_uid)
            self._tokens[pod_uid] = (token, time.monotonic() + LIFETIME - RENEW_BEFORE)
            return token

    def _known(self, pod_uid: str) -> str | None:
        found = self._tokens.get(pod_uid)
        return found[0] if found and found[1] > time.monotonic() else None

    async def _request(self, audience: str) -> str:
        answer = await self._kube.request(
            "POST",
            SERVICE_ACCOUNTS.path(self._namespace, OPERATOR, "/token"),
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": LIFETIME},
            },
        )
        return str(answer["status"]["token"])

    def forget(self, pod_uid: str) -> None:
        """Drops what is kept about a worker that is gone, or that refused its token."""
        self._tokens.pop(pod_uid, None)
        self._locks.pop(pod_uid, None)

    async def _read_keys(self) -> None:
        jwks = await self._kube.request(
            "GET", "/openid/v1/jwks", accept="application/jwk-set+json, application/json"
        )
        payload = (await self._request("corral")).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self._jwks, self._issuer, self._read_at = jwks, claims["iss"], time.monotonic()

    async def identity(self, max_age: float = KEYS_PERIOD) -> OperatorIdentity:
        """What a worker needs in order to know this operator's tokens.

        The keys are read again now and then: when the API server has got others, workers are of
        another revision, and those that do not know the new keys are replaced.

        Args:
            max_age: seconds that the keys may be old, if the API server answers.

        Raises:
            ApiError: the API server's keys can't be read, and never could.
        """
        now = time.monotonic()
        again = now - self._read_at > max_age and now - self._tried_at > KEYS_RETRY
        if self._jwks is None or again:
            self._tried_at = now
            try:
                await self._read_keys()
            except ApiError as error:
                if self._jwks is None:
                    raise
                log.warning("the API server's keys can't be read again: %s", error)
        return OperatorIdentity(
            issuer=self._issuer,
            subject=f"system:serviceaccount:{self._namespace}:{OPERATOR}",
            jwks=self._jwks,
        )
