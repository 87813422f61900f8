"""Virtual time: hours of waiting pass in no time, and always in the same order.

The loop never waits: where nothing is ready, its clock jumps to the next timer. (``looptime`` moves
only the loop's own clock. The operator reads ``time.monotonic``, and work that goes to a thread
would be overtaken by the clock; so threads' work is done at once, in the loop.)
"""

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from datetime import datetime, tzinfo
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

START = 1_000.0
"""What the monotonic clock begins with."""
WALL = 1_800_000_000.0 - START
"""Of the wall clock over the monotonic one; the year 2027."""
_STUCK = 200_000
"""Turns of the loop in which no time passes, after which nothing will ever end."""

OWNER: ContextVar[set["asyncio.Task[Any]"] | None] = ContextVar("OWNER", default=None)
"""The tasks of the process on whose behalf code runs: all of them end when it is killed."""


class DeadlockError(Exception):
    """Nothing is left that could ever happen, or nothing but the same for ever."""


class _Jumping(selectors.DefaultSelector):
    """Asks for what is ready, and instead of waiting for more lets the clock jump."""

    now = START
    _turns = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            self._turns += 1
            if self._turns > _STUCK:
                raise DeadlockError(f"{_STUCK} turns of the loop, and no time passes")
            return ready
        if timeout is None:
            raise DeadlockError("everything waits, and nothing for the clock")
        self._turns = 0
        self.now += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.set_task_factory(_owned)  # type: ignore[arg-type]

    def time(self) -> float:
        """Seconds of the virtual monotonic clock."""
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """Does a thread's work here and now."""
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def _owned(
    loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None
) -> "asyncio.Task[Any]":
    """Makes a task that its process knows of."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    owner = OWNER.get() if context is None else context.get(OWNER)
    if owner is not None:
        owner.add(task)
        task.add_done_callback(owner.discard)
    return task


def _loop() -> VirtualLoop | None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, VirtualLoop) else None


def monotonic() -> float:
    """The virtual monotonic clock; outside of a virtual loop the real one."""
    loop = _loop()
    return loop.time() if loop else time.monotonic()


def wall() -> float:
    """The virtual wall clock; outside of a virtual loop the real one."""
    loop = _loop()
    return loop.time() + WALL if loop else time.time()


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Datetime":
        return cls.fromtimestamp(wall(), tz)


_CLOCKS: dict[Any, Any] = {time.monotonic: monotonic, time.time: wall}
_NOW = ("corral.kube.lease", "corral.kube.events")
"""Modules that ask ``datetime`` for the time."""


@contextmanager
def virtual_clocks() -> Iterator[None]:
    """Within, all of corral that is imported reads the virtual clocks."""
    undo: list[tuple[Any, str, Any]] = []

    def put(where: Any, name: str, value: Any) -> None:
        undo.append((where, name, getattr(where, name)))
        setattr(where, name, value)

    modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "corral"]
    for module in modules:
        for name, value in list(vars(module).items()):
            if value is time:
                put(module, name, SimpleNamespace(**vars(time) | {"monotonic": monotonic}))
                getattr(module, name).time = wall
            elif value is datetime and module.__name__ in _NOW:
                put(module, name, _Datetime)
            elif _is_clock(value):
                put(module, name, _CLOCKS[value])
        for function in _functions(module):
            if any(map(_is_clock, function.__defaults__ or ())):
                put(function, "__defaults__", tuple(map(_replaced, function.__defaults__ or ())))
            if any(map(_is_clock, (function.__kwdefaults__ or {}).values())):
                kept = {name: _replaced(value) for name, value in function.__kwdefaults__.items()}
                put(function, "__kwdefaults__", kept)
    try:
        yield
    finally:
        for where, name, value in reversed(undo):
            setattr(where, name, value)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            yield from (one for one in vars(value).values() if isinstance(one, FunctionType))


def _is_clock(value: Any) -> bool:
    return value is time.monotonic or value is time.time


def _replaced(value: Any) -> Any:
    return _CLOCKS[value] if _is_clock(value) else value
