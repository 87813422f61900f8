"""Who may run how many attempts at once, and who is next: all runs of the process share them."""

from collections import Counter, defaultdict
from collections.abc import Collection

from corral.local.tasks import Wake
from corral.local.team import Team


class Places:
    """The places of all Agents. Who finds none is woken when one is free: first come, first served.

    A run keeps its hands off places that others were waiting for before it: a wide fan-out must
    not hold up the rest.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._busy: Counter[str] = Counter()
        self._waiting: dict[str, dict[Wake, None]] = defaultdict(dict)
        self._offered: dict[str, dict[Wake, None]] = defaultdict(dict)
        """Who was woken for a place, and has not looked yet."""

    def busy(self, agent: str) -> int:
        """Attempts under way."""
        return self._busy[agent]

    def free_for(self, agent: str, wake: Wake) -> int:
        """Places that the run which is woken by ``wake`` may take now."""
        free = self._free(agent)
        others = sum(other != wake for other in self._waiting[agent])
        if wake in self._offered[agent]:
            return max(1, free + 1 - others)
        return free - others

    def take(self, agent: str) -> None:
        self._busy[agent] += 1

    def leave(self, agent: str) -> None:
        self._busy[agent] -= 1

    def settle(self, wake: Wake, refused: Collection[str]) -> None:
        """After a run's pass: what it did not take is others', and it waits where there is none.

        Args:
            refused: Agents that had no place for all that it would start.
        """
        for offered in self._offered.values():
            offered.pop(wake, None)
        for agent in refused:
            if self.free_for(agent, wake) <= 0:  # else it had one, and made no use of it
                self._waiting[agent].setdefault(wake)
        self._offer()

    def forget(self, wake: Wake) -> None:
        """A run has ended."""
        for runs in (*self._waiting.values(), *self._offered.values()):
            runs.pop(wake, None)
        self._offer()

    def _free(self, agent: str) -> int:
        return self._team[agent].capacity - self._busy[agent] - len(self._offered[agent])

    def _offer(self) -> None:
        for agent, waiting in self._waiting.items():
            for wake in list(waiting)[: max(0, self._free(agent))]:
                del waiting[wake]
                self._offered[agent][wake] = None
                wake()
