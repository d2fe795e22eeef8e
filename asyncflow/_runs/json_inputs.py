"""Inputs that came as JSON, for example over HTTP: validated once, by the state's own model, as pydantic validates JSON.

So a strict model accepts a date as text. Names are those that the model accepts, nested ones too. A validator that must not run
twice, such as one that decodes, runs once. Values that the flow's initial state sets stay as they are and are not validated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, NoReturn

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from .._values import own_code as _own_code
from .._values.copying import copied
from .._values.explaining import explained, is_valueless
from ..errors import RunInputsError
from ..state import DictState, ModelState, StateType
from .inputs import JsonInputs

__all__ = ["JsonInputsError", "named", "state_from_json", "values_of"]


class JsonInputsError(RunInputsError):
    """Raised if `JsonInputs` do not fit. `found`: type, location and message of each error, without values of the inputs."""

    def __init__(self, message: str, *, found: list[dict[str, Any]], **where: Any) -> None:
        super().__init__(message, places=[fault["loc"] for fault in found], **where)
        self.found = found


def state_from_json(types: StateType, initial: Any, given: JsonInputs, run_id: str) -> Any:
    """Make a new state from the flow's initial state and JSON inputs. Raises `JsonInputsError`."""
    if isinstance(types, ModelState):
        return _model_from(types, initial, given, run_id)
    return _dict_from(types, types.create(initial, {}, run_id), given)


def named(types: StateType, given: JsonInputs) -> dict[str, Any]:
    """Return JSON inputs keyed by the names of the state's fields, as far as these are found: the model itself knows more spellings."""
    try:
        names = types.names_of(given)
    except RunInputsError:
        return dict(given)
    return dict(zip(names, given.values(), strict=True))


def values_of(state: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the values that a state has under these names."""
    values = state if isinstance(state, dict) else {**state.__dict__, **(state.__pydantic_extra__ or {})}
    return {name: values[name] for name in names if name in values}


# ---- models ----------------------------------------------------------------------------------------------------------

_existing: ContextVar[Mapping[str, Any]] = ContextVar("_existing")
"""The values that exist before the inputs are applied, by field: the id, and what the initial state sets."""


def _model_from(types: ModelState, initial: Any, given: JsonInputs, run_id: str) -> Any:
    old = types.create(initial, {}, run_id) if isinstance(initial, BaseModel) else None
    existing = _set_by(types, initial) if old is None else {**old.__dict__, **(old.__pydantic_extra__ or {})}
    existing["id"] = types._given_id(run_id)
    names = types.model.model_fields.keys()
    reader = _json_reader(types.model, frozenset(existing).intersection(names))
    if reader is None:
        return types.create(initial, dict(given), run_id)
    token = _existing.set(existing)
    try:
        made: Any = reader.model_validate_json(to_json(given))
    except ValidationError as error:
        _refuse(types.declared.__name__, error.errors(include_url=False, include_input=False))
    except Exception as error:  # raised by the class's own code
        _refuse(types.declared.__name__, _raised(error, types.model, ()))
    finally:
        _existing.reset(token)
    extra = {name: value for name, value in existing.items() if name not in names} | (made.__pydantic_extra__ or {})
    new, put = types.model.__new__(types.model), object.__setattr__
    put(new, "__dict__", {name: made.__dict__[name] for name in names})
    put(new, "__pydantic_fields_set__", {*made.__pydantic_fields_set__, *existing})
    put(new, "__pydantic_extra__", None if made.__pydantic_extra__ is None else extra)
    put(new, "__pydantic_private__", (made if old is None else old).__pydantic_private__)
    return new


def _set_by(types: ModelState, initial: Any) -> dict[str, Any]:
    """Return the values that an initial state sets, by field, if it is a dict."""
    if not isinstance(initial, Mapping):
        return {}
    return dict(zip(types.names_of(initial), copied(list(initial.values())), strict=True))


@lru_cache(maxsize=1024)
def _json_reader(model: Any, existing: frozenset[str]) -> Any:
    """Return a subclass of the model that takes JSON: existing values are the defaults of their fields, and unknown names are refused.

    Return None for a model that cannot be subclassed.
    """
    fields: dict[str, Any] = {
        name: (model.model_fields[name].annotation, _default_of(model, name)) for name in existing
    }
    extra = "allow" if model.model_config.get("extra") == "allow" else "forbid"
    how: dict[str, Any] = {"__base__": model, "__module__": model.__module__, "__cls_kwargs__": {"extra": extra}}
    try:
        return create_model(f"{model.__name__}Json", **how, **fields)
    except Exception:  # the class forbids subclasses: validate its inputs as Python values
        return None


def _default_of(model: Any, name: str) -> Any:
    """Return a field of the model with its existing value as the default.

    The field's metadata is set once; otherwise its validators would run twice.
    """
    field: FieldInfo = model.model_fields[name]
    how: dict[str, Any] = {"default_factory": partial(_existing_value, name)}
    if name == "id":  # it has no alias, and its default is validated
        how["validate_default"] = True
    else:
        how |= {"alias": field.alias, "alias_priority": field.alias_priority}
        how |= {"validation_alias": field.validation_alias, "discriminator": field.discriminator}
    made: Any = Field(**how)
    made.metadata = list(field.metadata)
    return made


def _existing_value(name: str) -> Any:
    return _existing.get()[name]


# ---- dicts -----------------------------------------------------------------------------------------------------------


def _dict_from(types: StateType, state: dict[str, Any], given: JsonInputs) -> dict[str, Any]:
    adapter = types._adapter if isinstance(types, DictState) else None
    if adapter is None:
        return {**state, **given, "id": state["id"]}
    checked, found = dict[str, Any](), list[Any]()
    for key, value in given.items():
        try:
            checked[key] = adapter.validate_json(to_json(value))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            found += [{**fault, "loc": (key, *fault["loc"])} for fault in faults]
        except Exception as error:  # raised by the class's own code
            found += _raised(error, types.values if isinstance(types, DictState) else Any, (key,))
    if found:
        _refuse("the state", found)
    return {**state, **checked, "id": state["id"]}


# ---- errors -----------------------------------------------------------------------------------------------


def _raised(error: Exception, annotation: Any, at: tuple[str, ...]) -> list[Any]:
    """Return an exception from the class's own code as errors of the fields that it concerns."""
    kind = f"its own code raised {type(error).__name__}"
    places = _own_code.places_of(error, annotation) or ("",)
    return [{"type": kind, "loc": (*at, *filter(None, place.split("."))), "msg": kind} for place in places]


def _refuse(what: str, faults: list[Any]) -> NoReturn:
    raise JsonInputsError(
        f"the inputs do not fit {what}: {explained(faults, 'the state')}. Nothing was run and nothing was written",
        found=[
            {
                "type": fault["type"],
                "loc": tuple(fault["loc"]),
                "msg": fault["msg"]
                if is_valueless(fault)
                else f"the inputs do not fit {what}: {explained([fault], 'the state')}",
            }
            for fault in faults
        ],
    )
