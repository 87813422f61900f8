"""What a run has under way beside its own loop: questions to people, child Workflows."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Wake = Callable[[], None]


class Tasks:
    """Tasks of one run; it is woken when one ends, and hears of what went wrong."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begins a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failure = error
        self._wake()

    def check(self) -> None:
        """Raises what a task raised."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Cancels all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
