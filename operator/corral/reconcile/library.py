"""What a pass has to know that is not in the stores: outputs, earlier results, ConfigMaps.

Values that were just stored or read are kept in memory, the ones that were used last up to
``CACHE`` bytes: who follows in a chain needs what came before it.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from corral.artifacts.errors import ArtifactMissingError
from corral.artifacts.store import ArtifactStore
from corral.kube.client import CONFIG_MAPS, ApiError, Kube
from corral.plan.artifacts import decode, encode
from corral.plan.facts import ArtifactNeed, ConfigMapNeed, Facts, Lost, Memo, MemoNeed, Need
from corral.plan.observed import Pass
from corral.plan.state import Kept

CACHE = 64 * 2**20
"""Bytes of stored values that are kept in memory."""


class Library:
    """Loads what passes ask for, and stores what they leave."""

    def __init__(self, store: ArtifactStore, kube: Kube) -> None:
        self._store = store
        self._kube = kube
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0

    async def supply(self, namespace: str, facts: Facts) -> None:
        """Makes known all that was asked for.

        Raises:
            ArtifactStoreError: the store can't be read.
            ApiError: the API server can't.
        """
        needs = list(facts.needs)
        found = await asyncio.gather(*(self._find(namespace, need) for need in needs))
        facts.known |= dict(zip(needs, found, strict=True))
        facts.needs.clear()

    async def _find(self, namespace: str, need: Need) -> Any:
        if isinstance(need, ArtifactNeed):
            return await self._value(namespace, need)
        if isinstance(need, MemoNeed):
            return await self._memo(namespace, need.key)
        return await self._text(namespace, need)

    async def _value(self, namespace: str, need: ArtifactNeed) -> Any:
        content = self._cache.get(need.sha256)
        if content is None:
            try:
                content = await self._store.get(namespace, need.run_id, need.sha256)
            except ArtifactMissingError as error:
                return Lost(str(error))
            self._remember(need.sha256, content)
        else:
            self._cache.move_to_end(need.sha256)
        return decode(content)

    async def _memo(self, namespace: str, key: str) -> Memo | None:
        content = await self._store.get_memo(namespace, key)
        if content is None:
            return None
        try:
            found = json.loads(content)
            return Memo(found["output"], float(found["at"]))
        except (ValueError, KeyError, TypeError):
            return None  # of another version: it is worked out again

    async def _text(self, namespace: str, need: ConfigMapNeed) -> str | None:
        try:
            obj = await self._kube.get(CONFIG_MAPS, namespace, need.name)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        found = (obj.get("data") or {}).get(need.key)
        return None if found is None else str(found)

    async def keep(self, namespace: str, run_id: str, values: Mapping[str, bytes]) -> None:
        """Stores values, by hash, before the state is written that refers to them.

        Raises:
            ArtifactStoreError: not all could be stored.
        """
        for sha256, content in values.items():
            self._remember(sha256, content)
        await asyncio.gather(
            *(self._store.put(namespace, run_id, sha256, one) for sha256, one in values.items())
        )

    async def memoize(self, p: Pass, results: Mapping[str, Kept]) -> None:
        """Keeps results for other runs.

        Raises:
            ArtifactStoreError: not all could be kept; those runs will work them out again.
        """
        for key, kept in results.items():
            need = kept.stored
            value = (
                kept.value
                if need is None
                else await self._value(
                    p.namespace, ArtifactNeed(need.run_id or p.run.run_id, need.sha256, need.size)
                )
            )
            if not isinstance(value, Lost):
                content = encode({"output": value, "at": p.now})
                await self._store.put_memo(p.namespace, key, content)

    async def hand_over(self, namespace: str, from_run: str, to_run: str, sha256: str) -> None:
        """Gives a run what another has.

        Raises:
            ArtifactStoreError: it could not be copied.
        """
        await self._store.copy(namespace, from_run, to_run, sha256)

    def _remember(self, sha256: str, content: bytes) -> None:
        if sha256 in self._cache:
            self._cache.move_to_end(sha256)
            return
        self._cache[sha256] = content
        self._cached += len(content)
        while self._cached > CACHE:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
