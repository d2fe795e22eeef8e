"""Context variables: each method starts with those of the run's caller, and no later method sees what it sets.

A plain method gets this isolation from its thread. For an async method, a task or a context of its own would cost a tenth of a
step. So a run's methods share a copy of the caller's context. The engine replaces it with a fresh copy once a method has set
anything in it.
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
    """Await `work` in a copy of the current context; from each `fresh_context` on, in another copy.

    What the work waits for is passed to the event loop unchanged, and so is what returns from there, cancellations included.
    """
    run, step = copy_context().run, work.send
    given: Any = None
    try:
        while True:
            waits_for = run(step, given)
            step, given = work.send, None
            if waits_for is _FRESH:
                run = copy_context().run  # the current context is the caller's, unchanged, as the caller waits for this
                continue
            try:
                given = yield waits_for
            except GeneratorExit:
                run(work.close)
                raise
            except BaseException as error:
                # Thrown outside this handler: inside, it would be the context of whatever the work raises.
                step, given = work.throw, error
    except StopIteration as ended:  # a coroutine returns like this
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
    """Continue in another copy of the context in which the enclosing work was started. It does not yield to the event loop."""
    yield _FRESH
