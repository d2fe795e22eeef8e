"""Report arguments that a call does not take: which ones it takes, and where the given ones belong. Names only, no values."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, Final

from .errors import ArgumentsError

__all__ = ["UNSET", "Unset", "not_taken", "one_of"]


class Unset:
    """Marks a keyword that was not given: the class attribute applies."""


UNSET: Final = Unset()

_OF_A_FLOW: Final = "belongs to the constructor of a flow, or to the class"
_NO_COUNTERPART: Final = "has no counterpart here: leave it out"

_BELONGS: Final = {
    "initial_state": _OF_A_FLOW,
    "durability": _OF_A_FLOW,
    "on_error": _OF_A_FLOW,
    "max_method_calls": _OF_A_FLOW,
    "persistence": f"{_OF_A_FLOW}, or to @persist",
    "inputs": "belongs to kickoff",
    "restore_from_state_id": "belongs to kickoff",
    "wait": "belongs to kickoff and resume",
    "seq": "belongs to load and fork",
    "id": 'is an input: kickoff({"id": ...})',
    "run_id": 'is an input: kickoff({"id": ...}); of resume, load and fork it is the first argument',
    "name": f"{_OF_A_FLOW}",
    "formerly": "belongs to the class: `class Report(Flow[State], formerly=...)`",
    "verbose": "belongs to @persist: @persist(verbose=True)",
    "emit": "belongs to @router",
    "tracing": f"{_NO_COUNTERPART}, or log with @persist(verbose=True)",
    "suppress_flow_events": f"{_NO_COUNTERPART}; nothing is emitted unless you ask for it",
    "stream": f"{_NO_COUNTERPART}; events come from `(await runner.start(MyFlow)).events()`",
    "input_files": f"{_NO_COUNTERPART}; give the paths as inputs",
    "memory": f"{_NO_COUNTERPART}; keep it in the state",
}
"""Arguments that belong to another call here, and further ones that CrewAI's flows take."""


def not_taken(
    call: str,
    unknown: Collection[str],
    known: Collection[str],
    *,
    places: int = 0,
    takes: str = "",
    is_of_a_flow: bool = False,
) -> ArgumentsError:
    """Return the error for keywords that `call` does not take, and for `places` positional arguments too many.

    `takes` states what it takes as positional arguments. `is_of_a_flow`: a keyword may have been meant for the state.
    """
    problems = list(_problems(call, unknown, known, is_of_a_flow))
    if places:
        problems.insert(0, takes or f"{call} takes keywords only")
    listed = f"; {call} takes {', '.join(f'{name}=' for name in known)}" if known and unknown else ""
    return ArgumentsError(f"{'; '.join(problems)}{listed}. Nothing was run", unknown=tuple(unknown))


def _problems(call: str, unknown: Collection[str], known: Collection[str], is_of_a_flow: bool) -> Iterator[str]:
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1)
        if name in _BELONGS:
            yield f"{call} does not take {name}=, which {_BELONGS[name]}"
        elif near:
            yield f"{call} does not take {name}=; did you mean {near[0]}=?"
        elif is_of_a_flow:
            yield (
                f"{call} does not take {name}=; if it is a field of the state, write kickoff({{{name!r}: ...}}) or "
                f"initial_state={{{name!r}: ...}}"
            )
        else:
            yield f"{call} does not take {name}="


def one_of(what: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """Return the value if it is allowed. Raises `ValueError` otherwise."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, allowed))}, not {value!r}")
    return value
