"""The attempts of a local run: tasks of this process."""

import asyncio

from corral.api.errors import ErrorClass
from corral.local.office import Office
from corral.local.tasks import Wake
from corral.plan.observed import Payload, Result
from corral.plan.state import Consumption, Worker, effect_key
from corral.worker.outcome import AttemptOutcome, UsageMeter


class Attempts:
    """Starts and cancels attempts; what has ended waits in ``results`` until it is taken."""

    def __init__(self, office: Office, namespace: str, wake: Wake) -> None:
        self._office = office
        self._namespace = namespace
        self._wake = wake
        self._tasks: dict[str, asyncio.Task[AttemptOutcome]] = {}
        self._results: list[Result] = []

    def take_results(self) -> list[Result]:
        """What has ended since the last call."""
        results, self._results = self._results, []
        return results

    @property
    def under_way(self) -> bool:
        """Whether any runs, or its result was not taken."""
        return bool(self._tasks or self._results)

    def start(self, agent: str, payload: Payload) -> None:
        """Runs an attempt on an Agent's runtime."""
        meter = UsageMeter()
        answer = self._office.team[agent].runtime.run(
            payload.attempt_id,
            payload.input,
            payload.input_data,
            payload.output_schema,
            payload.timeout,
            effect_key=effect_key(payload.attempt_id),
            meter=meter,
            model_ref=payload.model_ref,
            max_cost_usd=payload.max_cost_usd,
            max_tokens=payload.max_tokens,
            tool=payload.tool,
            conversation=payload.conversation,
            decisions=payload.decisions,
        )
        task = asyncio.create_task(answer, name=payload.attempt_id)
        self._office.places.take(agent)
        self._tasks[payload.attempt_id] = task
        # Not in the coroutine: cancelled before its first step it would run none of its code.
        task.add_done_callback(lambda ended: self._ended(agent, payload, meter, ended))

    def _ended(
        self, agent: str, payload: Payload, meter: UsageMeter, task: asyncio.Task[AttemptOutcome]
    ) -> None:
        self._office.places.leave(agent)
        del self._tasks[payload.attempt_id]
        output, error, message, asked = None, None, "", None
        if task.cancelled():
            error, message = ErrorClass.INTERNAL, "cancelled"
        elif (failure := task.exception()) is not None:
            error, message = ErrorClass.INTERNAL, f"unexpected {type(failure).__name__}: {failure}"
        else:
            outcome = task.result()
            output, asked = outcome.output, outcome.input_required
            if outcome.error is not None:
                error, message = outcome.error.error_class, outcome.error.message
        used = self._office.priced(meter.usage())
        self._office.budgets.spend((self._namespace, agent), used)
        worker = payload.worker.uid
        self._results.append(
            Result(payload.attempt_id, worker, used, output, error, message, asked)
        )
        self._wake()

    def cancel(self, attempt: str, worker: Worker) -> None:
        """Ends an attempt that was given up; its usage comes as a result either way."""
        if (task := self._tasks.get(attempt)) is not None:
            task.cancel()
        elif all(result.attempt_id != attempt for result in self._results):
            self._results.append(Result(attempt, worker.uid, Consumption()))
            self._wake()

    async def close(self) -> None:
        """Cancels all that runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
