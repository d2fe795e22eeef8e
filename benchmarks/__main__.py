"""Run the workloads with asyncflow and its peers, in turn, each time in a new process: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from . import against, report, running
from .environments import FOLDER, REQUIREMENTS, NoEnvironment, python_of
from .measure import LOOPS
from .picture import picture
from .server import VARIABLE, postgres
from .works import WORKS

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- the last table -->\n", "<!-- its end -->\n"


def machine() -> str:
    """Describe the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return (
        f"{platform.system()} {platform.release().partition('-')[0]}, {_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def headline(options: argparse.Namespace) -> str:
    """Describe what was measured, where, and with which versions."""
    peers = ", ".join(f"{first.partition('==')[0]} {first.partition('==')[2]}" for first, *_ in REQUIREMENTS.values())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"Medians of up to {options.rounds} rounds of about {options.seconds:g} s, "
        f"{datetime.date.today()}, on {machine()}{load}.\nPeers: {peers}."
    )


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("works", nargs="*", help=f"of {', '.join(WORKS)}; default: a subset that takes minutes")
    parser.add_argument("--all", action="store_true", help="all works, at full size, on all loops")
    parser.add_argument("--rounds", type=int, help="how often each is measured, in turn (default: 3; with --all 5)")
    parser.add_argument(
        "--seconds", type=float, help="how long a measurement may take, about (default: 1.5; with --all 5)"
    )
    parser.add_argument("--loops", nargs="+", choices=LOOPS, help="event loops (default: asyncio; with --all all)")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=["asyncflow", *REQUIREMENTS], help="these environments alone"
    )
    parser.add_argument(
        "--readme", action="store_true", help="write tables and picture into the folder benchmarks, too"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PATH",
        help="compare CPU a step with the asyncflow in this folder, and nothing else",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"there is no work {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    options.works = options.works or [name for name, work in WORKS.items() if options.all or work.short]
    options.rounds = options.rounds or (5 if options.all or options.against else 3)
    options.seconds = options.seconds or (5 if options.all else 1.5)
    options.loops = options.loops or (list(LOOPS) if options.all else ["asyncio"])
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    if options.against is not None:
        print(against.table(against.compared(options.against.resolve(), options.rounds, options.seconds)))
        return
    chosen = running.cases(options.works, options.only, options.loops, everything=options.all, seconds=options.seconds)
    for environment in dict.fromkeys(case.who.environment for case in chosen):
        running.report(f"environment of {environment}")
        with contextlib.suppress(NoEnvironment):  # its lines will say so
            python_of(environment)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NoEnvironment):  # here, too
            os.environ[VARIABLE] = stack.enter_context(postgres())
        lines = running.run(chosen, options.rounds, running.report, running.measured)
        running.count_syncs(lines, running.report)
    running.report("")
    head, tables = headline(options), report.tables(lines)
    print(f"{head}\n\n{tables}")
    write(FOLDER, lines, head)
    if options.readme:
        write(README.parent, lines, head)
        README.write_text(with_tables(README.read_text(), f"{head}\n\n{tables}"))


def write(folder: Path, lines: Sequence[running.Line], head: str) -> None:
    """Write the figures as JSON and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(report.as_json(lines, head))
    (folder / "figures.svg").write_text(picture(report.rows(lines), head.partition("\n")[0]))
    print(f"{folder / 'figures.json'}, {folder / 'figures.svg'}", file=sys.stderr)


def with_tables(page: str, tables: str) -> str:
    """Return the page with new tables between its two markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    main()
