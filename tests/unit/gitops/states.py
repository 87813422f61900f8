"""Objects in all their states, and what the GitOps tools should make of them."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
CURRENT, IN_PROGRESS, FAILED = "Current", "InProgress", "Failed"
HEALTHY, PROGRESSING, DEGRADED, SUSPENDED = "Healthy", "Progressing", "Degraded", "Suspended"
AGREES = {HEALTHY: CURRENT, PROGRESSING: IN_PROGRESS, DEGRADED: FAILED, SUSPENDED: IN_PROGRESS}
"""What Argo CD says, and what Flux then has to say."""


@dataclass(frozen=True)
class State:
    """An object, and what is made of it."""

    obj: Json
    argo_cd: str
    kstatus: str
    message: str = ""
    """Words of Argo CD's message."""

    @property
    def flux(self) -> str:
        return AGREES[self.argo_cd]


def thing(kind: str, status: Json | None, generation: int = 2, **spec: Any) -> Json:
    """An object as the API server has it."""
    made: Json = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "x", "namespace": "team", "uid": "u", "generation": generation},
        "spec": spec,
    }
    return made | ({"status": status} if status is not None else {})


def conditions(**given: bool | str | None) -> list[Json]:
    """True, False or Unknown; a text is the message of one that is True."""
    statuses = {True: "True", False: "False", None: "Unknown"}
    return [
        {
            "type": kind,
            "status": "True" if isinstance(value, str) else statuses[value],
            "reason": "Because",
            "message": value if isinstance(value, str) else "",
            "lastTransitionTime": "2026-11-01T12:00:00Z",
            "observedGeneration": 2,
        }
        for kind, value in given.items()
    ]


def seen(**given: Any) -> Json:
    """A status with conditions, of the current generation."""
    fields = {key: given.pop(key) for key in list(given) if key[0].islower()}
    return {"observedGeneration": 2, "conditions": conditions(**given), **fields}


def _run(phase: str, **given: Any) -> Json:
    return thing("Workflow", seen(phase=phase, progress="1/2", **given))


_GOING: Json = {"Finished": False, "Succeeded": None, "Reconciling": True, "Stalled": False}
_ENDED: Json = {"Finished": True, "Reconciling": False}
_UNSEEN = State({}, PROGRESSING, IN_PROGRESS, "waits for the operator")


def _unseen(obj: Json) -> State:
    return State(obj, _UNSEEN.argo_cd, _UNSEEN.kstatus, _UNSEEN.message)


def _common(kind: str) -> dict[str, State]:
    """The states of what has Ready, Reconciling and Stalled."""
    on_its_way = seen(Ready=False, Reconciling="there is no Model 'fast'", Stalled=False)
    broken = seen(Ready=False, Reconciling=False, Stalled="spec.tools: not supported yet")
    ready = seen(Ready=True, Reconciling=False, Stalled=False)
    return {
        f"{kind} that nobody has looked at": _unseen(thing(kind, {"observedGeneration": -1})),
        f"{kind} that was changed": _unseen(thing(kind, ready, generation=3)),
        f"{kind} that is ready": State(thing(kind, ready), HEALTHY, CURRENT, "Because"),
        f"{kind} that waits": State(
            thing(kind, on_its_way), PROGRESSING, IN_PROGRESS, "no Model 'fast'"
        ),
        f"{kind} that is stuck": State(thing(kind, broken), DEGRADED, FAILED, "not supported"),
        f"{kind} that is neither": State(
            thing(kind, seen(Ready=None, Reconciling=False, Stalled=False)),
            PROGRESSING,
            IN_PROGRESS,
        ),
    }


READY = seen(Ready=True, Suspended=False, Reconciling=False, Stalled=False)
STATES: dict[str, State] = {
    **_common("Model"),
    **_common("Agent"),
    **_common("AgentPool"),
    **_common("CronWorkflow"),
    "CronWorkflow with a next time": State(
        thing("CronWorkflow", READY | {"nextScheduleTime": "2026-11-02T07:30:00Z"}),
        HEALTHY,
        CURRENT,
        "next at 2026-11-02T07:30:00Z",
    ),
    "CronWorkflow that is suspended": State(
        thing("CronWorkflow", seen(Ready=True, Suspended=True), suspend=True),
        HEALTHY,
        CURRENT,
        "suspended",
    ),
    "WorkflowTemplate": State(thing("WorkflowTemplate", None, steps=[]), HEALTHY, CURRENT),
    "ApprovalRequest that waits": State(
        thing("ApprovalRequest", None, prompt="Publish?"), SUSPENDED, CURRENT, "Publish?"
    ),
    "ApprovalRequest that was approved": State(
        thing("ApprovalRequest", None, decision={"verdict": "Approve", "by": "ann"}),
        HEALTHY,
        CURRENT,
        "Approve by ann",
    ),
    "ApprovalRequest that was rejected": State(
        thing(
            "ApprovalRequest",
            None,
            decision={"verdict": "Reject", "by": "ann", "comment": "too long"},
        ),
        HEALTHY,
        CURRENT,
        "Reject by ann: too long",
    ),
    "Workflow that nobody has looked at": _unseen(thing("Workflow", {"observedGeneration": -1})),
    "Workflow whose spec was changed": _unseen(
        thing("Workflow", seen(phase="Succeeded", **_ENDED), generation=3)
    ),
    "Workflow that waits for its Agent": State(
        _run("Pending", message="there is no Agent 'x'", **_GOING),
        PROGRESSING,
        IN_PROGRESS,
        "no Agent 'x'",
    ),
    "Workflow that runs": State(_run("Running", **_GOING), PROGRESSING, IN_PROGRESS, "1/2"),
    "Workflow that waits for a person": State(
        _run(
            "Running",
            message="review: waits for a person's approval",
            **_GOING,
        ),
        PROGRESSING,
        IN_PROGRESS,
        "review: waits for a person's approval",
    ),
    "Workflow that is suspended": State(
        _run("Suspended", **_GOING, Suspended="spec.suspend is set"),
        SUSPENDED,
        IN_PROGRESS,
        "spec.suspend is set",
    ),
    "Workflow that was resumed": State(
        _run("Running", **_GOING, Suspended=False), PROGRESSING, IN_PROGRESS
    ),
    "Workflow with an invalid graph": State(
        _run("Pending", Finished=False, Reconciling=False, Stalled="spec.steps[0].input: no"),
        DEGRADED,
        FAILED,
        "spec.steps[0].input",
    ),
    "Workflow whose Agent never came": State(
        _run("Running", Finished=False, Reconciling=False, Stalled="there is no Agent 'x'"),
        DEGRADED,
        FAILED,
        "no Agent 'x'",
    ),
    "Workflow that succeeded": State(
        _run("Succeeded", **_ENDED, Succeeded=True, Stalled=False), HEALTHY, CURRENT, "1/2"
    ),
    "Workflow that succeeded in spite of failures": State(
        _run("Succeeded", **_ENDED, Succeeded=True, Stalled=False, Degraded="step a: 1 of 9"),
        HEALTHY,
        CURRENT,
        "step a: 1 of 9",
    ),
    "Workflow that failed": State(
        _run("Failed", message="step a failed", **_ENDED, Succeeded=False, Stalled=True),
        DEGRADED,
        FAILED,
        "step a failed",
    ),
    "Workflow that was stopped": State(  # kstatus: what its spec asks for is so
        _run("Stopped", **_ENDED, Succeeded=False, Stalled=False), DEGRADED, CURRENT, "Stopped"
    ),
    "Workflow that was suspended and then stopped": State(
        _run("Stopped", **_ENDED, Succeeded=False, Stalled=False, Suspended=False),
        DEGRADED,
        CURRENT,
        "Stopped",
    ),
}


def deleted(state: State) -> State:
    """The same object, once somebody has deleted it."""
    metadata = state.obj["metadata"] | {"deletionTimestamp": "2026-11-01T12:00:00Z"}
    obj = state.obj | {"metadata": metadata}
    return State(obj, PROGRESSING, "Terminating", "Pending deletion")


def without_status(state: State) -> State:
    """The same object, under a CRD that gives it no status."""
    obj = {key: value for key, value in state.obj.items() if key != "status"}
    return State(obj, PROGRESSING, CURRENT, "waits for the operator")


EVERY = {
    **STATES,
    **{f"{name}, deleted": deleted(state) for name, state in STATES.items()},
    **{
        f"{name}, without status": without_status(state)
        for name, state in STATES.items()
        if "status" in state.obj and "nobody" in name
    },
}
"""All of them."""
