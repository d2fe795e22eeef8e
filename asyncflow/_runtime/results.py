"""Keep the results of methods for the invocations that receive them: as copies or, if the run is stored, as bytes."""

from __future__ import annotations

from typing import Any, Final

from .._values.copying import copied
from .codecs import Codecs
from .state_version import detached_copy

__all__ = ["Results", "StoredResults"]

AS_LOADED: Final = frozenset((str, int, float, bool, type(None)))
"""Types whose values are unchanged after storing and loading. `datetime` is not one: its time zone is loaded as another class."""


class Results:
    """The results of a run without persistence."""

    def keep(self, method: str, value: Any) -> tuple[Any, Any]:
        """Return what to keep of a result, and the result as its receivers get it. Raises if it cannot be kept."""
        return detached_copy(value), value

    def received(self, source: str, kept: Any) -> Any:
        """Return the result of the invocation `source`, for one that receives it: a value of its own."""
        return copied(kept)


class StoredResults(Results):
    """The results of a stored run: a receiver gets the same value whether the run was resumed or not."""

    def __init__(self, codecs: Codecs, run_id: str) -> None:
        self._codecs = codecs
        self._run_id = run_id
        self._latest: tuple[str, bytes | None, Any] = ("", None, None)
        """The method, the bytes and the value of the latest result whose type is in `AS_LOADED`."""

    def keep(self, method: str, value: Any) -> tuple[Any, Any]:
        encoded = self._codecs.encode_result(value, self._run_id, method)
        if type(value) in AS_LOADED:
            self._latest = (method, *encoded)
        return encoded

    def received(self, source: str, kept: Any) -> Any:
        if kept is None:
            return None
        method = source.rpartition(":")[0]
        latest, data, value = self._latest
        if kept is data and method == latest:  # check both: Python shares one b"1" between all methods
            return value
        return self._codecs.decode_result(kept, self._run_id, method)
