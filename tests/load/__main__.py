"""Measures what one operator gets done, and what it costs.

    KUBECONFIG=… python -m tests.load [--quick] [--only chains,wide] [--json]

The Model is simulated in the worker, so the model costs next to nothing, and what is measured is
corral. Everything that is made is deleted. Exit code 1: something was lost, done twice, or did not
come to its end; a missed target for speed alone is shown and is no failure.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from corral.kube.client import ApiError, connect
from tests.load.parts import PARTS
from tests.load.report import Part, report, table, write
from tests.load.site import LoadError, Site
from tests.load.sizes import QUICK, WHOLE, Sizes

REPORT = Path(__file__).parents[2] / ".bench/report.json"


async def _run(options: argparse.Namespace, sizes: Sizes) -> list[Part]:
    """Runs the parts; the report is written after each."""
    parts: list[Part] = []
    # As Ctrl-C: what was made is deleted.
    task = asyncio.current_task()
    assert task is not None, "asyncio.run makes one"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with connect() as kube:
        site = Site(kube, sizes, options.operator_url)
        version = (await kube.request("GET", "/version"))["gitVersion"]
        for name in options.only:
            part = Part(name, options.sizes, load=os.getloadavg()[0])
            print(f"{name} …", file=sys.stderr, flush=True)
            started = time.monotonic()
            try:
                await PARTS[name](site, part)
            except (LoadError, ApiError, TimeoutError) as error:
                part.error = str(error) or repr(error)
            part.seconds = time.monotonic() - started
            parts.append(part)
            write(report(parts, asdict(sizes), version), options.report)
    return parts


def _arguments() -> tuple[argparse.Namespace, Sizes]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="parts:\n" + "\n".join(f"  {name:14}{_first_line(PARTS[name])}" for name in PARTS),
    )
    parser.add_argument("--only", metavar="PART,…", help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="small sizes: a few minutes in all")
    parser.add_argument("--json", action="store_true", help="print the report, not the table")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the report is written")
    parser.add_argument(
        "--operator-url",
        metavar="URL",
        help="the metrics of an operator that runs in no pod, as of `make run`",
    )
    group = parser.add_argument_group("sizes")
    for size in fields(WHOLE):
        whole, quick = getattr(WHOLE, size.name), getattr(QUICK, size.name)
        words = f"{size.metadata['help']} ({whole:g}"
        words += f"; {quick:g} with --quick)" if quick != whole else ")"
        option = f"--{size.name.replace('_', '-')}"
        group.add_argument(option, type=type(whole), metavar="N", help=words)
    options = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        parser.error("KUBECONFIG names no cluster")
    options.only = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only: no such part: {', '.join(sorted(unknown))}; see --help")
    given: dict[str, Any] = {
        size.name: value
        for size in fields(WHOLE)
        if (value := getattr(options, size.name)) is not None
    }
    told = ["--quick"] if options.quick else []
    told += [f"--{name.replace('_', '-')}={value:g}" for name, value in given.items()]
    options.sizes = " ".join(told)
    return options, replace(QUICK if options.quick else WHOLE, **given)


def _first_line(part: object) -> str:
    return (part.__doc__ or "").split("\n", 1)[0]


def main() -> int:
    """Runs the parts, writes the report, prints it."""
    options, sizes = _arguments()
    try:
        parts = asyncio.run(_run(options, sizes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("ended early; the report has the parts before", file=sys.stderr)
        return 130
    print(options.report.read_text().rstrip() if options.json else table(parts))
    return 0 if all(part.right for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
