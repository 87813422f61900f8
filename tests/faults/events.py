"""What can become of the events of a watch: see ``Proxy.breaking``."""

from tests.faults.proxy import Change, Json


def hidden(event: Json) -> list[Json]:
    """Nobody hears of it."""
    return []


def doubled(event: Json) -> list[Json]:
    """It comes twice."""
    return [event, event]


def of(name: str, change: Change, kind: str | None = None) -> Change:
    """A change of the events about objects of that name alone, or of one kind of these."""

    def chosen(event: Json) -> list[Json]:
        mine = event["object"].get("metadata", {}).get("name") == name
        return change(event) if mine and kind in (None, event["type"]) else [event]

    return chosen


def thinned() -> Change:
    """Nobody hears of every other one."""
    count = iter(range(10**9))
    return lambda event: [event] if next(count) % 2 else []


def swapped() -> Change:
    """Of the events about each kind, every other comes after the one that followed it."""
    held: dict[str, Json] = {}

    def change(event: Json) -> list[Json]:
        kind = event["object"].get("kind", "")
        if kind in held:
            return [event, held.pop(kind)]
        held[kind] = event
        return []

    return change


def error(code: int) -> Json:
    """The event by which an API server ends a watch."""
    return {
        "type": "ERROR",
        "object": {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": code,
            "reason": {410: "Expired", 500: "InternalError"}[code],
            "message": f"{code} by a test",
        },
    }
