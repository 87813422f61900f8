"""Shows a run while it goes on: a tree that changes on a terminal, else a line per change."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.text import Text

from corral.api.workflow import StepPhase
from corral.cli.tree import items_text, phase_text, reason_text, summary, tree
from corral.cli.view import RunView, duration

Clock = Callable[[], float]


class Follower(AbstractContextManager["Follower"], Protocol):
    """Is told of every state of a run."""

    def update(self, view: RunView) -> None:
        """The run is like this now."""

    def pause(self) -> AbstractContextManager[None]:
        """Leaves the terminal to somebody else for a while."""

    def __enter__(self) -> Self: ...


def console(*, stderr: bool = False) -> Console:
    """The terminal; without colours where NO_COLOR is set or nobody looks."""
    return Console(highlight=False, soft_wrap=False, emoji=False, markup=False, stderr=stderr)


def follower(output: Console, clock: Clock = time.time) -> Follower:
    """The right kind for where the output goes."""
    return _Live(output, clock) if output.is_terminal else _Lines(output, clock)


class _Silent:
    """For ``-o json``: shows nothing."""

    def update(self, view: RunView) -> None:
        pass

    def pause(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def silent() -> Follower:
    """Shows nothing."""
    return _Silent()


class _Live:
    def __init__(self, output: Console, clock: Clock) -> None:
        from rich.live import Live

        self._output = output
        self._clock = clock
        self._view: RunView | None = None
        self._live = Live(
            console=output, get_renderable=self._render, refresh_per_second=8, transient=True
        )

    def update(self, view: RunView) -> None:
        self._view = view

    @contextmanager
    def pause(self) -> Iterator[None]:
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def _render(self) -> RenderableType:
        if self._view is None:
            return Text("…")
        lines = tree(
            self._view, self._output.width, self._clock(), unicode=is_unicode(self._output)
        )
        room = max(1, self._output.height - 1)
        return Group(
            *(lines if len(lines) <= room else [lines[0], *lines[len(lines) - room + 1 :]])
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)


class _Lines:
    def __init__(self, output: Console, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._shown: dict[str, str] = {}

    def update(self, view: RunView) -> None:
        now = self._clock()
        for name, text in changes(view):
            if self._shown.get(name) != text:
                self._shown[name] = text
                passed = duration(view.seconds(now) or 0.0)
                show(self._output, [Text(f"{passed:>6}  {text}")])

    def pause(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def changes(view: RunView) -> list[tuple[str, str]]:
    """What is to be said of the run and of each step: (of what, a line)."""
    found = []
    message = view.stalled or view.status.message
    text = phase_text(view) + (f": {message}" if message else "")
    run = ("", f"Workflow {view.name}: {text}")
    for row in view.status.steps or []:
        if row.phase is StepPhase.PENDING:
            continue
        parts = [f"{row.name}: {row.phase.value}"]
        if row.items is not None:
            parts.append(items_text(row.items))
        if (row.attempts or 0) > 1:
            parts.append(f"attempt {row.attempts}")
        if row.finished_at and row.cost_usd:
            parts.append(f"${row.cost_usd}")
        if reason := reason_text(row):
            parts.append(reason)
        found.append((f"step {row.name}", "  ".join(parts)))
    for item in view.status.attention or []:
        if item.message:
            attempt = f"  attempt {item.attempt}" if item.attempt else ""
            line = f"{item.name}: {item.phase.value}{attempt}  {item.message}"
            found.append((f"item {item.name}", line))
    return [*found, run] if view.finished else [run, *found]


def show(output: Console, lines: list[Text]) -> None:
    """Prints lines as they are: never wrapped, cut or interpreted."""
    for line in lines:
        output.print(line, soft_wrap=True)


def show_tree(output: Console, view: RunView, clock: Clock = time.time) -> None:
    """The tree as it is now."""
    show(output, tree(view, output.width, clock(), unicode=is_unicode(output)))


def show_end(output: Console, view: RunView, clock: Clock = time.time) -> None:
    """The tree and what the run came to."""
    show_tree(output, view, clock)
    output.print()
    show(output, summary(view, clock()))


def is_unicode(output: Console) -> bool:
    """Whether more than ASCII can be shown there."""
    return output.encoding.lower().replace("-", "").startswith("utf")
