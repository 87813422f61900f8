"""How many steps a second one operator gets done, and what each costs."""

import time
from dataclasses import dataclass

from corral.kube.client import Json
from tests.load import objects
from tests.load.report import Figure, Part
from tests.load.site import Runs, Site, following

TEAM = "load"


async def chains(site: Site, part: Part) -> None:
    """Many Workflows at once, each a chain: one write for each of its waves."""
    sizes = site.sizes
    workflows = [
        objects.chain(f"chain-{number}", sizes.chain_steps, TEAM) for number in range(sizes.chains)
    ]
    cost = Cost(steps=sizes.chains * sizes.chain_steps, rate=60, writes=1.25, cpu=5)
    async with site.namespace() as namespace:
        await site.team(namespace, TEAM)
        await cost.measure(site, namespace, workflows, part)


async def wide(site: Site, part: Part) -> None:
    """One Workflow that fans out once: completions share writes."""
    cost = Cost(steps=site.sizes.width, rate=200, writes=0.1)
    async with site.namespace() as namespace:
        await site.team(namespace, TEAM)
        await cost.measure(site, namespace, [objects.wide("wide", site.sizes.width, TEAM)], part)


@dataclass(frozen=True)
class Cost:
    """What steps cost, and the targets for that."""

    steps: int
    """Of all Workflows together."""
    rate: float | None = None
    """The target for steps a second."""
    writes: float | None = None
    """The target for the operator's API writes a step."""
    cpu: float | None = None
    """The target for the operator's CPU milliseconds a step."""

    async def measure(self, site: Site, namespace: str, workflows: list[Json], part: Part) -> None:
        """Runs the Workflows from the first POST to the last end, and fills the part."""
        operator, server = await site.operator(), await site.server()
        async with following(site, namespace) as runs:
            started, own = time.monotonic(), time.process_time()
            await runs.run(workflows)
            seconds, own = time.monotonic() - started, time.process_time() - own
            used, served = await site.operator(), await site.server()
        calls = used.calls - operator.calls
        steps = self.steps
        part.figures += [
            Figure("steps", steps / seconds, "/s", least=self.rate),
            Figure("API writes", calls.total() / steps, "/step", self.writes),
            Figure("operator's CPU", (used.cpu - operator.cpu) / steps * 1000, "ms/step", self.cpu),
            Figure("API server's CPU", (served.cpu - server.cpu) / steps * 1000, "ms/step"),
            Figure("write conflicts", used.conflicts - operator.conflicts),
            *losses(runs, steps),
        ]
        part.details |= {
            "workflows": len(workflows),
            "steps": steps,
            "seconds": round(seconds, 2),
            "loadCPUMillisecondsPerStep": round(own / steps * 1000, 2),
            "operatorResidentMiB": round(used.resident / 2**20),
            "writesPerStep": {call: round(count / steps, 3) for call, count in calls.most_common()},
        }


def losses(runs: Runs, steps: int) -> list[Figure]:
    """Whether every step was done, and none twice."""
    failed, again = len(runs.made) - runs.phases()["Succeeded"], runs.model_calls() - steps
    return [
        Figure("Workflows lost or failed", failed, most=0, must=True),
        Figure("model calls beyond one a step", again, most=0, least=0, must=True),
    ]
