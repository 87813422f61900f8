"""The Models of one attempt: the Agent's own, then its fallbacks in their order.

Once a fallback is asked it stays so until the attempt ends. Only what a model did wrong leads to
another model: a cap that is reached or a tool that fails would be no different there.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from corral.api.agent import AgentSpec
from corral.api.errors import FALLBACK_ERRORS, OF_MODELS, ErrorClass
from corral.api.model import ModelSpec
from corral.worker.outcome import AttemptFailedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """One Model, and after which errors of those before it is asked."""

    name: str
    spec: ModelSpec
    on_errors: frozenset[ErrorClass] = frozenset()


class ModelChain:
    """Which Model is asked now. One attempt's: it moves on, and never back."""

    def __init__(self, links: list[Link]) -> None:
        self._links = links
        self._index = 0
        self._failures: list[str] = []

    @property
    def now(self) -> Link:
        """The Model to ask."""
        return self._links[self._index]

    @property
    def rest(self) -> list[Link]:
        """The Model to ask and those that may follow."""
        return self._links[self._index :]

    def fall_back(self, failed: AttemptFailedError) -> bool:
        """Moves on to the next Model that is meant for this error; whether there is one."""
        if failed.error_class not in OF_MODELS:
            return False
        for index in range(self._index + 1, len(self._links)):
            if failed.error_class in self._links[index].on_errors:
                logger.info(
                    "Model %s failed with %s; Model %s is asked instead.",
                    self.now.name,
                    failed.error_class,
                    self._links[index].name,
                )
                self._failures.append(failed.message)
                self._index = index
                return True
        return False

    def told(self, failed: AttemptFailedError) -> AttemptFailedError:
        """The failure of the last Model, with what the ones before it said."""
        if not self._failures or failed.error_class not in OF_MODELS:
            return failed
        before = " ".join(self._failures)
        return AttemptFailedError(failed.error_class, f"{failed.message} Before it: {before}")


def chain_of(
    agent: AgentSpec,
    agent_name: str,
    models: Mapping[str, ModelSpec],
    start: str | None = None,
    fallbacks: Collection[str] | None = None,
) -> ModelChain:
    """An attempt's chain.

    Args:
        start: the Model to begin with instead of the Agent's own; those before it are not asked.
        fallbacks: those of the Agent's that may be asked after it; None is all.

    Raises:
        AttemptFailedError: Internal if the Agent has no model, or none of that name;
            ModelUnavailable if a Model does not exist.
    """
    if agent.model_ref is None:
        raise AttemptFailedError(
            ErrorClass.INTERNAL, f"Agent {agent_name} has no modelRef: it can only call tools."
        )
    on_errors: dict[str, frozenset[ErrorClass]] = {agent.model_ref.name: frozenset()}
    for fallback in agent.fallback_models or []:
        wanted = fallback.on_errors
        on_errors.setdefault(
            fallback.model_ref.name, FALLBACK_ERRORS if wanted is None else frozenset(wanted)
        )
    links = []
    for name, errors in on_errors.items():
        if name not in models:
            raise AttemptFailedError(
                ErrorClass.MODEL_UNAVAILABLE,
                f"Agent {agent_name} refers to Model {name}, which does not exist.",
            )
        links.append(Link(name, models[name], errors))
    names = list(on_errors)
    if start is not None and start not in names:
        raise AttemptFailedError(
            ErrorClass.INTERNAL, f"Model {start} is not one of Agent {agent_name}'s models."
        )
    first = names.index(start) if start else 0
    rest = [link for link in links[first + 1 :] if fallbacks is None or link.name in fallbacks]
    return ModelChain([links[first], *rest])
