"""A planted bug, and the test that must catch it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, `find` (which occurs there once) becomes `plant`. `test` is a pytest id, without parameters."""

    name: str
    clauses: tuple[str, ...]
    file: str
    find: str
    plant: str
    test: str
