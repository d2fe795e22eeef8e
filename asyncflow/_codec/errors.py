"""Why a value is not stored, and why stored data is not read: for the runtime, which reports it to the user."""

from __future__ import annotations

__all__ = ["MAX_DEPTH", "Misfit", "Refused"]

MAX_DEPTH = 100
"""The deepest nesting that is stored; pydantic's JSON parser stops at 200, and a state is nested within a row."""


class Refused(Exception):  # noqa: N818 - internal: users get NotStorableError, which names run and method too
    """A value that would not load back as it is. `limit`: whether the reason is that it is too large or too deep."""

    def __init__(self, path: str, type_name: str, reason: str, cure: str, *, limit: bool = False) -> None:
        super().__init__(path, type_name, reason, cure)
        self.path, self.type_name, self.reason, self.cure, self.limit = path, type_name, reason, cure, limit
        self.whole: object = None
        """The value that the path starts at, if that is a part of another value."""


class Misfit(Exception):  # noqa: N818 - internal: users get StateSchemaError
    """Stored bytes that do not fit the annotation. `is_gone`: another annotation wrote them, and without it they cannot be interpreted."""

    def __init__(self, detail: str, paths: tuple[str, ...] = (), *, is_gone: bool = False) -> None:
        super().__init__(detail, paths)
        self.detail, self.paths, self.is_gone = detail, paths, is_gone
