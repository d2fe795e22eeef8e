"""Run the measurements in turn, each in a process of its own, and print medians: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .measure import LOOPS
from .work import SERVER, WAYS

Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One line of a table: so many runs of the chain, in one way, on one event loop, at most `at_once` at a time (0: all)."""

    work: str
    way: str
    loop: str
    runs: int
    at_once: int

    @property
    def title(self) -> str:
        """What the line is called."""
        return f"{WAYS[self.way].name}, {self.loop}"


def cases(works: Sequence[str], loops: Sequence[str]) -> list[Case]:
    """The lines of the tables. The bare task group is measured on every loop, for the ratios.

    PostgreSQL is measured where the environment names a server.
    """
    ways = ("bare", "none", "process", "full", *(["postgres"] if os.environ.get(SERVER) else []))
    return [
        Case(work, way, loop, runs, at_once)
        for work, runs, at_once in (
            ("W1", 300, 1),
            ("W2, 100 at a time", 1_000, 100),
            ("W2, all at once", 1_000, 0),
        )
        if work.partition(",")[0] in works
        for way in ways
        for loop in loops
    ]


def measured(case: Case) -> Figures:
    """The figures of one case, from a new process. Raises `CalledProcessError` with what it said."""
    command = (sys.executable, "-m", "benchmarks.measure", case.way, case.loop, str(case.runs), str(case.at_once))
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    figures: Figures = json.loads(done.stdout)
    return figures


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def machine() -> str:
    """What it was measured on."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}"
    )


COLUMNS = {
    "us a step": ("us_a_step", "{:.0f}"),
    "steps a second": ("steps_a_second", "{:,.0f}"),
    "us of CPU a step": ("cpu_us_a_step", "{:.0f}"),
    "stall p99, ms": ("stall_p99_ms", "{:.1f}"),
    "stall max, ms": ("stall_max_ms", "{:.0f}"),
    "bytes a step": ("bytes_a_step", "{:,.0f}"),
    "peak MB": ("peak_mb", "{:.0f}"),
}


def table(work: str, results: Iterable[tuple[Case, Figures]]) -> str:
    """One work's results as a Markdown table."""
    head = ["", *COLUMNS, "a power cut takes"]
    rows = [head, ["---"] * len(head)]
    for case, figures in results:
        cells = [form.format(figures[name]) for name, form in COLUMNS.values()]
        rows.append([case.title, *cells, WAYS[case.way].durability])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"**{work}**\n\n{lines}\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("works", nargs="*", default=["W1", "W2"], help="W1, W2 (default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are printed")
    parser.add_argument("--loops", nargs="+", default=["asyncio"], choices=LOOPS, help="event loops")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file, too")
    options = parser.parse_args()
    chosen = cases(options.works, options.loops)
    found: dict[Case, list[Figures]] = {case: [] for case in chosen}
    for n in range(options.rounds):
        for done, case in enumerate(chosen, n * len(chosen) + 1):
            print(f"\r{done} of {len(chosen) * options.rounds}", end="", file=sys.stderr, flush=True)
            found[case].append(measured(case))
    print(file=sys.stderr)
    print(f"Medians of {options.rounds} rounds on {machine()}\n")
    for work in dict.fromkeys(case.work for case in chosen):
        print(table(work, [(case, medians(rounds)) for case, rounds in found.items() if case.work == work]))
    if options.json is not None:
        told = [{**vars(case), "rounds": rounds} for case, rounds in found.items()]
        options.json.write_text(json.dumps({"machine": machine(), "cases": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
