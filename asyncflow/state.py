"""The state of a flow: a pydantic model or a dict, always with an `id`. Made, validated, replaced and merged here."""

from __future__ import annotations

import difflib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from . import merge
from ._values import WITHOUT_ID, copied
from .errors import FlowDefinitionError, InvalidRunIdError, RunInputsError, StateError

__all__ = [
    "DictState",
    "FlowState",
    "ModelState",
    "StateType",
    "explained",
    "new_run_id",
    "one_run_id",
    "parse_run_id",
    "state_type_of",
]


def new_run_id() -> str:
    """A new random UUID, in canonical lower case."""
    return str(uuid.uuid4())


def parse_run_id(value: object) -> str:
    """The run id for a UUID, its text in any case, or any other text of 1 to 128 printable characters.

    Raises `InvalidRunIdError`, before any I/O, for anything else.
    """
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise InvalidRunIdError(f"a run id is a UUID or a text, not {type(value).__name__}")
    if len(value) == 36 and value.count("-") == 4:
        try:
            canonical = str(uuid.UUID(value))
        except ValueError:
            canonical = ""
        if canonical == value.lower():  # `UUID` takes other spellings, too; those are texts
            return canonical
    if not 1 <= len(value) <= 128 or not value.isprintable() or value != value.strip():
        raise InvalidRunIdError(
            "a run id has 1 to 128 printable characters and no spaces around it; nothing was read or written"
        )
    return value


def one_run_id(*brought: object | None) -> str | None:
    """The run id that was brought in one way or another, if any was. Raises `RunInputsError` for two, `InvalidRunIdError`."""
    ids = {parse_run_id(each) for each in brought if each is not None}
    if len(ids) > 1:
        raise RunInputsError(f"two ids for one run: {' and '.join(sorted(ids))}. Nothing was started")
    return next(iter(ids), None)


class FlowState(BaseModel):
    """A ready base for the state of a flow: a model with an `id`."""

    id: str = Field(default_factory=new_run_id)


def explained(errors: list[ErrorDetails]) -> str:
    """What pydantic found, told from location and kind: without the user's values."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'the state'}: {e['msg'] if _is_ours(e) else e['type']}" for e in errors
    )


def _is_ours(error: ErrorDetails) -> bool:
    """Whether a message is pydantic's own and tells of nothing but the schema: no custom error, no part of an input."""
    return error["type"] in _KNOWN_ERRORS and all(isinstance(v, (int, float)) for v in error.get("ctx", {}).values())


_KNOWN_ERRORS = frozenset(get_args(ErrorType)) - {"value_error", "assertion_error"}


class StateType(ABC):
    """What a flow's states are. States come in and go out; nothing is kept here."""

    merges: Mapping[str, merge.Merge] = {}
    annotation: Any = Any
    """What is stored and read back: a model, or Any for a dict."""

    @property
    @abstractmethod
    def declaration(self) -> Any:
        """What a state is, as a type: a model with an `id`, or a dict."""

    @abstractmethod
    def names_set(self, initial: Any) -> frozenset[str]:
        """The fields that the flow's initial state sets."""

    @abstractmethod
    def create(self, initial: Any, inputs: Mapping[str, Any], run_id: str) -> Any:
        """A new state from the flow's initial one and the caller's inputs. Raises `RunInputsError`."""

    @abstractmethod
    def updated(self, state: Any, changes: Mapping[str, Any]) -> Any:
        """A validated copy of the state with some fields changed. Raises `RunInputsError`."""

    @abstractmethod
    def replacement(self, value: Any, run_id: str) -> Any:
        """The state that `self.state = value` means. Raises `StateError` if it is not of this flow's type."""

    @abstractmethod
    def id_of(self, state: Any) -> str | None:
        """The id that a state holds, as text, or None where that was lost."""

    @abstractmethod
    def check_initial(self, initial: Any) -> None:
        """Raises `FlowDefinitionError` for an `initial_state` that is none of this flow's."""

    def given_id(self, initial: Any) -> str | None:
        """The id that a flow's initial state brings, as text; None where nobody has set one."""
        return _id_text(initial.get("id")) if isinstance(initial, Mapping) else None

    @abstractmethod
    def with_id(self, state: Any, run_id: str) -> Any:
        """The state, changed in place to be that of another run. Raises `InvalidRunIdError`."""

    def names_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """The names of the fields that the inputs set. Raises `RunInputsError` for one that is not known."""
        return list(inputs)

    @abstractmethod
    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        """The three-way merge, validated as a whole. It shares structure with `base` and `theirs`. Raises `merge.Conflict`."""


class ModelState(StateType):
    """States that are instances of a pydantic model. A model without `id` gets one, in a subclass made once."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.declared = model
        self.model = self.annotation = _with_id(model)
        annotation = self.model.model_fields["id"].annotation
        if annotation not in (str, uuid.UUID):
            raise FlowDefinitionError(
                f"{model.__name__}.id must be declared as `id: str` or `id: UUID`, or left out; it is {annotation}"
            )
        self._id: Callable[[str], Any] = uuid.UUID if annotation is uuid.UUID else str
        self._names = {
            alias: name
            for name, field in self.model.model_fields.items()
            for alias in (name, field.alias, field.validation_alias)
            if isinstance(alias, str)
        }

    @property
    def declaration(self) -> Any:
        return self.model

    def names_set(self, initial: Any) -> frozenset[str]:
        if isinstance(initial, BaseModel):
            return frozenset(initial.__dict__)
        return frozenset(self._named(initial)) if isinstance(initial, Mapping) else frozenset()

    def create(self, initial: Any, inputs: Mapping[str, Any], run_id: str) -> Any:
        if isinstance(initial, type) or initial is None:
            values: dict[str, Any] = {}
        elif isinstance(initial, Mapping):
            values = self._named(initial)
        else:
            return self.updated(self.with_id(self.replacement(copied(initial), run_id), run_id), inputs)
        return self._validated({**copied(values), **self._named(inputs), "id": self._given_id(run_id)})

    def updated(self, state: Any, changes: Mapping[str, Any]) -> Any:
        if not changes:
            return state
        old = copied(state)
        values = {**old.__dict__, **(old.__pydantic_extra__ or {}), **self._named(changes), "id": old.id}
        new = self._validated(values)
        object.__setattr__(new, "__pydantic_private__", old.__pydantic_private__)
        return new

    def replacement(self, value: Any, run_id: str) -> Any:
        if type(value) not in (self.model, self.declared):
            raise StateError(
                f"self.state must be set to a {self.declared.__name__}, not a {type(value).__name__}; nothing was changed"
            )
        if "id" not in value.__pydantic_fields_set__:
            new = self.model.__new__(self.model)
            put = object.__setattr__
            put(new, "__dict__", {**value.__dict__, "id": self._given_id(run_id)})
            put(new, "__pydantic_fields_set__", {*value.__pydantic_fields_set__, "id"})
            put(new, "__pydantic_extra__", value.__pydantic_extra__)
            put(new, "__pydantic_private__", value.__pydantic_private__)
            return new
        return value

    def id_of(self, state: Any) -> str | None:
        return _id_text(state.__dict__.get("id"))

    def check_initial(self, initial: Any) -> None:
        own = (self.declared, self.model)
        if not (initial is None or isinstance(initial, Mapping) or initial in own or type(initial) in own):
            name = self.declared.__name__
            raise FlowDefinitionError(
                f"initial_state of a Flow[{name}] is {name} itself, an instance of it, or a dict, and not {_told(initial)}"
            )

    def given_id(self, initial: Any) -> str | None:
        if isinstance(initial, BaseModel):
            return self.id_of(initial) if "id" in initial.__pydantic_fields_set__ else None
        return super().given_id(initial)

    def with_id(self, state: Any, run_id: str) -> Any:
        state.__dict__["id"] = self._given_id(run_id)
        state.__pydantic_fields_set__.add("id")
        return state

    def names_of(self, inputs: Mapping[str, Any]) -> list[str]:
        return list(self._named(inputs))

    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        new = merge.three_way(base, copied(ours), theirs, self.merges)
        try:
            self.model.model_validate(
                {**copied(new).__dict__, **(new.__pydantic_extra__ or {})}, by_name=True, by_alias=False
            )
        except ValidationError as error:
            detail = explained(error.errors(include_url=False, include_input=False))
            raise merge.Conflict("", f"what both changed together breaks the model: {detail}") from None
        return new

    def _given_id(self, run_id: str) -> Any:
        try:
            return self._id(run_id)
        except ValueError:
            raise InvalidRunIdError(
                f"{self.declared.__name__}.id is a UUID, and the run id given is not; nothing was read or written"
            ) from None

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values by field name, each known. Raises `RunInputsError` for a name that the model lacks."""
        unknown = [key for key in values if key not in self._names]
        if unknown and self.model.model_config.get("extra") != "allow":
            near = difflib.get_close_matches(str(unknown[0]), self._names, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise RunInputsError(
                f"{self.declared.__name__} has no field {', '.join(repr(k) for k in unknown)}.{hint} "
                f"Known: {', '.join(self.model.model_fields)}. Nothing was run and nothing was written"
            )
        return {self._names.get(key, key): value for key, value in values.items()}

    def _validated(self, values: dict[str, Any]) -> Any:
        try:
            return self.model.model_validate(values, by_name=True, by_alias=False)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
        raise RunInputsError(
            f"the inputs do not fit {self.declared.__name__}: {explained(problems)}. Nothing was run and nothing was written",
            places=[problem["loc"] for problem in problems],
        )


class DictState(StateType):
    """States that are dicts with text keys. The values are validated where the flow says what they are."""

    def __init__(self, values: Any = Any, merges: Mapping[str, merge.Merge] | None = None) -> None:
        self.values = values
        self.merges = dict(merges or {})
        self._adapter: TypeAdapter[Any] | None = None if values is Any else TypeAdapter(values)

    def check_initial(self, initial: Any) -> None:
        if not (initial is None or initial is dict or isinstance(initial, Mapping)):
            raise FlowDefinitionError(
                f"initial_state of a flow whose state is a dict is a dict, and not {_told(initial)}; for a model declare "
                "Flow[Model], or set it on the class"
            )

    @property
    def declaration(self) -> Any:
        return dict[str, self.values]  # type: ignore[name-defined]  # known when the flow is declared

    def names_set(self, initial: Any) -> frozenset[str]:
        return frozenset(initial) if isinstance(initial, Mapping) else frozenset()

    def create(self, initial: Any, inputs: Mapping[str, Any], run_id: str) -> Any:
        start = {} if initial is None or isinstance(initial, type) else copied(dict(initial))
        return {**self._validated({"id": run_id, **start, **inputs}), "id": run_id}

    def updated(self, state: Any, changes: Mapping[str, Any]) -> Any:
        return {**copied(state), **self._validated(changes), "id": state["id"]}

    def replacement(self, value: Any, run_id: str) -> Any:
        if not isinstance(value, dict):
            raise StateError(f"self.state must be set to a dict, not a {type(value).__name__}; nothing was changed")
        return value if "id" in value else {"id": run_id, **value}

    def id_of(self, state: Any) -> str | None:
        return _id_text(state.get("id"))

    def with_id(self, state: Any, run_id: str) -> Any:
        state["id"] = run_id
        return state

    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        return merge.three_way(base, copied(ours), theirs, self.merges)

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        odd = next((key for key in values if not isinstance(key, str)), None)
        if odd is not None:
            raise RunInputsError(
                f"the keys of a state are texts, and one is a {type(odd).__name__}; nothing was written"
            )
        adapter = self._adapter
        if adapter is None:
            return dict(values)
        checked: dict[str, Any] = {}
        for key, value in values.items():
            try:
                checked[key] = value if key == "id" else adapter.validate_python(value)
            except ValidationError as error:
                detail = explained(error.errors(include_url=False, include_input=False))
                raise RunInputsError(f"'{key}' does not fit the state: {detail}. Nothing was written") from None
        return checked


def _id_text(value: object) -> str | None:
    return value if type(value) is str else str(value) if isinstance(value, (str, uuid.UUID)) else None


def _told(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


_WITH_ID: dict[type[BaseModel], type[BaseModel]] = {}


def _with_id(model: type[BaseModel]) -> type[BaseModel]:
    """The model itself if it has an `id`, else its subclass with one, made once."""
    if "id" in model.model_fields:
        return model
    made = _WITH_ID.get(model)
    if made is None:
        made = create_model(
            model.__name__, __base__=model, __module__=model.__module__, id=(str, Field(default_factory=new_run_id))
        )
        made.__qualname__ = model.__qualname__
        setattr(made, WITHOUT_ID, model)
        made.__reduce__ = _reduce  # type: ignore[assignment,method-assign]  # pickled by what can be imported
        _WITH_ID[model] = made
    return made


def _reduce(self: BaseModel) -> Any:
    base = type(self).__bases__[0]
    return _restored, (base, self.__getstate__())


def _restored(base: type[BaseModel], state: dict[Any, Any]) -> BaseModel:
    model = _with_id(base)
    new = model.__new__(model)
    new.__setstate__(state)
    return new


def state_type_of(annotation: Any, merges: Mapping[str, merge.Merge]) -> StateType:
    """The state type for `Flow[annotation]`. Raises `FlowDefinitionError` for what cannot be a state."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if merges:
            raise FlowDefinitionError("`merges` is for dict states; a model's field says it: Annotated[int, merge.add]")
        return ModelState(annotation)
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin is dict and (not args or args[0] is str):
        return DictState(args[1] if args else Any, merges)
    raise FlowDefinitionError(f"the state of a flow is a pydantic model or a dict with text keys, not {annotation}")
