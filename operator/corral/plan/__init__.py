"""Decisions, as pure functions of what was observed and ``now``.

Nothing here imports a client, kopf or asyncio. The operator, ``corral run --local``,
``corral validate`` and the tests all drive the same functions.
"""
