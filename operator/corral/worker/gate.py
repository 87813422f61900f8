"""Who may call: this pod and not one that had its address before, and not a deposed operator."""

import re
from collections.abc import Callable, Mapping
from time import monotonic

from corral.api.attempt import HEADER_EPOCH, HEADER_WORKER_UID
from corral.worker.attempt import RefusedError

LEASE_SECONDS = 120.0
_EPOCH = re.compile(r"[0-9]{1,18}")


class Gate:
    """Compares calls with the pod's UID and the highest epoch seen.

    Calls without these headers (of plain A2A clients) pass. A call that names its epoch is the
    operator's, and renews the attempts' lease.
    """

    def __init__(self, pod_uid: str, clock: Callable[[], float] = monotonic) -> None:
        self.pod_uid = pod_uid
        self.epoch = 0
        self._clock = clock
        self._renewed_at = clock()

    def check(self, headers: Mapping[str, str]) -> None:
        """Lets a call pass; does not await.

        Args:
            headers: with lower-case names.

        Raises:
            RefusedError: WrongWorker or StaleEpoch.
        """
        uid = headers.get(HEADER_WORKER_UID.lower())
        if uid is not None and uid != self.pod_uid:
            raise RefusedError("WrongWorker", f"This is worker {self.pod_uid}.")
        epoch = headers.get(HEADER_EPOCH.lower())
        if epoch is None:
            return
        if not _EPOCH.fullmatch(epoch) or int(epoch) < self.epoch:
            raise RefusedError("StaleEpoch", f"The operator's epoch is {self.epoch} by now.")
        self.epoch = int(epoch)
        self._renewed_at = self._clock()

    def abandoned(self) -> bool:
        """Whether no operator has called for so long that nobody may be waiting for results."""
        return self._clock() - self._renewed_at > LEASE_SECONDS
