"""Create run ids, and validate the ids that callers pass."""

from __future__ import annotations

import uuid
from typing import Final

from .errors import InvalidRunIdError, RunInputsError

__all__ = ["child_id", "new_run_id", "parse_run_id", "reconcile_run_ids"]

_CHILDREN: Final = uuid.UUID("db699bc8-782e-4478-9cc5-b3fc8d40231a")


def child_id(invocation_id: str, name: str) -> str:
    """Return the id of a child: it follows from the invocation that runs it and from its name there, so it is the same ever after."""
    return str(uuid.uuid5(_CHILDREN, f"{invocation_id}\n{name}"))


def new_run_id() -> str:
    """Return a new random UUID, in canonical lower case."""
    return str(uuid.uuid4())


def parse_run_id(value: object) -> str:
    """Return the run id for a UUID, its text in any case, or any other text of 1 to 128 printable characters.

    Raises `InvalidRunIdError`, before any I/O, for anything else.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise InvalidRunIdError(f"a run id must be a UUID or a string, not {type(value).__name__}")
    if len(value) == 36 and value.count("-") == 4:
        try:
            canonical = str(uuid.UUID(value))
        except ValueError:
            canonical = ""
        if canonical == value.lower():  # `UUID` accepts other spellings, too; those are plain text here
            return canonical
    if not 1 <= len(value) <= 128 or not value.isprintable() or value != value.strip():
        raise InvalidRunIdError(
            "a run id must have 1 to 128 printable characters and no surrounding spaces; nothing was read or written"
        )
    return value


def reconcile_run_ids(*brought: object | None) -> str | None:
    """Return the run id that was passed in one way or another, or None. Raises `RunInputsError` for two, `InvalidRunIdError`."""
    ids = {parse_run_id(each) for each in brought if each is not None}
    if len(ids) > 1:
        raise RunInputsError(f"two ids for one run: {' and '.join(sorted(ids))}. Nothing was started")
    return next(iter(ids), None)
