"""The ledger over HTTP: reading only, sums and rows.

People come through the API server, by the proxy of the operator's Service. That tells nobody here
who asks: whoever may use this port reads what all namespaces cost.
"""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from corral.api.types import to_field_name
from corral.breaker import Breaker, RestingError
from corral.ledger.errors import LedgerError
from corral.ledger.query import KEYS, Filter, Sum, total
from corral.ledger.rows import Entry
from corral.plan.times import rfc3339_millis

if TYPE_CHECKING:
    from corral.ledger.store import Store

LEDGER_PORT = 8083
MAX_PAGE = 2000
_FAILURES, _REST = 5, 10.0
_FILTERS = tuple(key for key in KEYS if key not in ("step", "outcome", "purpose"))


class _WrongError(Exception):
    """What is asked for can't be; the message names the parameter."""


async def serve_ledger(store: "Store | None", port: int = LEDGER_PORT) -> web.AppRunner:
    """Serves ``/costs`` and ``/entries``; to be cleaned up.

    Parameters of both: ``since`` and ``until`` in seconds since the epoch, and ``namespace``,
    ``agent``, ``workflow``, … that rows have to be of. ``/costs`` has ``by``, once a key;
    ``/entries`` has ``limit`` and ``after``, which is the ``next`` of the page before.

    400: a parameter is wrong. 404: there is no ledger. 503: it can't be read now.

    Raises:
        OSError: the port is taken.
    """
    breaker = Breaker(_FAILURES, _REST, [_WrongError])

    def guarded(
        answer: "Callable[[Store, web.Request], Awaitable[Any]]",
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if store is None:
                return _refusal(404, "this operator keeps no ledger: CORRAL_LEDGER_URL is empty")
            try:
                async with breaker.call():
                    return web.json_response(await answer(store, request))
            except _WrongError as error:
                return _refusal(400, str(error))
            except LedgerError as error:
                return _refusal(503, f"the ledger can't be read: {error}")
            except RestingError:
                return _refusal(503, "the ledger could not be read a moment ago")

        return handle

    app = web.Application()
    app.router.add_get("/costs", guarded(_costs), allow_head=False)
    app.router.add_get("/entries", guarded(_entries), allow_head=False)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


async def _costs(store: "Store", request: web.Request) -> dict[str, Any]:
    by = request.query.getall("by", [])
    if (unknown := next((key for key in by if key not in KEYS), None)) is not None:
        raise _WrongError(f"by: {unknown!r} is none of {', '.join(KEYS)}")
    sums = await store.sums(by, _filter(request))
    return {
        "by": by,
        "rows": [dict(zip(by, one.keys, strict=True)) | _measures(one) for one in sums],
        "total": _measures(total(sums)),
    }


async def _entries(store: "Store", request: web.Request) -> dict[str, Any]:
    limit = int(_number(request, "limit", MAX_PAGE) or 0)
    if not 0 < limit <= MAX_PAGE:
        raise _WrongError(f"limit: it is not between 1 and {MAX_PAGE}")
    found = await store.entries(_filter(request), limit, _place(request.query.get("after")))
    return {
        "entries": [_row(entry) for entry in found],
        "next": _name(found[-1]) if len(found) == limit else None,
    }


def _filter(request: web.Request) -> Filter:
    equal = {key: request.query[key] for key in _FILTERS if key in request.query}
    return Filter(_number(request, "since", None), _number(request, "until", None), equal)


def _number(request: web.Request, name: str, default: float | None) -> float | None:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        raise _WrongError(f"{name}: {text!r} is no number") from None
    if not 0 <= number < 2**33:
        raise _WrongError(f"{name}: {text} is out of range")
    return number


def _measures(found: Sum) -> dict[str, Any]:
    values = {key: value for key, value in asdict(found).items() if key != "keys"}
    return _named(values)


def _row(entry: Entry) -> dict[str, Any]:
    return _named(asdict(entry) | {"recorded_at": rfc3339_millis(entry.recorded_at)})


def _named(values: dict[str, Any]) -> dict[str, Any]:
    cost = values.pop("cost_usd")
    named = {to_field_name(key): value for key, value in values.items()}
    return named | {"costUSD": None if cost is None else f"{cost.normalize():f}"}


def _name(last: Entry) -> str:
    """The end of a page, as who asks gives it back."""
    place = [last.recorded_at, last.attempt_id, last.model_ref, last.simulated]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place(name: str | None) -> tuple[float, str, str, bool] | None:
    if name is None:
        return None
    try:
        at, attempt_id, model_ref, simulated = json.loads(base64.urlsafe_b64decode(name))
        return float(at), str(attempt_id), str(model_ref), bool(simulated)
    except (ValueError, TypeError):
        raise _WrongError("after: it is not the end of a page") from None


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
