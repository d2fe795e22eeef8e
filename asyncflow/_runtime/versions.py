"""The versions of one run's state: the drafts that become versions, and how far they are durable.

A draft is a copy, and is copied again when its method ends: code that still holds it cannot reach the version. Large states
take too long to copy for that: see `large_states`.
"""

from __future__ import annotations

from typing import Any, Final

from .._values.copying import is_long
from ..merge import Conflict
from .codecs import Codecs
from .failures import changed_id_error, conflict_error
from .large_states import LARGE, Encoded, encoded_in_pieces, large_version
from .settings import Settings
from .state_version import Version, detached_copy

__all__ = ["StateVersions"]

WRITERS: Final = 32
"""How many earlier writers are remembered, to name them in a conflict error."""


class StateVersions:
    """The newest, the durable and the last recorded version of a run's state, and the making of new ones."""

    __slots__ = ("_codecs", "_run_id", "_settings", "_stored", "_writers", "committed", "is_large", "newest", "saved")

    def __init__(
        self, settings: Settings, codecs: Codecs, run_id: str, first: Version, *, size: int | None = None
    ) -> None:
        """`size`: the bytes of the state as it is stored; None without persistence."""
        self._settings = settings
        self._codecs = codecs
        self._run_id = run_id
        self._stored = size is not None
        self.newest = first
        """The version that the last method left. It may not be durable yet."""
        self.committed = first
        """The newest version known to be durable: the base of new invocations, and the state that readers outside the methods see."""
        self.saved = first
        """The version whose state was recorded last. It may be older than `newest`, as some methods have no checkpoint."""
        self.is_large = is_long(first.state) if size is None else size >= LARGE
        """Whether the newest state takes long to copy. Without persistence, each draft is examined."""
        self._writers: tuple[tuple[int, str], ...] = ()
        """Index and method of the newest versions that were made while other invocations ran."""

    def takes_long(self, draft: list[Any]) -> bool:
        """Whether a draft takes long to copy or encode."""
        if not self._stored and draft:
            self.is_large = is_long(draft[0])
        return self.is_large

    async def encoded(self, draft: list[Any]) -> Encoded | None:
        """Encode a draft that takes long, and let other tasks run meanwhile. Return None if `leave` has to encode or copy it."""
        return await encoded_in_pieces(draft, self._codecs, is_stored=self._stored) if draft else None

    def leave(
        self, base: Version, method: str, draft: list[Any], encoded: Encoded | None, is_recorded: bool
    ) -> tuple[bytes | None, Version]:
        """Return the version that an invocation leaves, and its bytes if it is to be recorded. This changes nothing yet.

        `draft` holds the invocation's draft, and the only reference to it, or is empty. Raises `StateConflictError`, `StateError`,
        `StateNotStorableError`, `LimitExceededError`.
        """
        newest, index, is_recorded = self.newest, self.newest.index + 1, is_recorded and self._stored
        if not draft:
            if not is_recorded or newest.index == self.saved.index:
                return None, newest
            index, state = newest.index, newest.state
        elif self._settings.state_type.id_of(draft[0]) != self._run_id:
            raise changed_id_error(self._settings.name, self._run_id, method)
        elif base.index != newest.index:
            state = self._merged(base, method, draft[0])
        elif encoded is not None or (is_recorded and self.is_large):
            data, version = large_version(index, draft, encoded, self._codecs, self._run_id, method)
            return data if is_recorded else None, version
        else:
            state = detached_copy(draft[0])
        if not is_recorded:
            return None, Version(index, state)
        data, state = self._codecs.encode_state(state, self._run_id, method)
        return data, Version(index, state)

    def publish(self, version: Version, data: bytes | None, method: str, is_alone: bool) -> None:
        """Make a version the newest one. `data`: its bytes, if it is recorded. `is_alone`: no other invocation runs meanwhile."""
        self.newest = version
        if data is not None:
            self.saved, self.is_large = version, len(data) >= LARGE
        if not is_alone:
            self._writers = (*self._writers[-WRITERS:], (version.index, method))

    def _merged(self, base: Version, method: str, draft: Any) -> Any:
        """Merge a draft, three-way, with what others have committed since its launch. Raises `StateConflictError`."""
        try:
            return self._settings.state_type.merged(base.state, draft, self.newest.state)
        except Conflict as conflict:
            others = [writer for index, writer in self._writers if index > base.index]
            raise conflict_error(self._settings.name, self._run_id, method, others, conflict) from None
