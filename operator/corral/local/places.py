"""Who may run how many attempts at once, and who is next: all runs of the process share them."""

from collections import Counter, defaultdict

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

    def busy(self, agent: str) -> int:
        """Attempts under way."""
        return self._busy[agent]

    def free_for(self, agent: str, wake: Wake) -> int:
        """Places that the run which is woken by ``wake`` may take now."""
        others = sum(1 for other in self._waiting[agent] if other != wake)
        return self._team[agent].capacity - self._busy[agent] - others

    def take(self, agent: str) -> None:
        self._busy[agent] += 1

    def leave(self, agent: str) -> None:
        self._busy[agent] -= 1

    def wait(self, agent: str, wake: Wake) -> None:
        """Asks to be woken when there is a place."""
        self._waiting[agent].setdefault(wake)

    def forget(self, wake: Wake) -> None:
        """That run does not wait any more."""
        for waiting in self._waiting.values():
            waiting.pop(wake, None)

    def offer(self) -> None:
        """Wakes as many as there are places for; to be called after every pass of a run."""
        for agent, waiting in self._waiting.items():
            free = self._team[agent].capacity - self._busy[agent]
            for wake in list(waiting)[: max(0, free)]:
                del waiting[wake]
                wake()
