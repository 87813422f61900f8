"""Load on a cluster with corral installed: ``python -m tests.load``.

A *part* (a module of ``parts``) makes its own namespaces, loads them, and gives *figures*: numbers
with a unit and, where there is one, a target. ``site`` is the cluster as the parts see it.
"""
