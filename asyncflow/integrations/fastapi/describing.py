"""Builds the types that describe one flow's inputs and outputs in the OpenAPI schema, from its state and its results.

They validate nothing: the state's own model does that, once. A part that cannot be described is described as `Any`, and a log
message names it: it must not break the schema of the whole service.
"""

import copy
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Union, get_origin

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    TypeAdapter,
    create_model,
)
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaMode

from ...runner import FlowInfo
from .models import Run

__all__ = ["body_type", "comes_from", "ids_of", "inputs_type", "run_type"]

logger: Final = logging.getLogger("asyncflow")

_NO_JSON: Final = ("CallableSchema", "IsInstanceSchema", "IsSubclassSchema")
"""The names in pydantic's errors for fields that no JSON can set. Such a field is left out of the schema unless it is required."""


def run_type(flow: FlowInfo) -> type[Run]:
    """Return the `Run` model of this flow."""
    results = [_documented(annotation, f"what {flow.name} returns") for annotation in flow.results]
    result: Any = Any if not results or Any in results else Union[(*results, None)]
    fields: dict[str, Any] = {
        "flow": (Literal[flow.name], ...),
        "state": (_state_type(flow), ...),
        "result": (result, Field(None, description="The result of a finished run.")),
    }
    return create_model(f"{_identifier(flow.name)}Run", __base__=Run, __doc__=f"A run of {flow.name}.", **fields)


class _WithId:
    """Annotates a dict in a schema: it contains the run's id, whatever else it contains."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {**schema, "properties": {"id": {"type": "string"}}, "required": ["id"]}


def _state_type(flow: FlowInfo) -> Any:
    documented = _documented(flow.state, f"the state of {flow.name}")
    return Annotated[documented, _WithId()] if get_origin(documented) is dict else documented


def body_type(flow: FlowInfo) -> tuple[Any, bool]:
    """Return the type of the body of a request that starts a run, and whether a body is required.

    The type is described as the flow's inputs, and accepts any value unchanged.
    """
    inputs, are_needed = inputs_type(flow)
    described = inputs if are_needed else inputs | None
    return Annotated[Any, PlainValidator(_as_it_is, json_schema_input_type=described)], are_needed


def ids_of(flow: FlowInfo) -> frozenset[str]:
    """Return the names that inputs may use for a run's id."""
    return frozenset({"id", *(alias for alias in _aliases(flow, "id") if isinstance(alias, str))})


def _aliases(flow: FlowInfo, name: str) -> list[str | AliasPath]:
    """Return the aliases that inputs may use for a field."""
    field = getattr(flow.state, "model_fields", {}).get(name)
    aliases: list[Any] = [] if field is None else [field.alias, field.validation_alias]
    for alias in tuple(aliases):
        aliases += alias.choices if isinstance(alias, AliasChoices) else ()
    return [alias for alias in aliases if isinstance(alias, str | AliasPath)]


def comes_from(flow: FlowInfo, path: str, given: Mapping[str, Any]) -> bool:
    """Whether a part of the state comes from a run's inputs, and not from the flow itself. An empty path is the whole state."""
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    aliases = (alias if isinstance(alias, str) else alias.path[0] for alias in _aliases(flow, name))
    return any(key in given for key in (name, *aliases)) if name else bool(given)


def inputs_type(flow: FlowInfo) -> tuple[Any, bool]:
    """Return the type of the inputs that start a run of this flow, and whether any are required: its state without the id."""
    model = flow.state
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        documented = _documented(model, f"the state of {flow.name}", "validation")
        return (dict[str, Any] if documented is Any else documented), False
    config = ConfigDict(**{**model.model_config, "extra": "forbid"})
    if model.model_config.get("extra") == "allow":
        config["extra"] = "allow"
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        described = None if name == "id" else _input_field(flow, name, field, config)
        if described is not None:
            fields[name] = described
    made = create_model(
        f"{_identifier(flow.name)}Inputs", __config__=config, __doc__=flow.description or None, **fields
    )
    return made, any(field.is_required() for field in made.model_fields.values())


def _input_field(flow: FlowInfo, name: str, field: FieldInfo, config: ConfigDict) -> Any:
    """Return a field of the inputs as `create_model` accepts it; None if it need not and cannot be given as JSON.

    A field that must be given, but whose type has no JSON schema, accepts any JSON. That is logged.
    """
    is_preset = name in flow.preset
    if not field.is_required() and not _can_be_given(field.annotation):
        return None
    described: Any = _field(field, is_preset)
    problem = _problem_of(create_model("Described", __config__=config, **{name: described}), "validation")
    if problem is None:
        return described
    needed = field.is_required() and not is_preset
    if not needed and any(kind in str(problem) for kind in _NO_JSON):
        return None
    _warn(f"the field {name} of {flow.name}", problem)
    return Any, Field(alias=field.alias) if needed else Field(None, alias=field.alias)


def _field(field: FieldInfo, is_preset: bool) -> tuple[Any, FieldInfo]:
    """Return a field as `create_model` accepts it. Pass its description only once: parts of it cannot be passed twice."""
    given = copy.copy(field)
    if is_preset:  # it is not required, and its preset value is not shown
        names = ("alias", "alias_priority", "validation_alias", "title", "description", "examples", "discriminator")
        given = Field(default_factory=_preset, **{name: getattr(field, name) for name in names})
    given.metadata = list(field.metadata)
    return field.annotation, given


def _preset() -> Any:
    """Placeholder for a value that the flow's initial state sets."""
    return None


def _as_it_is(value: Any) -> Any:
    return value


def _can_be_given(annotation: Any) -> bool:
    """Whether any JSON can set it: not for a class that pydantic does not know."""
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return False
    except Exception:  # it may name something that is defined elsewhere; the model can resolve it
        return True
    return True


def _documented(annotation: Any, where: str, mode: JsonSchemaMode = "serialization") -> Any:
    """Return the type, or `Any` if it has no schema."""
    problem = _problem_of(annotation, mode)
    if problem is None:
        return annotation
    _warn(where, problem)
    return Any


def _problem_of(annotation: Any, mode: JsonSchemaMode) -> Exception | None:
    """Return the error that prevents the schema of a type; None if it has one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are shown when the schema itself is built
            TypeAdapter(annotation).json_schema(mode=mode)
    except Exception as error:  # any exception of a user's type
        return error
    return None


def _warn(where: str, problem: Exception) -> None:
    logger.warning("no JSON schema: %s, so /docs shows it as any value: %s", where, str(problem).partition("\n")[0])


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
