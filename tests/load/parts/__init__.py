"""The parts of the benchmark, in the order in which they run.

Each is a function of a ``Site`` that fills a ``Part``. What it measures is told by its docstring,
and by ``python -m tests.load --list``.
"""

from collections.abc import Awaitable, Callable

from tests.load.parts.crowd import crowd
from tests.load.parts.floor import floor
from tests.load.parts.latency import latency
from tests.load.parts.observability import observability
from tests.load.parts.overload import overload
from tests.load.parts.standing import standing
from tests.load.parts.throughput import chains, wide
from tests.load.report import Part
from tests.load.site import Site

PARTS: dict[str, Callable[[Site, Part], Awaitable[None]]] = {
    part.__name__: part
    for part in (floor, chains, wide, latency, overload, crowd, standing, observability)
}
