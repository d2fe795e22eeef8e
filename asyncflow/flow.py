"""`Flow`: the base class of user flows. It collects the class's declarations and delegates; it contains no engine logic."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Final, Generic, Literal, Never, TypeVar, Unpack, cast, overload

import typing_extensions

from ._definition.attempting import checked_limit
from ._definition.build import define, persist_marks
from ._definition.declared import Persisted, Uncached, declared_result, declared_state
from ._definition.decorators import persist_mark_of
from ._definition.definition import FlowDefinition
from ._definition.identity import Origin, checked_former_names, checked_name
from ._definition.names import Surroundings
from ._keywords import UNSET, Unset, not_taken, one_of
from ._pictures.drawn import Drawn
from ._runs.edits import edit
from ._runs.history import HistoryEntry, history_of
from ._runs.instance import Instance, KickoffOptions, Stop, Until
from ._runs.operations import Operations
from ._runs.parked import Stopped, Waiting
from ._runs.setup import log_unchecked_labels, settings_of, setup_of
from ._runs.snapshot import MissingInstance
from ._runtime.audience import checked_observers
from ._runtime.codecs import Codecs
from ._runtime.scope import current_invocation
from ._runtime.settings import Settings
from ._runtime.tracebacks import from_here
from .errors import FlowDefinitionError, MethodError
from .events import Observer
from .merge import Merge
from .persistence.checks import check_backend
from .persistence.protocol import FlowPersistence
from .persistence.status import Status
from .state import StateType, parse_run_id, state_type_of

__all__ = ["Flow"]

S = TypeVar("S")
R = typing_extensions.TypeVar("R", covariant=True, default=Any)

Durability = Literal["full", "process"]
OnError = Literal["finish", "cancel"]

_KEYWORDS: Final = (
    *("persistence", "initial_state", "name", "durability", "on_error", "max_method_calls", "run_timeout", "observers"),
)


class Flow(Operations, Drawn, Uncached, Generic[S, R]):
    """A flow: a class with `@start`, `@listen` and `@router` methods that run concurrently over a transactional state.

    Write `Flow[Model]`, `Flow[dict[str, X]]` or plain `Flow`; with `Flow[Model, Result]`, what the flow returns has a type, too, and the
    methods that can return it are checked. The keywords of the constructor are class attributes as well; a keyword that is not given
    has the value of the class attribute. `name` and `formerly` may also be keywords of the class statement, as in
    `class Report(Flow[Model], name="report")`:

    - `persistence`: the backend that stores the runs; None: runs are not stored. If it is not set, `@persist` decides.
    - `initial_state`: a model class, an instance or a dict; it is copied.
    - `name`: identifies stored runs, and is the name shown to people. Without it, the module and the qualified name of the class
      (for a script: its file) identify stored runs, and people see the class's name. Subclasses inherit it.
    - `formerly`: of the class only: the identity of this flow's runs before it was moved or renamed, such as "old.module.Report"; one
      or several.
    - `durability`: of the default SQLite storage: "full" survives power loss, "process" the death of the process. Default: "full".
    - `on_error`: "finish" lets the siblings of a failed method finish, "cancel" cancels them. Default: "finish".
    - `max_method_calls`: the maximum number of calls of one method in a pass; None for no limit. Default: 10,000. Beyond it the run
      fails with a `LimitExceededError`.
    - `run_timeout`: how long a pass may take, waits included: seconds, or a timedelta; then it fails with a `RunTimeoutError`. A resume
      does not prolong it, unless it has a `run_timeout` of its own. Default: None, no limit.
    - `observers`: objects with `on_event(event)`, called with each event of the run and of its children: see `asyncflow.events`.
    - `retry`, `timeout`: class attributes only: the defaults of all methods; see `listen`.
    - `merges`: a class attribute only: the merge functions of a dict state's keys; see `asyncflow.merge`.

    Raises `FlowDefinitionError` for a class that cannot run or a `persistence` that is no backend, `ArgumentsError` for other keywords,
    and `ValueError` for a value that a keyword does not take.
    """

    persistence: ClassVar[Any] = UNSET
    initial_state: ClassVar[Any] = None
    name: ClassVar[str | None] = None
    formerly: ClassVar[str | tuple[str, ...]] = ()
    durability: ClassVar[Durability] = "full"
    on_error: ClassVar[OnError] = "finish"
    max_method_calls: ClassVar[int | None] = 10_000
    run_timeout: ClassVar[float | timedelta | None] = None
    observers: ClassVar[Sequence[Observer]] = ()
    merges: ClassVar[Mapping[str, Merge]] = {}

    _instance: Instance = cast(Instance, MissingInstance())
    _definition: ClassVar[FlowDefinition]
    _origin: ClassVar[Origin]
    _surroundings: ClassVar[Surroundings]
    _state_type: ClassVar[StateType]
    _codecs: ClassVar[Codecs]
    _persisted: ClassVar[Persisted]
    _settings_cache: ClassVar[dict[tuple[object, ...], Settings]]

    def __init_subclass__(
        cls, *, name: str | None = None, formerly: str | Iterable[str] | None = None, **kwargs: Any
    ) -> None:
        """Accept `name` and `formerly` as the class attributes of these names: `class Report(Flow[State], name="report")`."""
        if kwargs and not any("__init_subclass__" in vars(base) for base in cls.__mro__ if base not in Flow.__mro__):
            raise not_taken(f"class {cls.__name__}", kwargs, ("name", "formerly"))
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name
        if formerly is not None:
            cls.formerly = checked_former_names(formerly, cls)
        checked_name(cls.name, cls)
        checked_former_names(cls.formerly, cls)
        frame = sys._getframe(1)
        cls._origin = Origin.of(cls, frame.f_globals)
        cls._surroundings = Surroundings(cls, frame)
        cls._define()

    @classmethod
    def _define(cls) -> None:
        """Read the declarations of the class. Called again if an annotation names something that was not yet defined."""
        names = cls._surroundings.names()
        cls._definition = define(cls, Flow, names, declared_result(cls, Flow, names))
        cls._surroundings.keep(cls._definition)
        cls._state_type = state_type_of(declared_state(cls, Flow, names), cls.merges)
        cls._codecs = Codecs(cls._definition, cls._state_type)
        cls._persistence_marked()

    @classmethod
    def _define_again(cls) -> None:
        """Define the class again if names have been added since. Log once which methods have labels that cannot be checked."""
        if cls._surroundings.has_grown:
            cls._define()
        log_unchecked_labels(cls.__name__, cls._surroundings.not_logged(cls._definition))

    @classmethod
    def _persistence_marked(cls) -> None:
        """Read the `@persist` marks of the class. A `@persist` that decorates the class calls this again."""
        cls._persisted = Persisted.of(cls.__name__, persist_mark_of(cls), persist_marks(cls), check_backend)
        cls._persisted.check(cls._definition)
        cls._settings_cache = {}

    def __init__(
        self,
        *misplaced: Never,
        persistence: FlowPersistence | Unset | None = UNSET,
        initial_state: Any = UNSET,
        name: str | None = None,
        durability: Durability | None = None,
        on_error: OnError | None = None,
        max_method_calls: int | Unset | None = UNSET,
        run_timeout: float | timedelta | Unset | None = UNSET,
        observers: Sequence[Observer] | None = None,
        **unknown: Never,
    ) -> None:
        cls = type(self)
        if misplaced or unknown:
            takes = f"{cls.__name__} takes keywords only, such as persistence=; pass inputs to kickoff"
            raise not_taken(cls.__name__, unknown, _KEYWORDS, places=len(misplaced), takes=takes, is_of_a_flow=True)
        if cls is Flow or not cls._definition.methods:
            cure = "subclass it, and decorate" if cls is Flow else "decorate"
            raise FlowDefinitionError(f"{cls.__name__} has no methods; {cure} the first with @start()")
        if cls._definition.is_unresolved:
            cls._define_again()
        given = cls.initial_state if initial_state is UNSET else initial_state
        cls._state_type.check_initial(given)
        where = cls.persistence if persistence is UNSET else persistence
        if where is not None and where is not UNSET:
            check_backend(where)
        settings = settings_of(
            cls,
            name,
            one_of("on_error", on_error or cls.on_error, ("finish", "cancel")),
            cls.max_method_calls if max_method_calls is UNSET else cast("int | None", max_method_calls),
            checked_limit("run_timeout", cls.run_timeout if run_timeout is UNSET else run_timeout),
        )
        chosen = one_of("durability", durability or cls.durability, ("full", "process"))
        heard = cls.observers if observers is None else observers
        observed = checked_observers(heard, cls.__name__) if heard else ()
        setup = partial(setup_of, settings, cls._codecs, cls._persisted, where, chosen, observed)
        self._instance = Instance(self, cls._state_type, given, setup)

    def __repr__(self) -> str:
        instance = vars(self).get("_instance")  # a constructor may fail before it has created one
        return object.__repr__(self) if instance is None else f"<{instance!r}>"

    @property
    def state(self) -> S:
        """The state. In a method: the method's own draft, committed when the method ends. Before a run: the object you may change.

        From outside, while the flow runs: a copy of the committed state. Raises `DraftClosedError` in code that still runs after its
        method has ended, and `StateError` in a thread that a method has started, while other methods run.
        """
        scope = current_invocation.get()
        held: S = scope.draft() if scope is not None and scope.flow is self else self._instance.state()
        return held

    @state.setter
    def state(self, value: S) -> None:
        self._instance.set_state(value)

    @property
    def run_id(self) -> str:
        """The id of the run: a UUID unless the caller supplied another id."""
        return self._instance.run_id

    @property
    def status(self) -> Status | Literal["new"]:
        """The status as far as this instance knows: "new", "running", "waiting", "interrupted", "failed", "finished" or "cancelled"."""
        return self._instance.status

    @property
    def pending(self) -> tuple[str, ...]:
        """The invocations that are not yet completed, such as `fetch:1`.

        While the run is running, this is the current set: an invocation counts as completed while its checkpoint is still being written.
        After the run, this is the stored set.
        """
        return self._instance.pending

    @property
    def method_outputs(self) -> Mapping[str, Any]:
        """The latest result of each method that completed in this process, by method name. For a loaded finished run: only its output.

        Raises `NoOutputError`, a `KeyError`, for any other name.
        """
        return self._instance.outputs

    @property
    def result(self) -> R:
        """The output of the last pass: of the method with `output=True` or, without one, of the method that completed last."""
        result: R = self._instance.result
        return result

    @property
    def method_error(self) -> MethodError | None:
        """The error that a loaded run failed with, or None. It includes the texts of the exceptions and their tracebacks."""
        return self._instance.error

    @property
    def invocation_id(self) -> str:
        """The id of the current invocation: run, pass, method and occurrence. Usable as an idempotency key.

        It stays the same over retries and resumes. Raises `LookupError` outside of a method.
        """
        scope = self._instance.scope()
        if scope is None:
            raise LookupError("invocation_id is available only inside a method of the flow")
        return scope.invocation_id

    def committed_state(self) -> S:
        """Return a copy of the newest committed state, which a method's draft does not show."""
        return cast(S, self._instance.committed_state())

    @overload
    async def kickoff(
        self,
        inputs: S | Mapping[str, Any] | None = None,
        *,
        until: Literal["end"] = "end",
        **options: Unpack[KickoffOptions],
    ) -> R: ...
    @overload
    async def kickoff(
        self, inputs: S | Mapping[str, Any] | None = None, *, until: Until, **options: Unpack[KickoffOptions]
    ) -> R | Waiting: ...
    @overload
    async def kickoff(
        self, inputs: S | Mapping[str, Any] | None = None, *, until: Stop, **options: Unpack[KickoffOptions]
    ) -> R | Waiting | Stopped: ...
    async def kickoff(
        self,
        inputs: S | Mapping[str, Any] | None = None,
        *,
        restore_from_state_id: object | None = None,
        wait: float = 0.0,
        once: bool = False,
        until: Until | Stop = "end",
        **unknown: Never,
    ) -> R | Waiting | Stopped:
        """Run until nothing is left to run, and return the output: see `result`.

        - `inputs`: fields of the state to set: a dict, or a state, whose default values are left out. With the `id` of a stored run, an
          interrupted or failed run resumes where it stopped, and a finished run starts a new pass over its saved state; an unknown id
          starts a new run with that id.
        - `restore_from_state_id`: the id of another run; start a new run over its saved state.
        - `wait`: seconds to wait until the current owner of the run no longer drives it; then `RunLockedError`.
        - `once`: for a finished run, return its stored result and run nothing, so that a script can be started again.
        - `until`: "waiting" also returns, with a `Waiting`, once the run is parked: it waits for a signal or at least 10 seconds, and no
          method of it runs. A runner that knows the flow wakes it, or the next kickoff or resume. The name of a method, or a number of
          methods, also returns with a `Stopped` once that method, or so many, have completed: methods that still run finish, no other
          starts, and the next kickoff or resume continues; and with a `Waiting` if the run is parked before.

        If the call is cancelled, the run can be resumed. Raises `MethodError` when a method raised, `RunTimeoutError` (a `MethodError`)
        after `run_timeout`, `FlowBusyError`, `RunLockedError`, `RunCancelledError`, `RunInputsError`, `RunNotFoundError` (of
        `restore_from_state_id`), `RunFlowMismatchError`, `InvalidRunIdError`, `StateSchemaError` and `FlowDefinitionError` if the stored
        run does not fit the class, `StateError` if the state of an interrupted run was changed here, `StateNotStorableError` for inputs
        that cannot be stored, `RunFencedError`, `LimitExceededError`, `ArgumentsError`, `CapabilityMissingError` for
        `restore_from_state_id` without persistence, and `StorageError`s.
        """
        if unknown:
            known = ("inputs", "restore_from_state_id", "wait", "once", "until")
            raise not_taken("kickoff", unknown, known, is_of_a_flow=True)
        source = None if restore_from_state_id is None else parse_run_id(restore_from_state_id)
        try:
            given: R | Waiting | Stopped = await self._instance.kickoff(inputs, source, wait, once=once, until=until)
            return given
        except MethodError as error:
            raise from_here(error) from error.__cause__

    @overload
    async def kickoff_async(
        self,
        inputs: S | Mapping[str, Any] | None = None,
        *,
        until: Literal["end"] = "end",
        **options: Unpack[KickoffOptions],
    ) -> R: ...
    @overload
    async def kickoff_async(
        self, inputs: S | Mapping[str, Any] | None = None, *, until: Until, **options: Unpack[KickoffOptions]
    ) -> R | Waiting: ...
    @overload
    async def kickoff_async(
        self, inputs: S | Mapping[str, Any] | None = None, *, until: Stop, **options: Unpack[KickoffOptions]
    ) -> R | Waiting | Stopped: ...
    async def kickoff_async(self, inputs: S | Mapping[str, Any] | None = None, **options: Any) -> R | Waiting | Stopped:
        """Alias of `kickoff`, under CrewAI's name."""
        given: R | Waiting | Stopped = await self.kickoff(inputs, **options)
        return given

    @overload
    @classmethod
    async def resume(cls, run_id: object, /, *, wait: float = 0.0, until: Literal["end"] = "end", **init: Any) -> R: ...
    @overload
    @classmethod
    async def resume(cls, run_id: object, /, *, wait: float = 0.0, until: Until, **init: Any) -> R | Waiting: ...
    @overload
    @classmethod
    async def resume(
        cls, run_id: object, /, *, wait: float = 0.0, until: Stop, **init: Any
    ) -> R | Waiting | Stopped: ...
    @classmethod
    async def resume(
        cls, run_id: object, /, *, wait: float = 0.0, until: Until | Stop = "end", **init: Any
    ) -> R | Waiting | Stopped:
        """Resume an interrupted or failed run: run only what failed or never ended. Return the result; of a finished run, the stored one.

        - `run_id`: the id of the run.
        - `wait`: seconds to wait until the current owner of the run no longer drives it; then `RunLockedError`.
        - `until`: as in `kickoff`.
        - `init`: arguments of the constructor, such as `persistence`. A `run_timeout` is a new time limit, from now; None removes it.

        Raises `InvalidRunIdError`, `RunNotFoundError`, `RunFlowMismatchError`, `RunLockedError`, `RunCancelledError`, `MethodError`,
        `StateSchemaError`, `FlowDefinitionError` if the class has lost a method that the run waits for, `RunFencedError`,
        `LimitExceededError`, `CapabilityMissingError` if the class has no persistence, `ArgumentsError` and `ValueError` as the
        constructor does, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        flow = cls(**init)
        try:
            resumed = flow._instance.resume(known, wait, has_new_limit="run_timeout" in init, until=until)
            given: R | Waiting | Stopped = await resumed
            return given
        except MethodError as error:
            raise from_here(error) from error.__cause__

    async def history(self) -> list[HistoryEntry]:
        """Return the checkpoints of the run, oldest first.

        Raises `RunNotFoundError`, `CapabilityMissingError` if the flow is not stored or its backend keeps no history,
        `InvalidRunIdError` (of an id in the state), and `StorageError`s.
        """
        return await history_of(self._instance.storage("history"), self.run_id)

    async def update_state(self, changes: S | Mapping[str, Any] | None = None, /, **fields: Any) -> None:
        """Edit the stored state of a run that is not running. The edit is stored as a checkpoint of its own.

        - `changes`: the fields to change, with their new values: as the inputs of `kickoff`.
        - `fields`: the same as keywords.

        Raises `RunInputsError` for a value that the state's model refuses, `StateNotStorableError` for one that cannot be stored,
        `FlowBusyError` or `RunLockedError` while the run is running, `RunNotFoundError`, `CapabilityMissingError` if the flow is not
        stored, `InvalidRunIdError` (of an id in the state), `RunFlowMismatchError`, `StateSchemaError`, and `StorageError`s.
        """
        await edit(self._instance, changes, fields)
