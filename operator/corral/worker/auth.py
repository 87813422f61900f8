"""Whose calls are taken: a JWT of the operator, made out to this pod."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic, time

import jwt

from corral.api.attempt import OperatorIdentity

ALGORITHMS = ["RS256", "ES256"]
_LEEWAY_SECONDS = 5
_KEPT = 64
_RELOAD_SECONDS = 10.0


class TokenVerifier:
    """Verifies bearer tokens, and remembers those that were good until they expire.

    Args:
        identity: who the operator is; asked again, not too often, for tokens of an unknown key,
            because issuers rotate their keys.
        audience: this pod's UID.
        now: the wall clock, in seconds since the epoch.
    """

    def __init__(
        self,
        identity: Callable[[], OperatorIdentity],
        audience: str,
        now: Callable[[], float] = time,
    ) -> None:
        self._load = identity
        self._audience = audience
        self._now = now
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self._identity: OperatorIdentity
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._loaded_at = 0.0
        self._reload()

    def accepts(self, authorization: str | None) -> bool:
        """Whether an Authorization header holds a good token. Never says what is wrong with it."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return False
        digest = hashlib.sha256(token.encode()).digest()
        until = self._good.get(digest)
        if until is not None:
            if self._now() < until:
                return True
            del self._good[digest]
        try:
            until = self._verify(token)
        except jwt.PyJWTError:
            return False
        if self._now() >= until + _LEEWAY_SECONDS:
            return False
        self._good[digest] = until
        if len(self._good) > _KEPT:
            self._good.popitem(last=False)
        return True

    def _verify(self, token: str) -> float:
        claims = jwt.decode(
            token,
            self._key(jwt.get_unverified_header(token).get("kid")),
            algorithms=ALGORITHMS,
            issuer=self._identity.issuer,
            subject=self._identity.subject,
            audience=self._audience,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "sub", "aud"]},
        )
        return float(claims["exp"])

    def _key(self, key_id: str | None) -> jwt.PyJWK:
        if key_id not in self._keys and monotonic() - self._loaded_at > _RELOAD_SECONDS:
            self._reload()
        key = self._keys.get(key_id)
        if key is None:
            raise jwt.InvalidKeyError("unknown key")
        return key

    def _reload(self) -> None:
        self._loaded_at = monotonic()
        self._identity = self._load()
        keys = jwt.PyJWKSet.from_dict(dict(self._identity.jwks)).keys
        self._keys = {key.key_id: key for key in keys if key.algorithm_name in ALGORITHMS}
        if len(keys) == 1:
            self._keys.setdefault(None, keys[0])
