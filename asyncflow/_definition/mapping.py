"""`each`: a method that runs once for each item of the list that another method returns, and the mistakes that it can have."""

from __future__ import annotations

import collections.abc
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, get_origin, overload

from .aliases import unaliased
from .definition import MethodDefinition, Receives
from .signatures import signature
from .triggers import Each, FannedOut

__all__ = ["HIGHEST_LIMIT", "MOST_WITHOUT_LIMIT", "FannedOut", "each", "limit_problem", "mapping_problems"]

I = TypeVar("I")  # noqa: E741 - the item


@overload
def each(source: Callable[..., Coroutine[Any, Any, Sequence[I]]], /) -> Each[I]: ...
@overload
def each(source: Callable[..., Sequence[I]], /) -> Each[I]: ...
def each(source: Any, /) -> Each[Any]:
    """Run the listener once for each item of the list that a method returns: `@listen(each(fetch), limit=10)`.

    - `source`: the method. Its return annotation is a list or a tuple.

    Each item is an invocation of its own: with its own draft of the state, its own attempts and its own checkpoint. What a crash leaves is
    resumed item by item. When all items have completed, the listener completes once: its own listeners receive the list of results,
    in the order of the items. An empty list completes at once, with an empty list.

    `limit` of `listen` is how many items run at the same time, pauses before further attempts included; it is required for more than 1,000
    items. `each` is the whole condition of a listener: it is no part of `or_` and `and_`, and not for `start` and `router`.
    """
    return Each(source)


HIGHEST_LIMIT: Final = 100_000
"""The highest limit of items that run at the same time."""

MOST_WITHOUT_LIMIT: Final = 1_000
"""How many items a method can have without a limit."""

_LISTS: Final = (list, tuple, collections.abc.Sequence)


def limit_problem(limit: object, *, is_mapped: bool) -> str | None:
    """Return the mistake in the `limit` of a method; None if there is none."""
    if limit is None:
        return None
    if not is_mapped:
        return "has limit=, which is only for @listen(each(...)); remove it"
    if type(limit) is not int or not 1 <= limit <= HIGHEST_LIMIT:
        return f"has limit={limit!r}; pass how many items may run at the same time, from 1 to {HIGHEST_LIMIT}"
    return None


def mapping_problems(method: MethodDefinition, methods: Mapping[str, MethodDefinition]) -> Iterator[str]:
    """Yield the mistakes of a method that runs once for each item of a list."""
    parameters = list(signature(method.function).parameters.values())[1:]
    if method.receives is Receives.LAST and len([p for p in parameters if p.kind is not p.KEYWORD_ONLY]) > 1:
        yield f"{method.name} takes {len(parameters)} values; a method with each() takes one, the item"
    source = methods.get(str(method.condition))
    if source is None or source.each or source.is_unresolved:
        return
    if not _is_list(source.returns):
        yield (
            f"{method.name} runs for each item of what {source.name} returns, which is not annotated as a list; annotate it: "
            f"def {source.name}(self) -> list[...]"
        )


def _is_list(annotation: Any) -> bool:
    """Whether a return annotation is a list, a tuple or a sequence. A NamedTuple is none: its items have different types."""
    try:
        annotation = unaliased(annotation)
    except NameError:  # an alias that is not complete yet
        return True
    return annotation in _LISTS or get_origin(annotation) in _LISTS
