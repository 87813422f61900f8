"""What a run's attempts hold, as its state says: places on workers, money, and turns."""

from collections.abc import Iterator, Mapping

from corral.api.workflow import WorkflowSpec
from corral.plan.budget import Reservation
from corral.plan.frames import place
from corral.plan.selection import agent_of_attempt
from corral.plan.state import Node, Run, Step, Worker, attempt_id


def on_workers(run: Run) -> dict[str, Worker]:
    """The attempts that hold a slot: those that run, and those that are being cancelled."""
    running = {
        attempt_id(run.run_id, path, index, node.attempt, node.iteration): node.worker
        for path, index, node in _open_nodes({**run.steps, **run.exit_steps})
        if node.worker is not None
    }
    return running | run.unsettled


def reservations(spec: WorkflowSpec, run: Run) -> dict[str, tuple[str, Reservation]]:
    """By attempt: whose Agent it is of, and what it holds of budgets."""
    held = {
        attempt_id(run.run_id, path, index, node.attempt, node.iteration): Reservation(
            node.reserved, node.reserved_tokens
        )
        for path, index, node in _open_nodes({**run.steps, **run.exit_steps})
        if node.worker is not None and (node.reserved is not None or node.reserved_tokens)
    }
    held |= {
        attempt: Reservation(run.unsettled_cost.get(attempt), run.unsettled_tokens.get(attempt, 0))
        for attempt in run.unsettled
        if attempt in run.unsettled_cost or attempt in run.unsettled_tokens
    }
    return {
        attempt: (agent, reservation)
        for attempt, reservation in held.items()
        if (agent := agent_of_attempt(spec, run, attempt)) is not None
    }


def models_asked(spec: WorkflowSpec, run: Run) -> dict[str, tuple[str, str | None]]:
    """By attempt on a worker: its Agent, and the Model that it was told to ask instead of its."""
    told = {
        attempt_id(run.run_id, path, index, node.attempt, node.iteration): node.model
        for path, index, node in _open_nodes({**run.steps, **run.exit_steps})
        if node.worker is not None
    }
    return {
        attempt: (agent, told.get(attempt))
        for attempt in on_workers(run)
        if (agent := agent_of_attempt(spec, run, attempt)) is not None
    }


def turns(run: Run) -> list[tuple[str, str]]:
    """The memoized results that are being worked out: (key, place of the item)."""
    return [
        (node.memo, place(run.run_id, path, index))
        for path, index, node in _open_nodes({**run.steps, **run.exit_steps})
        if node.memo is not None
    ]


def _open_nodes(steps: Mapping[str, Step], prefix: str = "") -> Iterator[tuple[str, int, Node]]:
    """The items that have not ended, nested ones too: (path of the step, item, node)."""
    for name, step in steps.items():
        if step.final:
            continue
        for index, node in enumerate(step.nodes):
            if node.final:
                continue
            yield prefix + name, index, node
            if node.steps:
                inner = f"{prefix}{name}~{index}~{node.iteration}~"
                yield from _open_nodes(node.steps, inner)
