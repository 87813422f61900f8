"""Asks whoever sits at the terminal what a local run wants to have decided."""

import asyncio
import contextlib
import getpass
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from corral.cli.approvals import Decision, shown
from corral.plan.observed import ApprovalView, WantedApproval
from corral.plan.times import rfc3339

HINT = "use --approve STEP or --reject STEP where there is no terminal to ask on"


@dataclass(frozen=True)
class Decisions:
    """What was decided beforehand: patterns of steps, as people write them."""

    approve: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    """For the names that a step lets be set."""

    def verdict(self, step: str) -> str | None:
        """``Approve``, ``Reject``, or None if nothing was said about that step."""
        if any(_matches(step, pattern) for pattern in self.reject):
            return "Reject"
        return "Approve" if any(_matches(step, one) for one in self.approve) else None


def _matches(step: str, pattern: str) -> bool:
    # In names of items [3] is an item, and no set of characters.
    return fnmatchcase(step, pattern.replace("[", "[[]"))


class Asker:
    """Decides as was said, else asks on the terminal, one question at a time.

    Args:
        pause: gives the terminal away for as long as a question takes.
        namespace: the run's.
    """

    def __init__(
        self,
        decisions: Decisions,
        pause: Callable[[], AbstractContextManager[None]],
        namespace: str,
    ) -> None:
        self._decisions = decisions
        self._pause = pause
        self._namespace = namespace
        self._turn = asyncio.Lock()
        self._lines = _Lines()

    async def decide(self, workflow: str, wanted: WantedApproval) -> ApprovalView | None:
        """The decision; None where nobody can be asked."""
        by = _user()
        if (verdict := self._decisions.verdict(wanted.step)) is not None:
            given = self._decisions.values
            values = {name: given[name] for name in wanted.allow_edit if name in given}
            return ApprovalView(verdict, by, values=values)
        if not sys.stdin.isatty():
            return None
        async with self._turn:
            with self._pause():
                try:
                    return await self._ask(workflow, wanted, by)
                except EOFError:
                    _say("\nnothing was decided\n")
                    return None
                except asyncio.CancelledError:
                    _say("\nit is not asked any more\n")
                    raise

    async def _ask(self, workflow: str, wanted: WantedApproval, by: str) -> ApprovalView:
        request = _request(self._namespace, workflow, wanted)
        self._lines.drop()
        _say("\n" + "\n".join(shown(request, Decision(""), by, time.time())) + "\n")
        answer = ""
        while answer not in ("y", "n", "yes", "no"):
            answer = (await self._answer("Approve? [y/n] ")).lower()
        approved = answer[0] == "y"
        values = {}
        for name in wanted.allow_edit if approved else ():
            if given := await self._answer(f"{name} (may be empty): "):
                values[name] = given
        comment = await self._answer("Comment (may be empty): ")
        return ApprovalView("Approve" if approved else "Reject", by, comment, values)

    async def _answer(self, question: str) -> str:
        _say(question)
        return (await self._lines.next()).strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have
        return str(os.getuid()) if hasattr(os, "getuid") else "local"


def _say(text: str) -> None:
    """On stderr: stdout may be a file that the result goes to."""
    print(text, end="", file=sys.stderr, flush=True)


def _request(namespace: str, workflow: str, wanted: WantedApproval) -> dict[str, Any]:
    """The ApprovalRequest that there would be in a cluster."""
    spec: dict[str, Any] = {
        "workflowRef": {"name": workflow},
        "step": wanted.step,
        "prompt": wanted.prompt,
    }
    if wanted.tool is not None:
        spec["tool"] = {"name": wanted.tool[0], "arguments": wanted.tool[1]}
    if wanted.expires_at is not None:
        spec["expiresAt"] = rfc3339(wanted.expires_at)
    return {"metadata": {"namespace": namespace}, "spec": spec}


class _Lines:
    """What is typed, line by line, read by a thread that nobody has to wait for.

    A thread of the event loop's would keep the process from ending until somebody presses Enter.
    """

    def __init__(self) -> None:
        self._typed: asyncio.Queue[str | None] = asyncio.Queue()
        self._reading = False

    def drop(self) -> None:
        """Forgets what was typed before there was a question."""
        while not self._typed.empty():
            if self._typed.get_nowait() is None:
                self._typed.put_nowait(None)
                return

    async def next(self) -> str:
        """The next line.

        Raises:
            EOFError: there is none.
        """
        if not self._reading:
            self._reading = True
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        line = await self._typed.get()
        if line is None:
            self._typed.put_nowait(None)  # there won't be any later either
            raise EOFError
        return line

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        pending = b""
        try:
            # Not through sys.stdin: its lock would be held when the interpreter ends.
            while read := os.read(sys.stdin.fileno(), 4096):
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(self._typed.put_nowait, line.decode(errors="replace"))
        except OSError:  # the terminal is gone
            pass
        except RuntimeError:  # the loop is
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._typed.put_nowait, None)
