"""``corral cost``: what was spent, from the operator's ledger."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from corral.api.types import seconds
from corral.cli import focus
from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.operator_service import OperatorService
from corral.cli.options import OPERATOR_NAMESPACE
from corral.cli.words import similar
from corral.ledger.query import KEYS

ATTEMPT = "attempt"
"""The key that stands for every row as it is."""
_PAGE = 2000
_BAR = 24
_DIGITS = 12
"""Digits behind the point that amounts have in Parquet, at least."""
_DAYS = {"d": 1, "w": 7}
_COUNTS = {
    "requests": "REQUESTS",
    "inputTokens": "TOKENS IN",
    "outputTokens": "TOKENS OUT",
    "unpricedRequests": "UNPRICED",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What is asked of the ledger, and how it is to be shown.

    ``namespace`` None is all of them; ``only`` is by key. Times are seconds since the epoch.
    """

    by: tuple[str, ...]
    namespace: str | None
    since: float
    until: float
    only: dict[str, str]
    form: str = "table"
    file: str | None = None
    operator_namespace: str = OPERATOR_NAMESPACE


def cost(cluster: Cluster, wanted: Wanted) -> Exit:
    """Prints it, or writes it to a file.

    Raises:
        CliError: the ledger can't be had, or the file not be written.
    """
    where = wanted.operator_namespace
    service = OperatorService(cluster, where, "ledger", "corral-ledger-reader")
    ledger = _Ledger(service, wanted)
    if wanted.form == "focus" or wanted.by == (ATTEMPT,):
        rows = list(_counted(ledger.entries()))
        _note(_totals(rows))
        if wanted.form == "focus":
            _write(wanted, _csv(focus.COLUMNS, focus.lines(rows)))
            return Exit.OK
        answer: Row = {"by": [ATTEMPT], "rows": rows, "total": _totals(rows)}
        keys = ["attemptID", "modelRef"]
    else:
        keys = list(wanted.by)
        if wanted.namespace is None and "namespace" not in keys:
            keys.insert(0, "namespace")
        answer = ledger.sums(keys)
        _note(answer["total"])
    shape = (answer["rows"] or [answer["total"]])[0]
    columns = [*keys, *(key for key in shape if key not in keys)]
    if wanted.form == "json":
        times = {"since": _shown(wanted.since), "until": _shown(wanted.until)}
        _write(wanted, json.dumps(times | answer, indent=2, ensure_ascii=False) + "\n")
    elif wanted.form == "csv":
        _write(wanted, _csv(columns, answer["rows"]))
    elif wanted.form == "parquet":
        _parquet(wanted, columns, answer["rows"])
    else:
        _write(wanted, "".join(f"{line}\n" for line in table(keys, answer)))
    return Exit.OK


def keys_of(words: Sequence[str]) -> tuple[str, ...]:
    """``--by`` as it was given: repeated, or with commas.

    Raises:
        CliError: there is no such key, or ``attempt`` does not stand alone.
    """
    keys = tuple(dict.fromkeys(key.strip() for word in words for key in word.split(",")))
    for key in keys:
        if key not in (*KEYS, ATTEMPT):
            hint = similar(key, [*KEYS, ATTEMPT])
            raise CliError(f"--by: there is no key {key!r}{hint}", Exit.USAGE)
    if ATTEMPT in keys and len(keys) > 1:
        raise CliError("--by attempt stands alone: it is every row as it is", Exit.USAGE)
    return keys


def moment(option: str, text: str, now: float) -> float:
    """``7d`` ago, or a date or time; without a zone it is UTC.

    Raises:
        CliError: it is none of these.
    """
    try:
        if text[-1:] in _DAYS and text[:-1].isdigit():
            at = now - int(text[:-1]) * _DAYS[text[-1]] * 86400
        elif text[:1].isdigit() and "-" not in text:
            at = now - seconds(text)
        else:
            day = datetime.fromisoformat(text)
            at = (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()
        if at < 0:
            raise ValueError
    except (ValueError, OverflowError):
        why = f"{option}: {text!r} is neither 7d, 12h nor 2026-11-01"
        raise CliError(why, Exit.USAGE) from None
    return at


def table(keys: Sequence[str], answer: Row) -> list[str]:
    """A header, a line per row with a bar of its share, and the total."""
    total = answer["total"]
    lines = [[key.upper() for key in keys] + ["COST", *_COUNTS.values()]]
    lines += [
        [_cell(row.get(key)) for key in keys] + _numbers(row) for row in (*answer["rows"], total)
    ]
    lines[-1][0] = "TOTAL"
    most = max((Decimal(row["costUSD"] or 0) for row in answer["rows"]), default=Decimal(0))
    bars = ["", *(_bar(row["costUSD"], most) for row in answer["rows"]), ""]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = []
    for line, bar in zip(lines, bars, strict=True):
        cells = [
            cell.ljust(width) if column < len(keys) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        shown.append("   ".join([*cells, bar]).rstrip())
    return shown


def _cell(value: object) -> str:
    return "-" if value is None else " ".join(str(value).split())


def _numbers(row: Row) -> list[str]:
    known = row["costUSD"]
    nothing = "unknown" if row["requests"] else "-"
    return [
        nothing if known is None else f"${known}",
        *(f"{row[name]:,}" for name in _COUNTS),
    ]


def _bar(known: str | None, most: Decimal) -> str:
    """A bar in eighths of a character."""
    eighths = int(Decimal(known or 0) / most * _BAR * 8) if most else 0
    return "█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8]


def _note(total: Row) -> None:
    """What the sums do not say of themselves."""
    if total["unpricedRequests"]:
        print(
            f"note: of {total['requests']:,} requests {total['unpricedRequests']:,} have no known "
            "price: they are not in the cost",
            file=sys.stderr,
        )
    if total["simulatedRequests"]:
        print(
            f"note: {total['simulatedRequests']:,} requests were simulated: nobody is billed for "
            "what they cost here",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class _Ledger:
    """The operator's ledger, as one reaches it through the API server."""

    service: OperatorService
    wanted: Wanted

    def sums(self, keys: Sequence[str]) -> Row:
        """By keys, the dearest first, and all together."""
        return self._get("costs", {"by": list(keys)})

    def entries(self) -> Iterator[Row]:
        """All rows, the oldest first."""
        place: dict[str, str] = {}
        while True:
            page = self._get("entries", {"limit": _PAGE, **place})
            yield from page["entries"]
            if page["next"] is None:
                return
            place = {"after": page["next"]}

    def _get(self, what: str, more: dict[str, Any]) -> Row:
        wanted = self.wanted
        asked = {"since": f"{wanted.since:.3f}", "until": f"{wanted.until:.3f}", **wanted.only}
        if wanted.namespace is not None:
            asked["namespace"] = wanted.namespace
        query = urlencode(asked | more, doseq=True)
        try:
            found = json.loads(self.service.read(f"{what}?{query}"))
        except ApiError as error:
            raise CliError(error.message) from None
        except ValueError:
            raise CliError("the operator's answer can't be read") from None
        return dict(found)


def _counted(rows: Iterator[Row]) -> Iterator[Row]:
    """Tells on a terminal how many have come."""
    number = 0
    for number, row in enumerate(rows, 1):
        if number % _PAGE == 0 and sys.stderr.isatty():
            print(f"\r{number:,} rows", end="", file=sys.stderr, flush=True)
        yield row
    if number >= _PAGE and sys.stderr.isatty():
        print(f"\r{number:,} rows", file=sys.stderr)


def _totals(rows: Sequence[Row]) -> Row:
    costs = [Decimal(row["costUSD"]) for row in rows if row["costUSD"] is not None]
    total: Row = {name: sum(row[name] for row in rows) for name in _COUNTS}
    total["simulatedRequests"] = sum(row["requests"] for row in rows if row["simulated"])
    return total | {"costUSD": f"{sum(costs):f}" if costs else None}


def _csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parquet(wanted: Wanted, columns: Sequence[str], rows: Sequence[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        why = "-o parquet needs pyarrow: pip install 'corral[parquet]'"
        raise CliError(why, Exit.USAGE) from None
    if wanted.file is None:
        raise CliError("-o parquet needs --file", Exit.USAGE)
    costs = [Decimal(row["costUSD"]) for row in rows if row["costUSD"] is not None]
    digits = max((-int(cost.as_tuple().exponent) for cost in costs), default=0)
    amount = pyarrow.decimal128(38, max(_DIGITS, digits))
    kinds = {int: pyarrow.int64(), bool: pyarrow.bool_()}
    data, fields = [], []
    for name in columns:
        values = [row[name] for row in rows]
        if name == "costUSD":
            kind, values = amount, [None if one is None else Decimal(one) for one in values]
        else:
            known = next((type(one) for one in values if one is not None), str)
            kind = kinds.get(known, pyarrow.string())
        data.append(pyarrow.array(values, kind))
        fields.append(pyarrow.field(name, kind))
    made = pyarrow.Table.from_arrays(data, schema=pyarrow.schema(fields))
    try:
        with Path(wanted.file).open("wb") as out:
            parquet.write_table(made, out)
    except OSError as error:
        raise CliError(f"{wanted.file} can't be written: {error.strerror}", Exit.USAGE) from None
    print(f"{wanted.file}: {len(rows):,} rows", file=sys.stderr)


def _write(wanted: Wanted, text: str) -> None:
    if wanted.file is None:
        sys.stdout.write(text)
        return
    try:
        Path(wanted.file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{wanted.file} can't be written: {error.strerror}", Exit.USAGE) from None
    print(f"{wanted.file}: {len(text.encode()):,} bytes", file=sys.stderr)


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
