"""What goes in and comes out, as types: made from each flow's state and results, so that the schema of the service is right."""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, create_model
from pydantic.errors import PydanticUserError

from ...errors import StateSchemaError
from ...persistence import Checkpoint, RunEntry
from ...runner import KnownFlow, RunHandle, RunView
from .as_json import json_of

__all__ = ["Accepted", "Problem", "Ready", "Run", "RunLine", "RunPage", "Status", "given", "inputs_type", "run_type"]

logger = logging.getLogger("asyncflow")

Status = Literal["running", "failed", "finished", "cancelled"]


class Accepted(BaseModel):
    """A run that is stored, and goes on by itself."""

    run_id: str
    status: Status


class Problem(BaseModel):
    """Why a request was not served."""

    detail: str


class Ready(BaseModel):
    """The service takes runs."""

    status: Literal["ready"] = "ready"


class RunFailure(BaseModel):
    """What a run failed with."""

    method: str
    type: str
    message: str


class RunLine(BaseModel):
    """A run among others."""

    run_id: str
    flow: str
    status: Status
    number: int = Field(serialization_alias="pass", description="One for each time that it was kicked off, from 1.")
    seq: int = Field(description="Of its newest checkpoint.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, entry: RunEntry) -> "RunLine":
        """The line of a catalog's entry."""
        told = {name: getattr(entry, name) for name in ("run_id", "flow", "status", "number", "seq")}
        return cls(**told, created_at=_time(entry.created_at), updated_at=_time(entry.updated_at))


class RunPage(BaseModel):
    """Some runs, the newest first. `next`: the cursor of those that follow."""

    runs: list[RunLine]
    next: str | None = None


class Run(BaseModel):
    """A run as it is stored."""

    run_id: str
    flow: str
    status: Status = Field(
        description="`running` is also what a run is that was interrupted, until a process takes it up."
    )
    number: int = Field(serialization_alias="pass", description="One for each time that it was kicked off, from 1.")
    seq: int = Field(description="Of its newest checkpoint.")
    updated_at: datetime
    state: Any
    result: Any = Field(None, description="Of a finished run.")
    error: RunFailure | None = Field(None, description="Of a failed run.")
    problem: str | None = Field(
        None,
        description="Only where state or result do not fit the flow's types any more: they are shown as stored then.",
    )

    @classmethod
    def shown(cls, handle: RunHandle, stored: Checkpoint) -> "Run":
        """A run as of a checkpoint. What does not fit the flow's types any more is shown as it is stored."""
        try:
            return cls.of(handle.view(stored))
        except StateSchemaError as error:
            logger.warning("a run is shown as it is stored: %s", error)
            return cls.of(
                handle.view(stored, as_stored=True),
                "state and result are shown as they are stored: they do not fit the types of the flow any more",
            )

    @classmethod
    def of(cls, view: RunView, problem: str | None = None) -> "Run":
        """What is told of a run."""
        told = {name: getattr(view, name) for name in ("run_id", "flow", "status", "number", "seq", "state", "result")}
        error = view.error and RunFailure(method=view.error.method, type=view.error.type, message=view.error.message)
        return cls.model_construct(
            **told, updated_at=_time(view.at), error=error, problem=problem
        )  # values as they are: no copies of them

    def to_json(self) -> bytes:
        """Its JSON, whatever its values are."""
        left_out = {"state", "result"} if self.problem else {"state", "result", "problem"}
        told = self.__pydantic_serializer__.to_json(self, by_alias=True, exclude=left_out)
        return b'%b,"state":%b,"result":%b}' % (told[:-1], json_of(self.state), json_of(self.result))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# ---- of one flow -------------------------------------------------------------------------------------------------


def run_type(flow: KnownFlow) -> type[Run]:
    """`Run` of this flow. For the schema: what is answered is not validated again."""
    results = [_documented(annotation) for annotation in flow.results]
    result: Any = Any if not results or Any in results else Union[(*results, None)]
    fields: dict[str, Any] = {
        "flow": (Literal[flow.name], ...),
        "state": (_state_type(flow), ...),
        "result": (result, Field(None, description="Of a finished run.")),
    }
    return create_model(f"{_identifier(flow.name)}Run", __base__=Run, __doc__=f"A run of {flow.name}.", **fields)


class _WithId:
    """Of a dict, in a schema: that it holds the run's id, whatever else it holds."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {**schema, "properties": {"id": {"type": "string"}}, "required": ["id"]}


def _state_type(flow: KnownFlow) -> Any:
    documented = _documented(flow.state)
    return Annotated[documented, _WithId()] if get_origin(documented) is dict else documented


def inputs_type(flow: KnownFlow) -> tuple[Any, bool]:
    """What starts a run of this flow, as a type, and whether there must be any: its state without the id."""
    model = flow.state
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return model, False
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name != "id" and (
            field.is_required() or _documented(field.annotation) is not Any or field.annotation is Any
        ):
            preset = Field(default_factory=_preset) if name in flow.preset else field
            fields[name] = (Annotated[field.annotation, field], preset)
    may_have_more = model.model_config.get("extra") == "allow"
    config = ConfigDict(**{**model.model_config, "extra": "allow" if may_have_more else "forbid"})
    made = create_model(
        f"{_identifier(flow.name)}Inputs", __config__=config, __doc__=flow.description or None, **fields
    )
    return made, any(field.is_required() for field in made.model_fields.values())


def given(inputs: Any) -> dict[str, Any]:
    """The inputs that a request has set."""
    if inputs is None or isinstance(inputs, Mapping):
        return dict(inputs or {})
    values = {**inputs.__dict__, **(inputs.__pydantic_extra__ or {})}
    return {name: values[name] for name in inputs.model_fields_set}


def _preset() -> Any:
    """Stands for what the flow's initial state sets; never used, for only what is given is passed on."""
    return None


def _documented(annotation: Any) -> Any:
    """The type, or Any where it has no schema: one such field must not take the schema of the whole service with it."""
    try:
        TypeAdapter(annotation).json_schema(mode="serialization")
    except (PydanticUserError, TypeError, NameError):
        return Any
    return annotation


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
