"""The command line as a process: exit codes, pipes, signals, a terminal, what it imports, and how long it takes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import stored

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "asyncflow"]
FLOWS = """
import anyio
from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, start

class Quick(Flow[dict]):
    name = "Quick"

    @start()
    async def work(self):
        return "quick"

class Long(Flow[dict]):
    name = "Long"

    @start()
    async def work(self):
        await anyio.sleep(60)

def make():
    return FlowRunner(SQLiteFlowPersistence("runs.db"), flows=[Quick])

async def make_later():
    return FlowRunner(SQLiteFlowPersistence("runs.db"), flows=[Quick])
"""


@pytest.fixture(autouse=True)
def _flows(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("served.py").write_text(FLOWS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_exit_codes() -> None:
    stored("runs.db")

    assert run("runs", "--db", "runs.db").returncode == 0
    assert run("runs", "--status", "nope").returncode == 2
    assert run("show", "nope", "--db", "runs.db").returncode == 3
    assert run("start", "--app", "commands:Order", "-i", '{"city": "Nowhere"}').returncode == 1
    assert run("--version").stdout.startswith("asyncflow ")


def test_the_installed_program_is_the_same() -> None:
    program = Path(sys.executable).with_name("asyncflow")

    assert subprocess.run([program, "--version"], capture_output=True, text=True).stdout == run("--version").stdout


@pytest.mark.parametrize(
    "command", [["runs"], ["runs", "--json"], ["show", "bad-1"], ["tail", "good-1"], ["export", "-"], ["db", "info"]]
)
def test_a_closed_pipe_is_silent(command: list[str]) -> None:
    stored("runs.db")

    process = subprocess.Popen([*COMMAND, *command, "--db", "runs.db"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()

    assert (process.wait(30), err) == (141, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no device that is always full")
@pytest.mark.parametrize("command", [["runs"], ["runs", "--json"], ["state", "good-1"]])
def test_a_full_disk_is_one_line(command: list[str]) -> None:
    stored("runs.db")

    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *command, "--db", "runs.db"], stdout=full, stderr=subprocess.PIPE, text=True)

    assert (done.returncode, done.stderr) == (
        1,
        "asyncflow: the output cannot be written: No space left on device\n",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sh")
@pytest.mark.parametrize(
    ("arguments", "streams", "code"),
    [
        ("runs --db runs.db", ">&-", 0),
        ("show nope --db runs.db", "2>&-", 3),
        ("start --app commands:Order -i @- --db runs.db", "<&-", 2),
    ],
)
def test_a_closed_stream_is_no_failure(arguments: str, streams: str, code: int) -> None:
    stored("runs.db")

    done = subprocess.run(["sh", "-c", f'"$0" -m asyncflow {arguments} {streams}', sys.executable], capture_output=True)

    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def test_an_encoding_that_lacks_a_character_is_no_failure() -> None:
    stored("runs.db")
    inputs = '{"city": "\u2603"}'
    assert run("start", "--app", "commands:Order", "-i", inputs, "--id", "snow-1", "--db", "runs.db").returncode == 0

    shown = run("show", "snow-1", "--db", "runs.db", env=os.environ | {"PYTHONIOENCODING": "ascii"})

    assert shown.returncode == 0
    assert '"city": "\\u2603"' in shown.stdout


@pytest.mark.parametrize("command", [["runs", "--watch"], ["tail", "long-1"]])
def test_ctrl_c_is_silent(command: list[str]) -> None:
    driven = subprocess.Popen(
        [*COMMAND, "start", "--app", "served:Long", "--id", "long-1", "--db", "runs.db"], stderr=subprocess.PIPE
    )
    process = None
    try:
        until(lambda: "long-1" in run("runs", "--db", "runs.db").stdout)
        process = subprocess.Popen(
            [*COMMAND, *command, "--db", "runs.db"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        driven.send_signal(signal.SIGINT)
        _, err_of_start = driven.communicate(timeout=20)
    finally:
        for each in (driven, process):
            if each is not None and each.poll() is None:
                each.kill()

    assert (process.returncode, err) == (130, "")
    assert (driven.returncode, err_of_start) == (130, b"")
    assert json.loads(run("runs", "--db", "runs.db", "--json").stdout)[0]["status"] == "interrupted"


def until(happened: object, seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.parametrize("app", ["served:Quick", "served:make", "served:make_later"])
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_worker_recovers_runs_and_drains_on_sigterm(app: str, loop: str) -> None:
    program = (
        "import anyio, os, served\nfrom asyncflow import SQLiteFlowPersistence\n"
        "async def work(self): os._exit(9)\n"
        "class Quick(served.Flow[dict]):\n    name = 'Quick'\n    work = served.start()(work)\n"
        "anyio.run(Quick(persistence=SQLiteFlowPersistence('runs.db')).kickoff, {'id': 'left-1'})"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    place = ["--db", "runs.db"] if app == "served:Quick" else []

    process = subprocess.Popen([*COMMAND, "worker", app, "--loop", loop, *place], stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: '"finished"' in run("runs", "--db", "runs.db", "--json").stdout)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()

    assert process.returncode == 0
    assert "serving Quick" in err
    assert "drained" in err


def test_a_worker_leaves_a_long_run_to_be_resumed_on_ctrl_c() -> None:
    process = subprocess.Popen(
        [*COMMAND, "worker", "served:Long", "--db", "runs.db", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    driven = subprocess.Popen([*COMMAND, "start", "--app", "served:Long", "--id", "long-1", "--db", "runs.db"])
    try:
        until(lambda: '"running"' in run("runs", "--db", "runs.db", "--json").stdout)
        driven.kill()
        driven.wait()
        until(
            lambda: (
                json.loads(run("show", "long-1", "--db", "runs.db", "--json").stdout)["driver"] is not None
                and "resumed" in run("history", "long-1", "--db", "runs.db").stdout
            )
        )
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    finally:
        for each in (driven, process):
            if each.poll() is None:
                each.kill()

    assert (process.returncode, json.loads(out)) == (0, {"signal": "SIGINT"})
    assert json.loads(run("runs", "--db", "runs.db", "--json").stdout)[0]["status"] == "interrupted"


def in_terminal(arguments: list[str], columns: int, **env: str) -> str:
    """Return what a command writes to a terminal."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    given = os.environ | {"TERM": "xterm-256color"} | env
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, env=given, close_fds=True
    )
    os.close(slave)
    written = b""
    while select.select([master], [], [], 30)[0]:
        try:
            part = os.read(master, 65_536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait(30) == 0
    return written.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal_there_are_colours_and_nothing_is_wider_than_it() -> None:
    stored("runs.db")

    for columns in (40, 80, 160):
        shown = in_terminal(["runs", "--db", "runs.db"], columns)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert "\x1b[" in shown
        assert max(len(line) for line in plain.splitlines()) <= columns
        assert "bad-1" in plain


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_no_color_is_respected() -> None:
    stored("runs.db")

    assert "\x1b" not in in_terminal(["runs", "--db", "runs.db"], 80, NO_COLOR="1")
    assert "\x1b" not in in_terminal(["show", "bad-1", "--db", "runs.db"], 80, NO_COLOR="1")


def test_a_shell_completes_commands_flows_and_ids() -> None:
    stored("runs.db")

    def completed(line: str, word: int) -> str:
        env = os.environ | {
            "_ASYNCFLOW_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(word),
            "ASYNCFLOW_DB": "runs.db",
        }
        return run(env=env).stdout

    assert "runs" in completed("asyncflow ru", 1)
    assert completed("asyncflow show ba", 2).split() == ["bad-1"]
    assert "Order" in completed("asyncflow runs --flow O", 3)


def test_a_shell_that_completes_a_word_shows_no_error() -> None:
    for db in ("", "none.db", "mysql://host/none"):
        env = os.environ | {"_ASYNCFLOW_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
        done = run(env=env | {"COMP_WORDS": f"asyncflow --db '{db}' show ba"})

        assert done.stdout.strip() + done.stderr == ""


def test_warnings_of_the_library_are_no_output_of_a_command() -> None:
    stored("runs.db")
    program = (
        "from asyncflow.cli import main\nfrom asyncflow.persistence._database import commit_logs\n"
        "commit_logs.SLOW = 0.0\nprint(main(['cancel', 'ask-1', '--db', 'runs.db']))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")


def test_listing_imports_only_what_it_needs() -> None:
    stored("runs.db")
    program = (
        "import sys\nfrom asyncflow.cli import main\ncode = main(['runs', '--db', 'runs.db'])\n"
        "heavy = {'psycopg', 'trio', 'jinja2', 'starlette', 'fastapi', 'uvicorn', 'opentelemetry', 'rich.progress', 'rich.live'}\n"
        "print(sorted(heavy & set(sys.modules)), code)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_package_imports_nothing_of_the_command_line() -> None:
    program = "import sys, asyncflow\nprint(sorted({'typer', 'rich', 'click', 'asyncflow.cli'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
