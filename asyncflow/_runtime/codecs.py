"""Encode and decode the values of one flow: its states and the results of its methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Signature
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from .._codec.codec import Codec, Misfit, Refused, codec_for, plain_codec
from .._codec.plain_models import is_read_plainly
from .._codec.state_codecs import state_codec_for
from .._definition.definition import FlowDefinition
from ..errors import (
    CheckpointCorruptError,
    FlowDefinitionError,
    LimitExceededError,
    NotStorableError,
    ResultNotStorableError,
    StateNotStorableError,
    StateSchemaError,
)
from ..persistence.checkpoint import UNREADABLE
from ..state import DictState, StateType

__all__ = ["Codecs", "not_storable"]


class Codecs:
    """Encodes and decodes the states and results of one flow. Made once per class."""

    def __init__(self, definition: FlowDefinition, state_type: StateType) -> None:
        self.definition = definition
        self.state: Codec = state_codec_for(state_type)
        self.may_be_lent: bool = not isinstance(state_type, DictState) or is_read_plainly(state_type.values)
        self._results: dict[str, Codec] = {}
        self._payloads: dict[str, TypeAdapter[Any]] = {}
        for name in definition.signals:
            self._check_payload(name)

    def result(self, method: str) -> Codec:
        """Return the codec of a method's result, by its return annotation, or of a signal's payload, by its declared type.

        Of a method with `each`, `method` stands for the list of results, and `method[]` for the result of an item.
        """
        codec = self._results.get(method)
        if codec is None:
            codec = self._results[method] = self._codec_of(method)
        return codec

    def payload(self, signal: str) -> TypeAdapter[Any]:
        """Return what validates the payload of a signal, if it comes as JSON."""
        known = self._payloads.get(signal)
        if known is None:
            known = self._payloads[signal] = TypeAdapter(self.definition.signals[signal].payload)
        return known

    def _check_payload(self, signal: str) -> None:
        """Raise `FlowDefinitionError` if the payload of a signal is declared as no type."""
        try:
            self.payload(signal)
        except PydanticSchemaGenerationError:
            declared = self.definition.signals[signal].payload
            raise FlowDefinitionError(
                f"the signal {signal} of {self.definition.name} declares the payload {declared!r}, which is no type that pydantic knows",
                problems=["a payload that is no type"],
            ) from None
        except PydanticUserError:  # it is not completely defined yet
            self._payloads.pop(signal, None)

    def _codec_of(self, name: str) -> Codec:
        if name in self.definition.signals:
            return codec_for(self.definition.signals[name].payload)
        method = self.definition.methods.get(name.removesuffix("[]"))
        if method is None:
            return plain_codec
        is_list = method.each and name == method.name
        return codec_for(list[method.returns] if is_list and method.returns is not Signature.empty else method.returns)  # type: ignore[name-defined]

    def encode_state(self, state: Any, run_id: str, method: str | None = None) -> tuple[bytes, Any]:
        """Encode a state. Return its bytes, and the state as it will load. Raises `StateNotStorableError`, `LimitExceededError`."""
        try:
            return self.state.encode(state)
        except Refused as refused:
            raise not_storable(StateNotStorableError, "the state", refused, run_id, method) from None

    def encode_result(self, value: Any, run_id: str, method: str) -> tuple[bytes, Any]:
        """Encode a result. Return its bytes, and the result as it will load. Raises `ResultNotStorableError`, `LimitExceededError`."""
        try:
            return self.result(method).encode(value)
        except Refused as refused:
            if (known := self.definition.methods.get(method)) is not None and known.is_unresolved:
                refused.cure = f"import what the return annotation of {method} names outside of `if TYPE_CHECKING`"
            raise not_storable(
                ResultNotStorableError, f"what {method.removesuffix('[]')} returned", refused, run_id, method
            ) from None

    def decode_result(self, data: bytes, run_id: str, method: str) -> Any:
        """Decode a stored result.

        Raises `StateSchemaError` if the method's return type has changed since, and `CheckpointCorruptError` if the bytes are unreadable.
        """
        is_signal = method in self.definition.signals
        what, of, annotation = ("payload", "", "type") if is_signal else ("result", "return ", "annotation")
        name = method.removesuffix("[]")
        try:
            return self.result(method).decode(data)
        except Misfit as misfit:
            raise StateSchemaError(
                f"the stored {what} of {name} was written under a {of}{annotation} that {name} no longer has. Nothing was "
                f"changed; keep the {annotation} until no such run has to be resumed or loaded"
                if misfit.is_gone
                else f"the stored {what} of {name} does not fit its {of}{annotation}: {misfit.detail}. Nothing was "
                f"changed; let the {annotation} accept both, then resume",
                paths=misfit.paths,
                run_id=run_id,
                method=name,
            ) from misfit.__cause__
        except UNREADABLE as error:
            raise CheckpointCorruptError(
                f"the stored {what} of {name} cannot be read ({type(error).__name__}). Nothing was changed; load an older seq, "
                "or restore the storage from a backup",
                run_id=run_id,
                method=name,
            ) from error

    def gathered(self, results: Sequence[bytes], run_id: str, method: str) -> list[Any]:
        """Decode the results of all items of a method with `each`. Raises as `decode_result` does."""
        marks = {result[:1] for result in results}
        if (
            len(marks) == 1
        ):  # all were written in the same way, and so is the list of them: one call instead of thousands
            whole: list[Any] = self.decode_result(
                b"%b[%b]" % (*marks, b",".join([result[1:] for result in results])), run_id, method
            )
            return whole
        return [self.decode_result(result, run_id, f"{method}[]") for result in results]


def not_storable(
    kind: Callable[..., NotStorableError], what: str, refused: Refused, run_id: str, method: str | None
) -> NotStorableError | LimitExceededError:
    """Return the error for a value that was refused: of this kind, unless a limit is exceeded. `what`: what cannot be stored."""
    where = f" at '{refused.path}'" if refused.path else ""
    text = f"{what} cannot be stored: {refused.type_name or 'the value'}{where}: {refused.reason}. Nothing was saved; {refused.cure}"
    if refused.limit:
        return LimitExceededError(text, run_id=run_id, method=method)
    return kind(
        text,
        path=refused.path,
        type_name=refused.type_name,
        reason=refused.reason,
        cure=refused.cure,
        run_id=run_id,
        method=method,
    )
