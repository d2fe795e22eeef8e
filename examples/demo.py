"""Kill a flow half-way and resume it by its UUID in another process: a survey of Python's standard library.

    find_packages -> next_turn -+-> lane_1 -+                (turn after turn; the lanes work side by side, in threads)
                       ^  |     +-> lane_2 -+-> meet -+
                       |  |     +-> lane_3 -+         |
                       |  |     +-> lane_4 -+         |
                       +--|---------------------------+
                          +-> judge -+-> report_clean
                                     +-> report_with_failures

Without arguments it is the watcher: it starts the survey in a process, kills that process, resumes the survey in another one,
and compares the report with that of an undisturbed run. Its exit code is 0 only if every promise was kept.

The watcher checks the survey independently. Each method logs its start and its end in a file next to the database, which no
transaction rolls back; the methods that had completed at the kill are read from the database.
"""

import ast
import os
import sys
import sysconfig
import tempfile
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import anyio
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, and_, listen, merge, or_, persist, router, start

STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_SURVEYED = {"__pycache__", "dist-packages", "lib-dynload", "site-packages", "test"}
LANES = 4
TURNS = 6
KILL_IN_TURN = 4
MOST_FILES = 1_200
SHOWN = 5


# ---- the survey ------------------------------------------------------------------------------------------------


class Counts(BaseModel):
    """The counts of one package, or of many."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    names: int = 0
    failures: list[str] = Field(default_factory=list)
    largest: dict[str, int] = Field(default_factory=dict)
    """Lines of the largest modules."""

    def add(self, other: "Counts") -> None:
        self.files += other.files
        self.lines += other.lines
        self.functions += other.functions
        self.classes += other.classes
        self.names += other.names
        self.failures = sorted(self.failures + other.failures)
        modules = sorted((self.largest | other.largest).items(), key=lambda module: (-module[1], module[0]))
        self.largest = dict(modules[:SHOWN])


class Report(BaseModel):
    verdict: str
    packages: int
    total: Counts


class SurveyState(FlowState):
    turns: list[list[list[str]]] = Field(default_factory=list)
    """The packages of each lane of each turn."""
    turn: int = 0
    found: dict[str, Counts] = Field(default_factory=dict)
    """The counts by package. The lanes write different keys at the same time, and the merge combines them."""
    files: Annotated[int, merge.add] = 0
    """The lanes add to one number at the same time: the field says how that is merged."""


@persist
class Survey(Flow[SurveyState]):
    """Counts the contents of the standard library. `folder`: the folder of the database and the log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(persistence=SQLiteFlowPersistence(folder / "survey.db"))
        self.log = Log(folder)

    @start()
    def find_packages(self) -> int:
        with self.logged():
            packages = found_packages()
            self.state.turns = shared_out(packages)
            return len(packages)

    @router(or_(find_packages, "meet"))
    def next_turn(self) -> Literal["read", "all read"]:
        with self.logged():
            return "read" if self.state.turn < len(self.state.turns) else "all read"

    @listen("read")
    def lane_1(self) -> int:
        return self.read(0)

    @listen("read")
    def lane_2(self) -> int:
        return self.read(1)

    @listen("read")
    def lane_3(self) -> int:
        return self.read(2)

    @listen("read")
    def lane_4(self) -> int:
        return self.read(3)

    @listen(and_(lane_1, lane_2, lane_3, lane_4))
    def meet(self, lane_1: int, lane_2: int, lane_3: int, lane_4: int) -> int:
        with self.logged(f"turn {self.state.turn + 1} of {len(self.state.turns)}, {self.state.files} files so far"):
            self.state.turn += 1
            return lane_1 + lane_2 + lane_3 + lane_4

    @router("all read")
    def judge(self) -> Literal["clean", "has failures"]:
        with self.logged():
            return "has failures" if any(counts.failures for counts in self.state.found.values()) else "clean"

    @listen("clean")
    def report_clean(self) -> Report:
        with self.logged():
            return self.report("every file parses")

    @listen("has failures")
    def report_with_failures(self) -> Report:
        with self.logged():
            return self.report("some files do not parse")

    def read(self, lane: int) -> int:
        """Survey the packages of one lane in this turn; return their number of files."""
        packages = self.state.turns[self.state.turn][lane]
        with self.logged(f"read {shortened(packages)}"):
            for package in packages:
                self.state.found[package] = survey(files_of(STDLIB / package))
                self.state.files += self.state.found[package].files
            return sum(self.state.found[package].files for package in packages)

    def report(self, verdict: str) -> Report:
        total = Counts()
        for _, counts in sorted(self.state.found.items()):
            total.add(counts)
        return Report(verdict=verdict, packages=len(self.state.found), total=total)

    @contextmanager
    def logged(self, done: str = "") -> Iterator[None]:
        """Log the start and the end of this method, and print it."""
        invocation = self.invocation_id.rpartition("/")[2]  # of "run/pass/method:occurrence"
        self.log.write("begin", self.run_id, invocation)
        yield
        self.log.write("end", self.run_id, invocation)
        print(f"    {invocation:22} {done}".rstrip() + "\n", end="", flush=True)  # one write: the lanes are threads


def files_of(package: Path) -> list[Path]:
    """Return the source files of a package, or the single one of a module."""
    sources = sorted(package.rglob("*.py")) if package.is_dir() else [package]
    return [source for source in sources if source.is_file()]


def found_packages() -> dict[str, int]:
    """Return the packages and modules of the standard library with the size of their sources in bytes."""
    found: dict[str, int] = {}
    files = 0
    for entry in sorted(STDLIB.iterdir()):
        if entry.name in NOT_SURVEYED or not (entry.is_dir() or entry.suffix == ".py"):
            continue
        sources = files_of(entry)
        if sources and files + len(sources) <= MOST_FILES:
            files += len(sources)
            found[entry.name] = sum(source.stat().st_size for source in sources)
    return found


def shared_out(packages: dict[str, int]) -> list[list[list[str]]]:
    """Return the packages in turns and lanes of about the same size: each one, largest first, goes to the smallest lane."""
    shares: list[list[str]] = [[] for _ in range(TURNS * LANES)]
    sizes = [0] * len(shares)
    for package in sorted(packages, key=lambda name: (-packages[name], name)):
        least = sizes.index(min(sizes))
        shares[least].append(package)
        sizes[least] += packages[package]
    return [shares[turn::TURNS] for turn in range(TURNS)]


def survey(sources: Sequence[Path]) -> Counts:
    """Parse the files and count their contents."""
    counts = Counts()
    for source in sources:
        module = source.relative_to(STDLIB).as_posix()
        text = source.read_bytes()
        lines = len(text.splitlines())
        one = Counts(files=1, lines=lines, largest={module: lines})
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            one.failures = [module]
        else:
            nodes = [type(node) for node in ast.walk(tree)]
            one.functions = nodes.count(ast.FunctionDef) + nodes.count(ast.AsyncFunctionDef)
            one.classes = nodes.count(ast.ClassDef)
            one.names = nodes.count(ast.Name)
        counts.add(one)
    return counts


def shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- the log: what was done, whatever became of it -----------------------------------------------------------------


class Log:
    """Lines that are only ever appended: one system call each, so that a kill leaves no half line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "effects.log"

    def write(self, *words: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(file, (" ".join(words) + "\n").encode())
        finally:
            os.close(file)

    def of_run(self, run_id: str) -> tuple[list[str], list[str]]:
        """Return the invocations that started, in order, and those that ended; a repeated one is listed twice."""
        lines = [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []
        began, ended = ([i for word, run, i in lines if (word, run) == (of, run_id)] for of in ("begin", "end"))
        return began, ended


# ---- the watcher -----------------------------------------------------------------------------------------------


class PromiseBrokenError(Exception):
    """A promise was not kept."""


def say(text: str) -> None:
    print(text, flush=True)  # before the processes that it starts say something


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PromiseBrokenError(otherwise)


async def survey_process(
    folder: Path, how: str, run_id: str, until: Callable[[], Awaitable[bool]] | None = None
) -> int:
    """Run the survey in a new process, and kill it as soon as `until` returns true. Return its exit code."""
    command = [sys.executable, __file__, how, str(folder), run_id]
    async with await anyio.open_process(command, stdin=None, stdout=None, stderr=None) as process:
        while until is not None and process.returncode is None:
            if await until():
                process.kill()  # SIGKILL: the process cannot handle it
                break
            await anyio.sleep(0.005)
        return await process.wait()


async def is_half_way(folder: Path, run_id: str) -> bool:
    """Whether a turn is half done: one lane has completed, and another is running.

    In the last turn one running lane is enough, so that the kill is not missed.
    """
    log = Log(folder)
    turn, running, ended = lanes_of_the_turn(log, run_id)
    if turn < KILL_IN_TURN or not running:
        return False
    if turn == TURNS:
        return True
    if not ended or set(ended).isdisjoint(await completed(folder, run_id)):
        return False
    return lanes_of_the_turn(log, run_id)[:2] == (turn, running)  # unchanged while the database was read


def lanes_of_the_turn(log: Log, run_id: str) -> tuple[int, list[str], list[str]]:
    """Return the newest turn, its running lanes and its ended lanes, from the log."""
    began, ended = log.of_run(run_id)
    lanes = [i for i in began if i.startswith("lane_")]
    turn = max(map(turn_of, lanes), default=0)
    now = [i for i in lanes if turn_of(i) == turn]
    return turn, [i for i in now if i not in ended], [i for i in now if i in ended]


def turn_of(lane: str) -> int:
    return int(lane.rpartition(":")[2])


async def completed(folder: Path, run_id: str) -> list[str]:
    """Return the invocations that have a checkpoint, from the database."""
    flow = await Survey.load(run_id, folder=folder)
    return [entry.method for entry in await flow.history() if entry.kind in ("method", "finished")]


async def watched(folder: Path) -> None:
    log = Log(folder)
    run_id, undisturbed = str(uuid.uuid4()), str(uuid.uuid4())
    say(f"Surveying {STDLIB}\nRun {run_id}\nDatabase {folder / 'survey.db'}\n")

    say("First process: it is killed when one lane has completed and another is running.")
    code = await survey_process(folder, "kickoff", run_id, until=lambda: is_half_way(folder, run_id))
    check(code != 0, "the survey had ended before it could be killed")
    before = await completed(folder, run_id)
    began, _ = log.of_run(run_id)
    running = [i for i in began if i not in before]
    say(f"Killed (exit code {code}): {len(before)} methods had completed. Running: {', '.join(running)}.\n")
    check(bool(running), "no method was running when the process was killed")

    say("Second process: it resumes the run by its UUID.")
    check(await survey_process(folder, "resume", run_id) == 0, "the resumed run has failed")
    again = log.of_run(run_id)[0][len(began) :]
    repeated = [i for i in before if i in again]
    check(not repeated, f"completed methods were run again: {', '.join(repeated)}")
    check(set(running) <= set(again), "not every method that was running was run again")
    print(f"Skipped, because they had completed: {', '.join(before)}.")
    print(f"Run again, because they were running: {', '.join(running)}.\n")

    say("Third process: the same survey, undisturbed, to compare.")
    check(await survey_process(folder, "kickoff", undisturbed) == 0, "the undisturbed run has failed")
    resumed, whole = await Survey.load(run_id, folder=folder), await Survey.load(undisturbed, folder=folder)
    after = await completed(folder, run_id)
    check(len(after) == len(set(after)), "a method has completed twice")
    check(sorted(after) == sorted(await completed(folder, undisturbed)), "the two runs did not run the same methods")
    check(resumed.result == whole.result, "the two reports differ")
    check(resumed.state.found == whole.state.found, "the two states differ")

    print("\nHistory of the run that was killed:")
    for entry in await resumed.history():
        clock = time.strftime("%H:%M:%S", time.localtime(entry.at))
        print(f"    {entry.seq:3}  {clock}  {entry.kind:9} {entry.method:22} {', '.join(entry.changed)}".rstrip())
    print_report(resumed.result)
    print(f"\nAll as promised: {len(before)} completed methods were not run again, and both reports are equal.")
    print(f"The database is kept at {folder / 'survey.db'}")


def print_report(report: Report) -> None:
    total = report.total
    print(f"\nReport: {report.verdict}")
    print(f"    {report.packages} packages, {total.files:,} files, {total.lines:,} lines")
    print(f"    {total.functions:,} functions, {total.classes:,} classes, {total.names:,} names")
    print("    largest: " + ", ".join(f"{module} ({lines:,} lines)" for module, lines in total.largest.items()))
    print(f"    not parsed: {len(total.failures)} ({shortened(total.failures) or 'none'})")


def main(arguments: Sequence[str]) -> int:
    warnings.simplefilter("ignore")  # the parser warns about old sources
    match arguments:
        case ["kickoff", folder, run_id]:
            anyio.run(Survey(Path(folder)).kickoff, {"id": run_id})
        case ["resume", folder, run_id]:
            anyio.run(lambda: Survey.resume(run_id, folder=Path(folder)))
        case []:
            try:
                anyio.run(watched, Path(tempfile.mkdtemp(prefix="asyncflow-demo-")))
            except PromiseBrokenError as broken:
                print(f"\nNot as promised: {broken}", file=sys.stderr)
                return 1
        case _:
            print("usage: demo.py", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
