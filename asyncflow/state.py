"""Create, validate, replace and merge the state of a flow: a pydantic model or a dict, always with an `id`."""

from __future__ import annotations

import difflib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from . import merge
from ._run_ids import new_run_id, parse_run_id, reconcile_run_ids
from ._values import own_code as _own_code
from ._values.copying import WITHOUT_ID, copied
from ._values.explaining import explained
from ._values.fields import fields_of
from .errors import FlowDefinitionError, InvalidRunIdError, RunInputsError, StateError

__all__ = [
    "DictState",
    "FlowState",
    "ModelState",
    "StateInputs",
    "StateType",
    "new_run_id",
    "parse_run_id",
    "reconcile_run_ids",
    "state_type_of",
]


class FlowState(BaseModel):
    """A base model for the state of a flow, with an `id` field."""

    id: str = Field(default_factory=new_run_id)
    """The id of the run; by default a new UUID."""


class StateInputs(dict[str, Any]):
    """The fields of a state that was given as inputs: those that it sets. `defaults` holds the others."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.defaults = defaults


class StateType(ABC):
    """Operations on the states of one flow. States are passed in and returned; this object keeps none."""

    merges: Mapping[str, merge.Merge] = {}
    annotation: Any = Any
    """The type that is stored and loaded: a model, or Any for a dict."""
    id_names: tuple[str, ...] = ("id",)
    """The names under which inputs can pass an id."""

    @property
    @abstractmethod
    def declaration(self) -> Any:
        """The type of a state: a model with an `id`, or a dict."""

    @abstractmethod
    def names_set(self, initial: Any) -> frozenset[str]:
        """Return the fields that the flow's initial state sets."""

    @abstractmethod
    def create(self, initial: Any, inputs: Mapping[str, Any], run_id: str) -> Any:
        """Create a new state from the flow's initial state and the caller's inputs. Raises `RunInputsError`."""

    @abstractmethod
    def updated(self, state: Any, changes: Mapping[str, Any]) -> Any:
        """Return a validated copy of the state with some fields changed. Raises `RunInputsError`."""

    @abstractmethod
    def replacement(self, value: Any, run_id: str) -> Any:
        """Return the state that the assignment `self.state = value` sets. Raises `StateError` if the value is not of this flow's type."""

    @abstractmethod
    def id_of(self, state: Any) -> str | None:
        """Return the id of a state as text, or None if the state has lost its id."""

    @abstractmethod
    def check_initial(self, initial: Any) -> None:
        """Raise `FlowDefinitionError` if an `initial_state` is not valid for this flow."""

    def given_id(self, initial: Any) -> object:
        """Return the id, of any type, that a flow's initial state or its state before the first run sets; None if it sets none."""
        if not isinstance(initial, Mapping):
            return None
        return reconcile_run_ids(*[initial[name] for name in self.id_names if name in initial])

    def ids_taken(self, given: dict[str, Any]) -> list[Any]:
        """Remove the ids from the inputs, under whichever name they are passed, and return them."""
        return [given.pop(name) for name in self.id_names if name in given]

    def inputs_of(self, inputs: Any) -> StateInputs | None:
        """Return the inputs that a value other than a mapping represents, or None if it represents none."""
        return None

    @abstractmethod
    def with_id(self, state: Any, run_id: str) -> Any:
        """Set the state's id, in place, to that of another run, and return the state. Raises `InvalidRunIdError`."""

    def names_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the names of the fields that the inputs set. Raises `RunInputsError` for an unknown field."""
        return list(inputs)

    @abstractmethod
    def merged(self, base: Any, ours: Any, theirs: Any) -> Any:
        """Return the three-way merge, validated as a whole. It shares structure with `base` and `theirs`. Raises `merge.Conflict`."""


class ModelState(StateType):
    """States that are instances of a pydantic model. A model without an `id` gets one, in a subclass that is created once."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.declared = model
        self.model: type[BaseModel] = _with_id(model)
        self.annotation: Any = self.model
        annotation = self.model.model_fields["id"].annotation
        if annotation not in (str, uuid.UUID):
            raise FlowDefinitionError(
                f"{model.__name__}.id must be declared as `id: str` or `id: UUID`, or left out; it is {annotation}"
            )
        self._id: Callable[[str], Any] = uuid.UUID if annotation is uuid.UUID else str
        fields = self.model.model_fields
        aliases = {alias: name for name, field in fields.items() for alias in _aliases(field) if alias != name}
        self._names = aliases | {name: name for name in fields}
        self.id_names: tuple[str, ...] = tuple(alias for alias, name in self._names.items() if name == "id")
        paths = {first: name for name, field in fields.items() for first in _aliased_paths(field)}
        # if an alias is another field's name, values are identified by field names alone
        self._by_alias = fields.keys().isdisjoint((*aliases, *paths))
        self._paths = paths.keys() - self._names.keys() if self._by_alias else frozenset[str]()

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
        named = self._named(inputs)
        if "id" in named:  # passed under an alias: the code that extracted the id did not know the flow
            raise RunInputsError("pass the id of a run as `id`, or as run_id; nothing was run and nothing was written")
        return self._validated({**copied(values), **named, "id": self._given_id(run_id)})

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
                f"initial_state of a Flow[{name}] must be {name} itself, an instance of it, or a dict, not {_named_kind(initial)}"
            )

    def given_id(self, initial: Any) -> object:
        if isinstance(initial, BaseModel):
            return initial.__dict__.get("id") if "id" in initial.__pydantic_fields_set__ else None
        return super().given_id(initial)

    def inputs_of(self, inputs: Any) -> StateInputs | None:
        if not isinstance(inputs, self.declared):
            return None
        given, defaults = fields_of(inputs)
        return StateInputs(given, {name: value for name, value in defaults.items() if name != "id"})

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
            detail = explained(error.errors(include_url=False, include_input=False), "the state")
            raise merge.Conflict("", f"the merged state does not fit the model: {detail}") from None
        except Exception as error:  # raised by the class's own code
            detail = _own_code.describe(error, self.model, "the state")
            raise merge.Conflict("", f"the merged state does not fit the model: {detail}") from error
        return new

    def _given_id(self, run_id: str) -> Any:
        try:
            return self._id(run_id)
        except ValueError:
            raise InvalidRunIdError(
                f"{self.declared.__name__}.id must be a UUID, and the given run id is not; nothing was read or written"
            ) from None

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by field name; every field is known. Raises `RunInputsError` for a name that the model lacks."""
        unknown = [key for key in values if key not in self._names and key not in self._paths]
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
            return self.model.model_validate(values, by_name=True, by_alias=self._by_alias)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            detail, places, cause = explained(problems, "the state"), [problem["loc"] for problem in problems], None
        except Exception as error:  # raised by the class's own code
            detail, cause = _own_code.describe(error, self.model, "the state"), error
            places = [tuple(place.split(".")) for place in _own_code.places_of(error, self.model) if place]
        text = f"the inputs do not fit {self.declared.__name__}: {detail}. Nothing was run and nothing was written"
        raise RunInputsError(text, places=places) from cause


def _aliases(field: FieldInfo) -> list[str]:
    given = field.validation_alias
    choices = given.choices if isinstance(given, AliasChoices) else [given]
    return [alias for alias in (field.alias, *choices) if isinstance(alias, str)]


def _aliased_paths(field: FieldInfo) -> list[str]:
    """Return the first keys of a field's alias paths (`AliasPath`): the names under which pydantic looks for a part of a value."""
    given = field.validation_alias
    choices = given.choices if isinstance(given, AliasChoices) else [given]
    return [str(path.path[0]) for path in choices if isinstance(path, AliasPath)]


class DictState(StateType):
    """States that are dicts with string keys. The values are validated if the flow annotates them."""

    def __init__(self, values: Any = Any, merges: Mapping[str, merge.Merge] | None = None) -> None:
        self.values = values
        self.merges: Mapping[str, merge.Merge] = dict(merges or {})
        self._adapter: TypeAdapter[Any] | None = None if values is Any else TypeAdapter(values)

    def check_initial(self, initial: Any) -> None:
        if not (initial is None or initial is dict or isinstance(initial, Mapping)):
            raise FlowDefinitionError(
                f"initial_state of a flow whose state is a dict must be a dict, not {_named_kind(initial)}; for a model, declare "
                "Flow[Model], or set it on the class"
            )

    @property
    def declaration(self) -> Any:
        return dict[str, self.values]  # type: ignore[name-defined]  # the value type is known when the flow is declared

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
                f"the keys of a state must be strings, and one is a {type(odd).__name__}; nothing was written"
            )
        adapter = self._adapter
        if adapter is None:
            return dict(values)
        checked: dict[str, Any] = {}
        for key, value in values.items():
            try:
                checked[key] = value if key == "id" else adapter.validate_python(value, by_name=True, by_alias=True)
            except ValidationError as error:
                problems = error.errors(include_url=False, include_input=False)
                located: list[ErrorDetails] = [{**problem, "loc": (key, *problem["loc"])} for problem in problems]
                raise _unfit(explained(located, "the state"), [problem["loc"] for problem in located]) from None
            except Exception as error:  # raised by the class's own code
                raise _unfit(_own_code.describe(error, self.values, key), [(key,)]) from error
        return checked


def _unfit(detail: str, places: list[tuple[int | str, ...]]) -> RunInputsError:
    return RunInputsError(f"the inputs do not fit the state: {detail}. Nothing was written", places=places)


def _id_text(value: object) -> str | None:
    return value if type(value) is str else str(value) if isinstance(value, (str, uuid.UUID)) else None


def _named_kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


_WITH_ID: dict[type[BaseModel], type[BaseModel]] = {}


def _with_id(model: type[BaseModel]) -> type[BaseModel]:
    """Return the model itself if it has an `id`, else its subclass with an `id`, which is created once."""
    if "id" in model.model_fields:
        return model
    made = _WITH_ID.get(model)
    if made is None:
        made = create_model(
            model.__name__, __base__=model, __module__=model.__module__, id=(str, Field(default_factory=new_run_id))
        )
        made.__qualname__ = model.__qualname__
        setattr(made, WITHOUT_ID, model)
        made.__reduce__ = _reduce  # type: ignore[assignment,method-assign]  # pickle it as the declared model, which can be imported
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
    """Return the state type for `Flow[annotation]`. Raises `FlowDefinitionError` if the annotation cannot be a state."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if merges:
            raise FlowDefinitionError(
                "`merges` is for dict states; annotate the model's field instead: Annotated[int, merge.add]"
            )
        return ModelState(annotation)
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin is dict and (not args or args[0] is str):
        return DictState(args[1] if args else Any, merges)
    raise FlowDefinitionError(
        f"the state of a flow must be a pydantic model or a dict with string keys, not {annotation}"
    )
