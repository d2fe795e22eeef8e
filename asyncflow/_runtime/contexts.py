"""Context variables: each method begins with those of the caller of the run, and no later method sees what it sets.

A plain method has that from its thread. For an async one a task, or a context of its own, would cost a tenth of a step. So a run's
methods share a copy of the caller's context, which the engine replaces by a fresh copy once a method has set anything in it.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from gc import get_referents
from operator import is_
from typing import Any, Final, TypeVar

__all__ = ["apart", "fresh_context", "is_same_context"]

T = TypeVar("T")

_FRESH: Final = object()


@types.coroutine
def apart(work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Await this in a copy of the current context; from each `fresh_context` on, in another one.

    What the work waits for goes to the event loop as it is, and so does what comes back: cancellations, too.
    """
    run, go_on = copy_context().run, work.send
    given: Any = None
    try:
        while True:
            waits_for = run(go_on, given)
            go_on, given = work.send, None
            if waits_for is _FRESH:
                run = copy_context().run  # the current one is the caller's, which nobody has changed: it waits for this
                continue
            try:
                given = yield waits_for
            except GeneratorExit:
                run(work.close)
                raise
            except BaseException as error:
                go_on, given = (
                    work.throw,
                    error,
                )  # not within this handler: it would be the context of what the work raises
    except StopIteration as ended:  # how a coroutine returns
        result: T = ended.value
        return result
    finally:
        given = None  # an exception's traceback holds this frame


def is_same_context(a: Context, b: Context) -> bool:
    """Whether each variable holds the same object in both. Values are not compared: `==` is their own code, and may raise.

    What a context refers to is its table of variables; copies share it until one of them sets a variable, which most methods never do.
    """
    tables = get_referents(a, b)
    return (bool(tables) and tables[0] is tables[-1]) or (
        len(a) == len(b) and all(map(is_, a.keys(), b.keys())) and all(map(is_, a.values(), b.values()))
    )


@types.coroutine
def fresh_context() -> Generator[Any, Any, None]:
    """Go on in another copy of the context that the work around was begun in. It takes no turn of the event loop."""
    yield _FRESH
