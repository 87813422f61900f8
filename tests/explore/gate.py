"""What every call of an operator passes, and where faults happen."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from corral.kube.client import ApiError
from tests.explore.plans import KILLS, WORKER_KILLS, Call, Fault, Plan

T = TypeVar("T")

TRAVEL = 0.002
"""Seconds that a call takes to arrive, and its answer to come back."""
LATER = 0.2
"""Seconds after which ``worker-killed-later`` kills."""
RETRY_AFTER = 3
"""What a throttled caller is told to wait, in seconds."""


class Caller(Protocol):
    """An operator process."""

    dead: bool

    def kill(self) -> None:
        """Ends it without a word."""


class Gate:
    """Counts calls, lets faults happen, and lets nothing through from the dead.

    Args:
        kill_worker: kills the worker of that address, or any if there is none.
    """

    def __init__(self, plan: Plan, kill_worker: Callable[[str | None], None]) -> None:
        self._plan = plan
        self._kill_worker = kill_worker
        self.calls: dict[int, Call] = {}
        """By number."""
        self.written_at = 0.0
        """When an object was last written by an operator, the Lease aside."""
        self.last_write = ""

    async def uncounted(self, caller: Caller, effect: Callable[[], T], lost: Exception) -> T:
        """A call that no fault is planned for."""
        return await self._deliver(caller, effect, lost)

    async def call(
        self,
        caller: Caller,
        call: Call,
        effect: Callable[[], T],
        lost: Exception,
        host: str | None = None,
    ) -> T:
        """A call with what is planned for it. ``effect`` is what happens at its destination.

        Raises:
            ApiError: the fault is an answer of the API server.
            Exception: ``lost``, where the caller hears nothing; what ``effect`` raises.
        """
        if caller.dead:
            raise lost
        number = len(self.calls) + 1
        self.calls[number] = call
        fault = self._plan.at(number)
        if fault is Fault.KILL_BEFORE:
            await _die(caller)
        if call.writes and not call.optional:
            self.written_at = asyncio.get_running_loop().time()
            self.last_write = f"{call.verb} {call.target}"
        refusal = _refusal(fault, call)
        if refusal is not None:
            await asyncio.sleep(2 * TRAVEL)
            raise refusal
        if fault in WORKER_KILLS:
            loop = asyncio.get_running_loop()
            delay = LATER if fault is Fault.WORKER_KILLED_LATER else 0
            loop.call_later(TRAVEL / 2 + delay, self._kill_worker, host)
        if fault not in (*KILLS, Fault.REPLY_LOST):
            return await self._deliver(caller, effect, lost)
        await asyncio.sleep(TRAVEL)
        if caller.dead:
            raise lost
        try:
            done = effect()
            if isinstance(done, Awaitable):
                await done
        finally:
            # Of one that died of another call meanwhile, this task is cancelled already.
            if fault is Fault.KILL_AFTER and not caller.dead:
                await _die(caller)
        raise lost

    async def _deliver(self, caller: Caller, effect: Callable[[], T], lost: Exception) -> T:
        await asyncio.sleep(TRAVEL)
        if caller.dead:
            raise lost
        answer = effect()
        if isinstance(answer, Awaitable):
            answer = await answer
        await asyncio.sleep(TRAVEL)
        return answer


async def _die(caller: Caller) -> None:
    caller.kill()
    await asyncio.get_running_loop().create_future()


def _refusal(fault: Fault | None, call: Call) -> ApiError | None:
    if call.to_worker:
        return None  # a plan of a run in which this was another call
    what = f"{call.verb} {call.target}: a planned fault"
    if fault is Fault.CONFLICT:
        return ApiError(409, "Conflict", what)
    if fault is Fault.ERROR:
        return ApiError(500, "InternalError", what)
    if fault is Fault.THROTTLED:
        return ApiError(429, "TooManyRequests", what, RETRY_AFTER)
    return None
