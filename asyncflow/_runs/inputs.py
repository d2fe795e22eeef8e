"""The inputs of a pass. They are stored with it, so that the same line of code is recognized when it runs again."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import chain
from operator import attrgetter
from typing import Any, Final

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr
from pydantic_core import PydanticSerializationError, from_json, to_json

from .._values.copying import ATOMS
from ..errors import RunInputsError
from ..state import StateInputs, StateType

__all__ = ["JsonInputs", "inputs_bytes", "inputs_match", "inputs_shown", "materialized"]


class JsonInputs(dict[str, Any]):
    """Inputs as JSON, such as a request body. They are validated as pydantic validates JSON, so that dates may be strings."""


def materialized(inputs: Any, state_type: Callable[[], StateType]) -> dict[str, Any]:
    """Return inputs that can be read more than once: replace generators and built-in iterators, which yield their items once, by lists.

    `state_type` returns the flow's state type. It is called if the inputs are no mapping: they may be a state. Raises `RunInputsError`
    for all else.
    """
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        return _of_state(inputs, state_type())
    if isinstance(inputs, JsonInputs | StateInputs):
        return copy.copy(inputs)
    return {name: list(value) if _is_spent(value) else value for name, value in inputs.items()}


def _of_state(inputs: Any, state_type: StateType) -> dict[str, Any]:
    fields = state_type.inputs_of(inputs)
    if fields is None:
        what = (
            f"the class {inputs.__name__}" if isinstance(inputs, type) else f"a value of type {type(inputs).__name__}"
        )
        model = getattr(state_type, "declared", None)
        or_model = "" if model is None else f", or a {model.__name__}"
        raise RunInputsError(
            f"inputs must be a dict that sets fields of the state{or_model}, not {what}. Nothing was run and nothing was written"
        )
    return fields


def _is_spent(value: Any) -> bool:
    return isinstance(value, Iterator) and type(value).__module__ == "builtins"


def inputs_bytes(inputs: Mapping[str, Any], write: Callable[[Any], bytes] | None = None) -> bytes:
    """Encode inputs in a form that can be compared and shown. They are never decoded to values.

    Members of a set are sorted, because the order of a set differs from process to process. Secrets are all masked alike. A digest
    of them distinguishes them; its key is the mask itself. Arrays and tables also get a digest, as their texts omit most items.
    """
    write = write or _written
    known = {name: inputs[name] for name in sorted(inputs)}
    try:
        data = write(known)
    except PydanticSerializationError:
        return to_json({name: _ascii(value) for name, value in known.items()})
    has_sets, secrets = _special(known.values())
    if not has_sets and not secrets:
        return data
    try:
        tree = _ordered(from_json(data), known) if has_sets else from_json(data)
        return write({**tree, MASKED: _digest(secrets, _sorted(write(tree)))} if secrets else tree)
    except (ValueError, RecursionError):
        return data  # nested too deeply to parse: compare the bytes as written


def inputs_shown(stored: bytes | None) -> Mapping[str, Any]:
    """Return the output of `inputs_bytes` as JSON, or as one text if Python cannot parse it, such as a number of 5,000 digits."""
    try:
        # `json`, because the inputs may be nested deeper than pydantic parses.
        shown: Mapping[str, Any] = json.loads(stored or b"{}")
    except (ValueError, RecursionError):
        return {"inputs": (stored or b"").decode("utf-8", "replace")}
    return shown


def inputs_match(stored: bytes | None, inputs: Mapping[str, Any]) -> bool:
    """Whether these inputs equal the stored ones, in whatever order dicts list their items."""
    if stored is None:
        return False
    return _are_same(inputs_bytes(inputs), stored) or _are_same(inputs_bytes(inputs, _written_by_0_1), stored)


def _are_same(data: bytes, stored: bytes) -> bool:
    return data == stored or (len(data) == len(stored) and _sorted(data) == _sorted(stored))


def _sorted(data: bytes) -> Any:
    """Parse JSON and sort the keys of each object. Numbers keep their spelling, and a duplicate key stays duplicate."""
    return json.loads(data, object_pairs_hook=_in_order, parse_int=_number, parse_float=_number)


def _in_order(pairs: list[tuple[str, Any]]) -> Any:
    return ("object", sorted(pairs, key=lambda pair: (pair[0], repr(pair[1]))))


def _number(spelt: str) -> Any:
    return ("number", spelt)


# ---- values that another process writes differently, or not at all -------------------------------------------------------

MASKED: Final = "**********"
ROUNDS: Final = 20_000
"""Rounds of the digest of secrets, about 10 ms: they make it slow to find short secrets by brute force."""

_SECRETS = (SecretStr, SecretBytes, Secret)
_LISTS = (list, tuple, deque, Set)
_dict_of = attrgetter("__dict__")


def _special(values: Iterable[Any]) -> tuple[bool, list[Any]]:
    """Return whether the values contain sets, and the secrets in them. Visit a value that contains itself only once."""
    level, seen = list(values), set[int]()
    has_sets, secrets = False, list[Any]()
    while level:
        kinds = dict.fromkeys(kind for kind in map(type, level) if kind not in ATOMS)
        holders: dict[Any, list[Any]] = {
            kind: [each for each in level if type(each) is kind and id(each) not in seen] for kind in kinds
        }
        for kind, found in holders.items():
            has_sets = has_sets or issubclass(kind, Set)
            secrets += [each.get_secret_value() for each in found] if issubclass(kind, _SECRETS) else []
        seen.update(chain.from_iterable(map(id, found) for kind, found in holders.items() if kind not in _SECRETS))
        level = list(chain.from_iterable(_members(kind, found) for kind, found in holders.items()))
    return has_sets, secrets


def _digest(secrets: list[Any], salt: Any) -> str:
    """Return one digest of all secrets, salted with the values that are stored next to them."""
    joined = b"".join(
        each if isinstance(each, bytes) else repr(each).encode("utf-8", "surrogatepass") + b"\0" for each in secrets
    )
    return hashlib.pbkdf2_hmac("sha256", joined, repr(salt).encode("utf-8", "surrogatepass"), ROUNDS, 16).hex()


def _members(kind: type, values: list[Any]) -> Iterable[Any]:
    """Return the members of all these values of one kind at once, as there may be thousands."""
    if issubclass(kind, _LISTS):
        return chain.from_iterable(values)
    fields = map(_dict_of, values) if issubclass(kind, BaseModel) else values if kind is dict else map(_fields, values)
    members = chain.from_iterable(each.values() for each in fields)
    is_open = issubclass(kind, BaseModel) and kind.model_config.get("extra") == "allow"
    return chain(members, *((value.__pydantic_extra__ or {}).values() for value in values)) if is_open else members


def _fields(value: Any) -> Mapping[Any, Any]:
    """Return the fields of a dict, a model or a dataclass by name; {} for any other value."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.__dict__
    has_fields = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)} if has_fields else {}


def _ordered(tree: Any, value: Any) -> Any:
    """Return the JSON form of a value with the members of its sets sorted."""
    if isinstance(value, RootModel):
        return _ordered(tree, value.root)
    if isinstance(value, _LISTS):
        if not isinstance(tree, list) or len(tree) != len(value):
            return tree
        members = list(map(_ordered, tree, value))
        return sorted(members, key=_written) if isinstance(value, Set) else members
    return _with_fields(tree, value) if isinstance(tree, dict) else tree


def _with_fields(tree: dict[str, Any], value: Any) -> dict[str, Any]:
    """Sort the sets in the fields of a value. Match fields by name or, if all of them were written, by position."""
    fields = _fields(value)
    names = fields.keys() if fields.keys() <= tree.keys() else tree.keys() if len(tree) == len(fields) else ()
    return {**tree, **{name: _ordered(tree[name], item) for name, item in zip(names, fields.values(), strict=False)}}


def _ascii(value: Any) -> str:
    """Return the text of a value that JSON cannot encode; of one whose own code raises, or that is nested too deeply, its type's name."""
    try:
        return ascii(value)
    except Exception:  # a foreign __repr__ may raise anything
        return f"<{type(value).__name__}>"


def _written(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="strings", bytes_mode="hex", fallback=_foreign_text)


def _written_by_0_1(value: Any) -> bytes:
    """Encode a value as asyncflow 0.1 did, without the digests that distinguish arrays."""
    return to_json(value, inf_nan_mode="strings", bytes_mode="hex", serialize_unknown=True)


def _foreign_text(value: Any) -> str:
    """Return the text of a value that JSON cannot encode. For an array or a table, add a digest of its content."""
    try:
        text = str(value)
    except Exception:  # a foreign __str__ may raise anything
        text = f"<{type(value).__name__}>"
    content = getattr(value, "tolist", None) or getattr(value, "to_dict", None)
    if not callable(content) or not isinstance(getattr(value, "shape", None), tuple):
        return text
    try:
        form = [str(getattr(value, name, "")) for name in ("shape", "dtype", "dtypes", "name", "index")]
        data = _written_by_0_1([form, content()])
    except Exception:  # a foreign class may raise anything: use its text alone
        return text
    return f"{text} {hashlib.blake2b(data, digest_size=16).hexdigest()}"
