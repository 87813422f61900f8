"""What holds for the HTTP connections to model providers and tool servers."""

import httpx2

IDLE_SECONDS = 3.0
"""How long a connection is kept unused.

Shorter than what servers keep: uvicorn (vLLM, MCP servers) and Node close after 5 s. A client that
keeps as long as its server sends a request, now and then, into a connection that is being closed;
nobody then knows whether the call was made, so it can't be sent again.
"""


def limits() -> httpx2.Limits:
    """As many connections as calls, which a worker's places and a Model's limits bound."""
    return httpx2.Limits(keepalive_expiry=IDLE_SECONDS)
