"""`show`, `history`, `state` and `diff`: one run, as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from ..persistence.protocol import RunEntry
from .options import App, AsJson, Db, RunId
from .output import Output, status_text
from .safe_text import LINE, block, compact, counted, cut, one_line
from .settings import awaited, to_read
from .tables import Column
from .times import ago, local, until

__all__ = ["COMMANDS"]


def show(run_id: RunId, app: App = None, db: Db = None, as_json: AsJson = False) -> None:
    """Show a run: its status, who drives it, what it waits for, what is pending, and its last error with the traceback.

    It needs no class. With --app, it also knows the signals for which listeners wait.
    """
    cls = None
    if app is not None:
        from .loading import flow_class

        cls = flow_class(app)

    async def found() -> Any:
        from ..inspection import find_run, run_detail

        async with to_read(db) as storage:
            return await run_detail(storage, await find_run(storage, run_id), flow=cls)

    out, detail = Output(as_json), awaited(found)
    if out.is_json:
        out.json(detail)
        return
    out.fields(_facts(detail))
    for error in detail.errors[-1:]:
        title = f"Error in {one_line(error.method or 'the run')}, at seq {error.seq}, {ago(error.at)} ago"
        out.section(title, f"{error.type}: {cut(error.message, LINE)}")
        if error.traceback:
            out.line()
            out.line(error.traceback.rstrip())
    if detail.state not in (None, {}):
        out.value(detail.state, f"asyncflow state {detail.entry.run_id} --json", "State")
    if detail.result is not None:
        out.value(detail.result, f"asyncflow show {detail.entry.run_id} --json", "Result")
    if hint := _hint(detail.entry):
        out.note(hint)


def _facts(detail: Any) -> list[tuple[str, Any]]:
    entry: RunEntry = detail.entry
    facts: list[tuple[str, Any]] = [
        ("run", entry.run_id),
        ("flow", entry.flow),
        ("status", status_text(entry.status)),
        ("pass", f"{entry.pass_number}, at seq {entry.seq}"),
        ("created", f"{local(entry.created_at)} ({ago(entry.created_at)} ago)"),
        ("changed", f"{local(entry.updated_at)} ({ago(entry.updated_at)} ago)"),
    ]
    if detail.driver is not None:
        facts.append(("driven by", _driver(detail.driver)))
    facts += [("waits for", _wait(wait)) for wait in detail.waits]
    if entry.status == "waiting" and not detail.waits:
        signal = f"a signal; --app MODULE:{entry.flow} shows which"
        facts.append(("waits for", "a runner that takes the signal that came" if entry.wake_at == 0 else signal))
    facts += [("pending", _pending(each)) for each in detail.pending]
    if entry.takeovers:
        facts.append(("takeovers", str(entry.takeovers)))
    if detail.parent:
        facts.append(("child of", detail.parent))
    if detail.forked_from:
        facts.append(("forked from", f"{detail.forked_from[0]} at seq {detail.forked_from[1]}"))
    facts += [("child", f"{child.run_id}  {child.flow}  {child.status}") for child in detail.children[:20]]
    if len(detail.children) > 20:
        facts.append(("child", f"… {len(detail.children) - 20} more: asyncflow runs --parent {entry.run_id}"))
    facts += [("signal", f"{s.name} {compact(s.payload)}, sent {ago(s.at)} ago, not taken") for s in detail.inbox]
    if detail.inputs:
        facts.append(("inputs", compact(detail.inputs, 1_000)))
    return facts


def _driver(driver: Any) -> str:
    who = driver.process or f"owner {driver.owner}" if driver.owner else "an owner"
    left = "" if driver.seconds_left is None else f", lease {max(0.0, driver.seconds_left):.0f}s"
    return f"{who}{left}" if driver.is_alive else f"no process: {who} is dead"


def _wait(wait: Any) -> str:
    what = {
        "signal": f"the signal {wait.name}",
        "timer": f"the timer {wait.name}",
        "sleep": f"the end of {wait.name}",
        "attempt": f"attempt {wait.attempt} of {wait.name}",
        "step": f"attempt {wait.attempt} of the step {wait.name}",
        "child": f"the child {wait.name}",
        "limit": "its time limit",
    }.get(wait.kind, f"{wait.kind} {wait.name}")
    due = "" if wait.due_at is None else f", due {until(wait.due_at)} ({local(wait.due_at)})"
    by = f", in {wait.invocation or wait.method}" if wait.invocation or wait.method else ""
    return what + by + due


def _pending(pending: Any) -> str:
    if pending.doing == "failed":
        after = f" after {pending.attempts} attempts" if pending.attempts > 1 else ""
    else:
        after = f" after {counted(pending.attempts, 'failed attempt')}" if pending.attempts else ""
    return f"{pending.invocation}  {pending.doing}{after}"


def _hint(entry: RunEntry) -> str:
    if entry.status in ("failed", "interrupted"):
        return f"continue it with: asyncflow resume {entry.run_id} --app MODULE:{entry.flow}"
    return ""


_HISTORY: Final = [
    Column("seq", right=True),
    Column("time", leaves=1),
    Column("kind"),
    Column("method", least=12),
    Column("changed", least=16),
]


def history(
    run_id: RunId,
    after: Annotated[int, typer.Option(metavar="SEQ", help="Only later checkpoints.")] = -1,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="The largest number of checkpoints.")
    ] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a run, oldest first, with the fields of the state that each changed."""

    async def found() -> Any:
        from ..inspection import find_run, run_history

        async with to_read(db) as storage:
            return await run_history(storage, await find_run(storage, run_id), after=after, limit=limit)

    out, entries = Output(as_json), awaited(found)
    if out.is_json:
        out.json(entries)
        return
    rows = [
        (
            str(e.seq),
            local(e.at),
            e.kind,
            e.method,
            e.error or ", ".join(f"{n} = {compact(v, 60)}" for n, v in e.changed.items()),
        )
        for e in entries
    ]
    if rows:
        out.table(_HISTORY, rows)
    else:
        out.note("no checkpoint fits")


def state(
    run_id: RunId,
    at: Annotated[int | None, typer.Option("--at", metavar="SEQ", help="As of this checkpoint; default: now.")] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a run as JSON, now or as of a checkpoint."""

    async def found() -> Any:
        from ..inspection import find_run, state_at

        async with to_read(db) as storage:
            return await state_at(storage, await find_run(storage, run_id), at)

    out, shown = Output(as_json), awaited(found)
    if out.is_json:
        out.json(shown)
    else:
        out.value(shown, f"asyncflow state {run_id} --json")


def diff(
    run_id: RunId,
    a: Annotated[int, typer.Argument(metavar="A", help="The earlier checkpoint.")],
    b: Annotated[int | None, typer.Argument(metavar="B", help="The later checkpoint; default: the newest.")] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Show what is different between the states as of two checkpoints."""

    async def found() -> Any:
        from ..inspection import diff as differences
        from ..inspection import find_run

        async with to_read(db) as storage:
            return await differences(storage, await find_run(storage, run_id), a, b)

    out, changes = Output(as_json), awaited(found)
    if out.is_json:
        out.json(changes)
        return
    if not changes:
        out.note("the two states are the same")
    from rich.text import Text

    for change in changes:
        where = block(_path(change.path))
        if change.kind != "added":
            out.line(Text(f"- {where} = {compact(change.before)}", "red"))
        if change.kind != "removed":
            out.line(Text(f"+ {where} = {compact(change.after)}", "green"))


def _path(path: tuple[Any, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "state"


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {"show": show, "history": history, "state": state, "diff": diff}
