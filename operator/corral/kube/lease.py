"""Leadership by a Lease, safe against hangs, clock jumps and frozen processes.

The client's own elector is not (a hung GET leaves leader code running on an expired lease). Here
the monotonic clock decides; every request is bounded by half the renew deadline; any exception is
a failed renewal; and a watchdog thread ends the process when the event loop itself hangs. A
takeover adds one to ``leaseTransitions``: that number is the epoch that workers check.
"""

import asyncio
import logging
import os
import threading
import time
from datetime import UTC, datetime

from corral.kube.client import LEASES, ApiError, Json, Kube

log = logging.getLogger(__name__)

LEASE_SECONDS = 12
RENEW_DEADLINE = 8.0
RETRY_PERIOD = 2.0


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
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": self._spec(1),
            }
            await self._kube.create(LEASES, self._namespace, lease)
            self._took(1, started)
            return True
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        epoch = int(spec.get("leaseTransitions") or 0) + 1
        await self._kube.put(LEASES, {**lease, "spec": self._spec(epoch)})
        self._took(epoch, started)
        return True

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
        """Renews until the lease is lost, then returns. Run ``watch_over`` beside it."""
        while self.held:
            await asyncio.sleep(RETRY_PERIOD)
            started = time.monotonic()
            try:
                async with asyncio.timeout(RENEW_DEADLINE / 2):
                    lease = await self._kube.get(LEASES, self._namespace, self._name)
                    spec = lease.get("spec", {})
                    mine = spec.get("holderIdentity") == self._identity
                    if not mine or spec.get("leaseTransitions") != self.epoch:
                        log.error("somebody else took the lease")
                        break
                    renewed = {**spec, "renewTime": self._spec(0)["renewTime"]}
                    await self._kube.put(LEASES, {**lease, "spec": renewed})
                    self._renewed_at = started
            except (ApiError, TimeoutError) as error:
                log.warning("the lease was not renewed: %s", error)
        self.epoch = 0

    async def release(self) -> None:
        """Gives the lease up, so that the next leader need not wait for it to expire."""
        if not self.held:
            return
        try:
            async with asyncio.timeout(2):
                lease = await self._kube.get(LEASES, self._namespace, self._name)
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    await self._kube.put(LEASES, {**lease, "spec": self._spec(self.epoch, "")})
        except (ApiError, TimeoutError) as error:
            log.warning("the lease was not released: %s", error)
        self.epoch = 0

    def watch_over(self) -> None:
        """Ends the process from a thread once the lease is lost, also when the loop hangs."""

        def watchdog() -> None:
            while True:
                time.sleep(0.5)
                if self._renewed_at and time.monotonic() - self._renewed_at > RENEW_DEADLINE + 1:
                    log.critical("the lease is lost and the process still runs: ending it")
                    os._exit(1)

        threading.Thread(target=watchdog, name="lease-watchdog", daemon=True).start()
