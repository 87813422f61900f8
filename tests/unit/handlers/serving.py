"""Clients of what a handler serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web


@asynccontextmanager
async def client_of(runner: web.AppRunner) -> AsyncIterator[aiohttp.ClientSession]:
    """Of a server that was given port 0; it is cleaned up."""
    port = next(address[1] for address in runner.addresses if address[0] == "0.0.0.0")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield client
    await runner.cleanup()
