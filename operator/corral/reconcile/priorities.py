"""PriorityClasses: which workflow gets a free worker first."""

from time import monotonic

from corral.kube.client import PRIORITY_CLASSES, ApiError, Kube

REMEMBERED = 60.0
"""Seconds after which a PriorityClass is read again."""


class Priorities:
    """The values of PriorityClasses; they can't change, but be made and deleted."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._known: dict[str, tuple[int, float]] = {}

    async def value(self, name: str | None) -> int | None:
        """The priority of a class, 0 without one; None where there is no such class.

        Raises:
            ApiError: it can't be read.
        """
        if name is None:
            return 0
        known = self._known.get(name)
        if known is not None and monotonic() - known[1] < REMEMBERED:
            return known[0]
        try:
            found = await self._kube.get(PRIORITY_CLASSES, None, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        self._known[name] = (int(found["value"]), monotonic())
        return self._known[name][0]
