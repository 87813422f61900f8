"""Liveness and readiness over HTTP, as the kubelet asks for them."""

import aiohttp
import pytest

from corral.handlers.health import serve_health


@pytest.mark.parametrize("holds", [True, False])
async def test_the_kubelet_is_told_whether_it_lives_and_may_be_asked(holds: bool) -> None:
    runner = await serve_health(lambda: holds, lambda: not holds, 0, 0)
    port = next(port for host, port, *_ in runner.addresses if host == "0.0.0.0")
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as kubelet:
            for path, expected in (("/healthz", holds), ("/readyz", not holds)):
                async with kubelet.get(path) as answer:
                    assert answer.status == (200 if expected else 503), path
    finally:
        await runner.cleanup()
