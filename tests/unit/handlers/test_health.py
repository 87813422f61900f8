"""Liveness and readiness over HTTP, as the kubelet asks for them."""

import pytest

from corral.handlers.health import serve_health
from tests.unit.handlers.serving import client_of


@pytest.mark.parametrize("holds", [True, False])
async def test_the_kubelet_is_told_whether_it_lives_and_may_be_asked(holds: bool) -> None:
    runner = await serve_health(lambda: holds, lambda: not holds, lambda: None, 0, 0)
    async with client_of(runner) as kubelet:
        for path, expected in (("/healthz", holds), ("/readyz", not holds)):
            async with kubelet.get(path) as answer:
                assert answer.status == (200 if expected else 503), path
