"""The items of lists that methods work on: which list may be one, and what the end of an item records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .._definition.definition import MethodDefinition
from .._definition.mapping import MOST_WITHOUT_LIMIT
from .._scheduling.groups import Gathered
from .._scheduling.messages import Item, ItemReturned
from ..errors import CapabilityMissingError, FlowDefinitionError, LimitExceededError
from .journal import Happened, Journal
from .large_states import Encoded
from .outputs import Outputs
from .recorder import Recorder
from .scope import Scope
from .settings import Settings
from .state_version import Version
from .timers import due_after
from .versions import StateVersions

__all__ = ["Items", "name_of"]

MOST_AS_WHOLE: Final = 1_000
"""How many items a pass can have whose every checkpoint contains them all."""


class Items:
    """Records the ends of the items of one pass."""

    __slots__ = ("_clock", "_journal", "_outputs", "_recorder", "_settings", "_versions")

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        versions: StateVersions,
        recorder: Recorder | None,
        outputs: Outputs,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._versions = versions
        self._recorder = recorder
        self._outputs = outputs
        self._clock = clock

    def started_by(self, scope: Scope, result: Any) -> int:
        """Return how many items a method's result has, if methods run once for each of them.

        Raises `FlowDefinitionError` if it is no list, `LimitExceededError` if it has too many items for a method without a limit, and
        `CapabilityMissingError` if it has too many for a backend that writes whole checkpoints. Nothing was saved then.
        """
        mapped = self._mapped_over(scope)
        if not mapped:
            return 0
        if not isinstance(result, list | tuple):
            raise _no_list(self._settings.name, scope, mapped[0], result)
        self._check_count(scope, mapped, len(result))
        return len(result)

    def _mapped_over(self, scope: Scope) -> list[MethodDefinition]:
        """Return the methods that run once for each item of what a method returns."""
        return [each for each in self._settings.definition.reached_by((scope.method.name,)).methods if each.each]

    def _check_count(self, scope: Scope, mapped: Sequence[MethodDefinition], count: int) -> None:
        if not mapped:
            return
        source = scope.method.name
        unlimited = next((method.name for method in mapped if not method.limit), None)
        if unlimited is not None and count > MOST_WITHOUT_LIMIT:
            raise LimitExceededError(
                f"{source} returned {count} items, and {unlimited} has no limit, which allows {MOST_WITHOUT_LIMIT}; give it one: "
                f"@listen(each({source}), limit=...). Nothing was saved",
                run_id=scope.run_id,
                method=source,
            )
        if self._recorder is not None and self._recorder.chain.writes_snapshots and count > MOST_AS_WHOLE:
            raise CapabilityMissingError(
                f"{source} returned {count} items for {mapped[0].name}, and each checkpoint of this run is written whole, with all of "
                f"them: at most {MOST_AS_WHOLE}. Use a backend with the capability CheckpointLog, and @persist on the class",
                capability="CheckpointLog",
                run_id=scope.run_id,
                method=source,
            )

    def returned(
        self, scope: Scope, draft: list[Any], result: Any, encoded: Encoded | None
    ) -> tuple[Version, Happened]:
        """Record the end of an item that returned, or of an invocation whose list is empty."""
        method, versions, journal, item = scope.method, self._versions, self._journal, scope.invocation
        is_recorded = self._settings.checkpoints_all or self._settings.checkpoints(method)
        state, version = versions.leave(scope.base, method.name, draft, encoded, is_recorded)
        key, place = (item.group, item.place) if type(item) is Item else (scope.key, -1)
        group = journal.progress.groups[key]
        is_last, results = group.completes_with(place), []
        if is_last:
            self._check_count(scope, self._mapped_over(scope), group.count)
            others = Gathered(group.done[index] for index in range(group.count) if index != place)
            results = journal.results.received(key, others)  # it raises if the class has changed
        due: tuple[float, ...] = ()
        if is_last and self._settings.definition.has_timers:
            due = due_after(self._settings.definition, method.name, None, version.state, self._clock())
        ended = ItemReturned(scope.key, due)
        happened = journal.happened(ended, name_of(scope), scope.key, result, state, is_recorded)
        if version is not versions.newest:
            versions.publish(version, state, method.name, is_alone=False)
        if not is_last:
            return version, happened
        journal.results.forget_list(key)
        if place >= 0:
            results.insert(place, happened[2])
        self._outputs[method.name] = results
        return version, (*happened[:2], results)


def name_of(scope: Scope) -> str:
    """Return under which name the result of an invocation is encoded; '' for one whose list is empty. See `Codecs.result`."""
    method = scope.method
    return method.name if not method.each else f"{method.name}[]" if type(scope.invocation) is Item else ""


def _no_list(flow: str, scope: Scope, mapped: MethodDefinition, result: object) -> FlowDefinitionError:
    source = scope.method.name
    problem = f"{source} returned a {type(result).__name__}, and {mapped.name} runs for each item of it; return a list or a tuple"
    return FlowDefinitionError(f"{flow}: {problem}", problems=[problem], run_id=scope.run_id, method=source)
