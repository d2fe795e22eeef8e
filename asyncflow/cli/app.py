"""The commands by name, each with the module that has it. A module is imported when its command is used, or completed."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from .failures import CLOSED_PIPE, reported, silenced
from .options import AsJson, Db
from .settings import SETTINGS

__all__ = ["run"]


class Entry(NamedTuple):
    """A command."""

    module: str
    section: str
    help: str


_LOOK, _ACT, _STORE, _SERVE = "Look at runs", "Act on runs", "Look after the storage", "Serve"

COMMANDS: Final = {
    "runs": Entry("listing", _LOOK, "List runs, newest first."),
    "show": Entry("showing", _LOOK, "Show a run: its status, what it waits for, its error."),
    "history": Entry("showing", _LOOK, "List the checkpoints of a run."),
    "state": Entry("showing", _LOOK, "Show the state of a run, now or at a checkpoint."),
    "diff": Entry("showing", _LOOK, "Show what changed between two checkpoints."),
    "tail": Entry("following", _LOOK, "Follow the events of a run."),
    "graph": Entry("drawing", _LOOK, "Draw a flow class."),
    "start": Entry("driving", _ACT, "Start a run, and drive it here."),
    "resume": Entry("driving", _ACT, "Resume an interrupted or failed run, and drive it here."),
    "fork": Entry("driving", _ACT, "Start a run over the saved state of another one."),
    "retry": Entry("retrying", _ACT, "Resume failed runs, chosen by a filter."),
    "signal": Entry("ending", _ACT, "Send a signal to a run."),
    "cancel": Entry("ending", _ACT, "Cancel a run permanently."),
    "delete": Entry("ending", _ACT, "Delete a run that no process drives."),
    "prune": Entry("ending", _ACT, "Delete runs that ended some time ago."),
    "export": Entry("transferring", _STORE, "Write runs to a file of JSON lines."),
    "import": Entry("transferring", _STORE, "Store the runs of an exported file."),
    "db": Entry("databases", _STORE, "Inform, check, back up, compact and upgrade the storage."),
    "doctor": Entry("doctoring", _STORE, "Look for problems and dangers."),
    "worker": Entry("serving", _SERVE, "Run flows in the background: recover, wake and drain them."),
    "inspector": Entry("serving", _SERVE, "Serve the inspector to a browser on this machine."),
}


class Commands(TyperGroup):
    """The group of all commands. It reports errors in one line, and lists the commands without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, after importing its module; None for an unknown one."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"asyncflow.cli.{entry.module}")
        made = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        known: Any = module.COMMANDS[cmd_name]
        if isinstance(known, typer.Typer):
            made = known
        else:
            made.command(cmd_name)(known)
        command = typer.main.get_command(made)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each section."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if entry.section == section])

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Errors that are known become a line on stderr and an exit code."""
        with silenced():
            return super().invoke(ctx)


def _version(asked: bool) -> None:
    if asked:
        from .._version import VERSION

        typer.echo(f"asyncflow {VERSION}")
        raise typer.Exit


_app = typer.Typer(cls=Commands, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)


@_app.callback(epilog="--db and --json may also come after the command. `asyncflow COMMAND --help` says more.")
def _asyncflow(
    db: Db = None,
    as_json: AsJson = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See and operate the runs of a storage."""
    SETTINGS.db, SETTINGS.as_json = db, as_json


def run(arguments: list[str]) -> int:
    """Run a command, and return its exit code."""
    SETTINGS.db, SETTINGS.as_json = None, False
    _prepare()
    try:
        ended = typer.main.get_command(_app).main(arguments, prog_name="asyncflow", standalone_mode=False)
    except SystemExit as exit_:  # of a completion
        ended = exit_.code
    except BaseException as error:
        ended = reported(error)
    return _flushed(ended if isinstance(ended, int) else 0)


_SILENT: Final = logging.NullHandler()


def _prepare() -> None:
    """Make the standard streams fit for every text: those that were closed lead nowhere, and no encoding refuses a character.

    Python would write warnings of the library to stderr, as no handler is there: the commands say what they have to.
    """
    logging.getLogger("asyncflow").addHandler(_SILENT)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """Flush stdout, whose reader may have gone, or whose disk may be full. Python would report that at its exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        code = CLOSED_PIPE if isinstance(error, BrokenPipeError) else code or reported(error)
    else:
        if code != CLOSED_PIPE:
            return code
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end
    return code
