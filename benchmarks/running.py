"""Runs the measurements in turn, each in a process of its own, and keeps the figures of each, or why there are none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .contestants import CONTESTANTS, Contestant
from .environments import FOLDER, ROOT, NoEnvironment, last_line, python_of, variables
from .meters import SYNCS
from .works import WORKS, Figures


class Failed(Exception):  # noqa: N818  (reported in the table)
    """A measurement gave no figures; the message says why."""


@dataclass(frozen=True)
class Case:
    """One line of a table: who does which work, on which event loop, how large, in about so many seconds."""

    work: str
    who: Contestant
    loop: str
    size: int
    seconds: float

    @property
    def title(self) -> str:
        return self.who.title if len(self.who.loops) == 1 else f"{self.who.title}, {self.loop}"

    @property
    def versus(self) -> tuple[str, str, str]:
        """Work, module and way of the line that it is compared with, on asyncio."""
        return (self.work, *self.who.versus)


@dataclass
class Line:
    """What came of a case: its figures, round by round; or what went wrong."""

    case: Case
    rounds: list[Figures] = field(default_factory=list)
    failure: str | None = None


def cases(
    works: Iterable[str], who: Sequence[str], loops: Sequence[str], *, everything: bool, seconds: float
) -> list[Case]:
    """The lines of the tables, in order. `who`: environments, or none for all of them."""
    return [
        Case(name, each, loop, _size(name, each, everything), seconds * WORKS[name].patience)
        for name in works
        for each in CONTESTANTS
        if (not who or each.environment in who)
        and (not each.only or name in each.only)
        and (each.is_stored or not WORKS[name].needs_store or name in each.cannot)
        for loop in each.loops
        if loop in loops
    ]


def _size(work: str, who: Contestant, everything: bool) -> int:
    about = WORKS[work]
    if not everything and about.short:
        return about.short
    return about.lasting_size if who.is_stored and about.lasting_size else about.size


def run(
    chosen: Sequence[Case], rounds: int, report: Callable[[str], None], measure: Callable[[Case], Figures]
) -> list[Line]:
    """So many rounds of all cases, alternating. One that fails is not tried again."""
    lines = [Line(case, failure=case.who.cannot.get(case.work)) for case in chosen]
    for n in range(rounds):
        for place, line in enumerate(lines, 1):
            most = WORKS[line.case.work].rounds or rounds
            if line.failure is not None or n >= most:
                continue
            report(f"round {n + 1} of {rounds}, {place} of {len(lines)}: {line.case.work} {line.case.title}")
            try:
                line.rounds.append(measure(line.case))
            except (Failed, NoEnvironment) as error:
                line.failure = str(error)
    return lines


def measured(case: Case) -> Figures:
    """The figures of one case, from a new process. Raises `Failed` or `NoEnvironment`."""
    return _measured(case, [], {})


def count_syncs(lines: Iterable[Line], report: Callable[[str], None]) -> None:
    """Once more under strace, if there is one, the lone runs of those that store: how often they wait for the disk."""
    if shutil.which("strace") is None:
        return
    for line in lines:
        case = line.case
        if case.work != "W1" or not line.rounds or not case.who.is_stored or case.who.needs_server:
            continue
        report(f"syncs: {case.title}")
        with tempfile.NamedTemporaryFile(prefix="syncs-") as log:
            strace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", log.name]
            try:
                figures = _measured(Case(case.work, case.who, case.loop, 20, case.seconds), strace, {SYNCS: log.name})
            except Failed:
                continue  # it may not trace here
        for each in line.rounds:
            each["syncs_a_step"] = figures["syncs_a_step"]


def _measured(case: Case, wrapper: list[str], more: dict[str, str]) -> Figures:
    if case.who.needs_server and "BENCHMARKS_POSTGRES" not in os.environ:
        raise NoEnvironment("no PostgreSQL server")
    python = python_of(case.who.environment)
    FOLDER.mkdir(parents=True, exist_ok=True)  # on the disk of the project: a folder in memory would sync for nothing
    with tempfile.TemporaryDirectory(prefix="run-", dir=FOLDER, ignore_cleanup_errors=True) as folder:
        asked = (case.who.module, case.who.way, case.loop, case.work, str(case.size), str(case.seconds), folder)
        command = [*wrapper, str(python), "-m", "benchmarks.measure", *asked]
        most = 30 * case.seconds + 60
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=ROOT,
                env={**variables(Path(folder)), **more},
                timeout=most,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not done after {most:.0f} s") from error
        answer = Path(folder) / "figures.json"
        if not answer.exists():
            raise Failed(f"failed: {last_line(done.stderr)}")
        figures: Figures = json.loads(answer.read_text())
        return figures


def report(text: str) -> None:
    """Show progress on one line of stderr."""
    print(
        f"\r\x1b[K{text}" if sys.stderr.isatty() else text,
        end="" if sys.stderr.isatty() else "\n",
        file=sys.stderr,
        flush=True,
    )
