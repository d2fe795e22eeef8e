"""The end of a pass before its time: what a request for it drops, and what follows once nothing runs.

1. The first request counts; one from outside also replaces `continue`.
2. From then on nothing starts, no timer fires, no signal is taken, and what only waits is dropped: for a next attempt, or in a method.
3. What runs ends as usual. What is left then ends the pass; a method that failed has to succeed first, after a resume.
"""

from __future__ import annotations

from .._definition.definition import FlowDefinition
from .messages import Command, Continue, Drain, EndAsked, Ending, Finish, Item, Settle, Timing, Transition, name_in
from .progress import Progress

__all__ = ["completed_at_end", "end_asked", "ends", "next_at_end"]


def completed_at_end(definition: FlowDefinition, progress: Progress, key: str, asked: Ending) -> Transition:
    """Return what a completion changes that asks for the end of the pass, or comes after that. It enables nothing."""
    ended = progress.pending[key]
    begins: Ending = "" if progress.ending else asked
    is_last = begins == "finish" or progress.ending == "stop"
    dropped = _what_waits(progress, key) if begins else ()
    item = (ended.group, ended.place) if type(ended) is Item else (key, -1) if key in progress.groups else None
    completed = key if item is None else item[0] if progress.groups[item[0]].completes_with(item[1]) else ""
    if type(ended) is Item and begins == "finish" and not definition.output:
        completed = ""  # the output is what this item returned, also if it was the last one
    is_output = ended.method == definition.output and bool(completed) if definition.output else is_last
    return Transition(completed, timing=Timing(is_output=is_output, ending=begins, dropped=dropped, item=item))


def end_asked(
    definition: FlowDefinition, progress: Progress, happening: EndAsked
) -> tuple[Transition, tuple[Command, ...]]:
    """Return what a request from outside changes, and what follows. A pass that finishes already ignores it."""
    begins: Ending = "" if progress.ending in ("finish", "stop") else "stop"
    dropped = tuple(progress.pending) if happening.drops_all else _what_waits(progress, "") if begins else ()
    transition = Transition(timing=Timing(ending=begins, dropped=dropped))
    if progress.failed and not happening.drops_all:
        return transition, ()  # the pass fails, and a resume ends it
    return transition, next_at_end(definition, progress, transition, Timing(ending=begins, dropped=dropped))


def _what_waits(progress: Progress, key: str) -> tuple[str, ...]:
    """Return the invocations that only wait, or were held back by a failure; all but the one with this key."""
    return tuple(
        each for each in progress.pending if each != key and (each in progress.paused or each in progress.held)
    )


def next_at_end(
    definition: FlowDefinition, progress: Progress, transition: Transition, timing: Timing
) -> tuple[Command, ...]:
    """Return the commands of a pass that is ending, after a happening that fails nothing."""
    gone = {transition.completed, *timing.dropped}
    if timing.item is not None:
        gone.add(f"{timing.item[0]}[{timing.item[1]}]")
    if any(key not in gone and not progress.is_by_items(key) for key in progress.pending):
        return (Drain(),) if timing.ending else ()
    if (timing.ending or progress.ending) == "continue":
        return (Continue(),)
    if definition.signals:
        return (Settle(),)
    return (Finish(_key_of(transition, timing)) if timing.is_output else ends(definition, progress),)


def _key_of(transition: Transition, timing: Timing) -> str:
    """Return what has completed: an invocation, or an item of one."""
    item = timing.item
    return transition.completed or ("" if item is None else f"{item[0]}[{item[1]}]")


def ends(definition: FlowDefinition, progress: Progress) -> Finish:
    """Return the end of a pass whose output was kept before."""
    output = "" if progress.output is None else progress.output[0]
    is_named = not definition.output or name_in(output) == definition.output  # the class may have changed
    return Finish(output if is_named else "")
