"""Keep the results of methods for the invocations that receive them: as copies or, if the run is stored, as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .._scheduling.groups import Gathered
from .._scheduling.messages import Invocation, Item, name_in
from .._values.copying import copied
from ..errors import StateSchemaError
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

    def __init__(self, run_id: str = "") -> None:
        self._run_id = run_id
        self._lists: dict[str, Any] = {}
        """The lists whose items are being worked on, by the invocation that works on them."""

    def received(self, source: str, kept: Any) -> Any:
        """Return the result of the invocation `source`, for one that receives it: a value of its own."""
        return copied(list(kept) if type(kept) is Gathered else kept)

    def arguments(self, invocation: Invocation, kept: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return what an invocation's method is called with: positional arguments, and named ones. `kept`: results by their sources."""
        if type(invocation) is Item:
            return [self._item(invocation, kept)], {}
        arguments = invocation.arguments
        if len(arguments) == 1 and not arguments[0][0]:  # the usual case, without a loop
            source = arguments[0][1]
            return [self.received(source, kept.get(source))], {}
        args: list[Any] = []
        named: dict[str, Any] = {}
        for name, source in arguments:
            value = self.received(source, kept.get(source))
            if name:
                named[name] = value
            else:
                args.append(value)
        return args, named

    def _item(self, item: Item, kept: Mapping[str, Any]) -> Any:
        """Return the item that an invocation receives: a value of its own. The list is decoded once for all items."""
        ((_, source),) = item.arguments
        items = self._lists.get(item.group)
        if items is None:
            items = self._lists[item.group] = self.received(source, kept.get(source))
        if not isinstance(items, list | tuple) or item.place >= len(items):  # the annotation of the list has changed
            method = name_in(source).removesuffix("[]")
            raise StateSchemaError(
                f"the stored result of {method} has no item {item.place}, on which {item.method} works. Nothing was changed; let {method} "
                "return a list until such runs have ended",
                run_id=self._run_id,
                method=item.method,
            )
        return copied(items[item.place])

    def forget_list(self, key: str) -> None:
        """Forget the list of an invocation whose items have all completed."""
        self._lists.pop(key, None)

    def output(self, method: str, kept: Any) -> Any:
        """Return a result as the output of a pass keeps it."""
        return kept


class StoredResults(Results):
    """The results of a stored run: a receiver gets the same value whether the run was resumed or not."""

    def __init__(self, codecs: Codecs, run_id: str) -> None:
        super().__init__(run_id)
        self._codecs = codecs
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
        method = name_in(source)
        if type(kept) is Gathered:
            return self._codecs.gathered(kept, self._run_id, method)
        latest, data, value = self._latest
        if kept is data and method == latest:  # check both: Python shares one b"1" between all methods
            return value
        return self._codecs.decode_result(kept, self._run_id, method)

    def output(self, method: str, kept: Any) -> Any:
        if type(kept) is not Gathered:
            return kept
        return self._codecs.encode_result(self._codecs.gathered(kept, self._run_id, method), self._run_id, method)[0]
