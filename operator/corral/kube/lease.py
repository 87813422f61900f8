"""Leadership by a Lease, safe against hangs, clock jumps and frozen processes.

The client's own elector is not (a hung GET leaves leader code running on an expired lease). Here
the monotonic clock decides; every request is bounded by half the renew deadline; any exception is
a failed renewal. A takeover adds one to ``leaseTransitions``: that number is the epoch.

Nothing has to be stopped in time when the lease runs out, not even by a process that was frozen:
``held`` is asked before every write to the API server (which checks resource versions besides),
and workers refuse an epoch lower than the highest they have seen. So an API server that is away
for longer than the lease ends nobody: once it is back, the holder renews and goes on, unless
somebody took the lease, which the epoch in it tells.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

from corral.kube.client import LEASES, ApiError, Json, Kube, version_of

log = logging.getLogger(__name__)

LEASE_SECONDS = 12
RENEW_DEADLINE = 8.0
RETRY_PERIOD = 2.0
FIRST_EPOCH = 1_750_000_000
"""Subtracted from the time at which a Lease is made: the epoch in it, higher than any before.

Somebody may delete the Lease, and workers remember its last epoch."""


class Lease:
    """One candidate for one Lease.

    ``identity`` must be the same for a restarted container of the same pod (the old process is
    dead then, so its lease is taken over at once) and differ between any two live processes.
    """

    def __init__(self, kube: Kube, namespace: str, name: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._version = 0
        """The resourceVersion that the last write made."""
        self.epoch = 0

    @property
    def held(self) -> bool:
        """Whether this process may act as leader now."""
        return self.epoch > 0 and time.monotonic() - self._renewed_at < RENEW_DEADLINE

    async def acquire(self) -> int:
        """Waits until this process leads; returns the epoch."""
        while True:
            try:
                async with asyncio.timeout(RENEW_DEADLINE / 2):
                    if await self._try_acquire():
                        log.info("leading", extra={"epoch": self.epoch})
                        return self.epoch
            except (ApiError, TimeoutError) as error:
                log.warning("the lease can't be read or taken: %s", error)
            await asyncio.sleep(RETRY_PERIOD)

    async def _try_acquire(self) -> bool:
        started = time.monotonic()
        try:
            lease = await self._kube.get(LEASES, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
            epoch = max(1, int(time.time()) - FIRST_EPOCH)
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._spec(epoch),
            }
            # Not Kube.create, which only a leader may call.
            made = await self._kube.request("POST", LEASES.path(self._namespace), lease)
            self._version = version_of(made)
            self._took(epoch, started)
            return True
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        epoch = int(spec.get("leaseTransitions") or 0) + 1
        await self._put({**lease, "spec": self._spec(epoch)})
        self._took(epoch, started)
        return True

    async def _put(self, lease: Json) -> None:
        """Refused by the API server if somebody wrote since the lease was read."""
        path = LEASES.path(self._namespace, self._name)
        self._version = version_of(await self._kube.request("PUT", path, lease))

    def _expired(self, spec: Json) -> bool:
        """Whether the lease has not changed for its duration, by this process's own clock."""
        seen = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)

    def _spec(self, epoch: int, holder: str | None = None) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity if holder is None else holder,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": epoch,
        }

    def _took(self, epoch: int, started: float) -> None:
        self.epoch = epoch
        self._renewed_at = started

    async def hold(self) -> None:
        """Renews until somebody else has taken the lease, or deleted it; then returns.

        Also where the lease is older than this process wrote it: etcd was restored from a snapshot,
        and all that is remembered here is of another time.
        """
        while True:
            await asyncio.sleep(RETRY_PERIOD)
            started = time.monotonic()
            try:
                async with asyncio.timeout(RENEW_DEADLINE / 2):
                    lease = await self._kube.get(LEASES, self._namespace, self._name)
                    if version_of(lease) < self._version:
                        log.error("the cluster went back in time, to a snapshot: beginning anew")
                        break
                    spec = lease.get("spec", {})
                    mine = spec.get("holderIdentity") == self._identity
                    if not mine or spec.get("leaseTransitions") != self.epoch:
                        log.error("somebody else took the lease")
                        break
                    renewed = {**spec, "renewTime": self._spec(0)["renewTime"]}
                    await self._put({**lease, "spec": renewed})
                    self._renewed_at = started
            except (ApiError, TimeoutError) as error:
                log.warning("the lease was not renewed: %r", error)
                if isinstance(error, ApiError) and error.not_found:
                    break
        self.epoch = 0

    async def release(self) -> None:
        """Gives the lease up, so that the next leader need not wait for it to expire."""
        if not self.held:
            return
        try:
            async with asyncio.timeout(2):
                lease = await self._kube.get(LEASES, self._namespace, self._name)
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    await self._put({**lease, "spec": self._spec(self.epoch, "")})
        except (ApiError, TimeoutError) as error:
            log.warning("the lease was not released: %s", error)
        self.epoch = 0
