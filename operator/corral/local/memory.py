"""What a run leaves in the process's memory: large outputs, and results for others."""

import json
from typing import Any

from corral.api.workflow import WorkflowStatus
from corral.local.office import Office
from corral.plan.facts import Memo
from corral.plan.holdings import turns
from corral.plan.observed import Pass
from corral.plan.state import Run, Stored
from corral.plan.status import short_output


def remember(p: Pass, office: Office) -> None:
    """Keeps large outputs and memoized results; lets go of what nobody works out any more."""
    for sha256, content in p.to_store.items():
        office.values[(p.run.run_id, sha256)] = json.loads(content)
    for key, kept in p.to_memoize.items():
        value = kept.value if kept.stored is None else _value(office, p.run, kept.stored)
        office.memos[key] = Memo(value, p.now)
    live = set(turns(p.run))
    own = f"{p.run.run_id}."
    flights = office.flights.items()
    over = [key for key, at in flights if at.startswith(own) and (key, at) not in live]
    for key in over:
        del office.flights[key]
    if over:
        office.release()


def with_values(status: WorkflowStatus, run: Run, office: Office) -> WorkflowStatus:
    """The status with outputs where a cluster's has references: there is no store to ask."""
    if run.output_stored is not None:
        status.output = _value(office, run, run.output_stored)
    steps = run.steps | run.exit_steps
    for row in status.steps or []:
        step = steps[row.name]
        if not step.is_fan_out and step.nodes and (stored := step.nodes[0].stored) is not None:
            row.output = short_output(_value(office, run, stored))
    return status


def _value(office: Office, run: Run, stored: Stored) -> Any:
    return office.value(stored.run_id or run.run_id, stored.sha256)
