"""Asks whoever sits at the terminal what a local run wants to have decided."""

import asyncio
import getpass
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rich.console import Console

from corral.plan.observed import ApprovalView, WantedApproval

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
    """Decides as was said, else asks on the terminal, one question at a time."""

    def __init__(
        self,
        decisions: Decisions,
        console: Console,
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._decisions = decisions
        self._console = console
        self._pause = pause
        self._turn = asyncio.Lock()

    async def decide(self, workflow: str, wanted: WantedApproval) -> ApprovalView | None:
        """The decision; None where nobody can be asked."""
        by = getpass.getuser()
        if (verdict := self._decisions.verdict(wanted.step)) is not None:
            given = self._decisions.values
            values = {name: given[name] for name in wanted.allow_edit if name in given}
            return ApprovalView(verdict, by, values=values)
        if not sys.stdin.isatty():
            return None
        async with self._turn:
            return await asyncio.to_thread(self._ask, workflow, wanted, by)

    def _ask(self, workflow: str, wanted: WantedApproval, by: str) -> ApprovalView:
        with self._pause():
            self._console.print(f"\n{workflow}, step {wanted.step}:", markup=False)
            self._console.print(wanted.prompt, markup=False)
            if wanted.tool is not None:
                name, arguments = wanted.tool
                shown = json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
                self._console.print(f"{name} {shown}", markup=False)
            answer = ""
            while answer not in ("y", "n", "yes", "no"):
                answer = self._console.input("Approve? [y/n] ", markup=False).strip().lower()
            comment = self._console.input("Comment (may be empty): ", markup=False).strip()
            values = {
                name: given
                for name in wanted.allow_edit
                if (given := self._console.input(f"{name} (may be empty): ", markup=False))
            }
        return ApprovalView("Approve" if answer[0] == "y" else "Reject", by, comment, values)
