"""What of a model's class has a say in what JSON says of its instances, or in what is read back.

Settings are told apart by pydantic's documentation. One that is not known here, such as one of a later pydantic, interferes.
"""

from __future__ import annotations

import sys
import types
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import ModelPrivateAttr

__all__ = ["is_read_by_code", "is_written_by_code"]

HARMLESS: Final = frozenset(
    {
        # how the class, its schema and its errors are made
        *("title", "model_title_generator", "field_title_generator", "use_attribute_docstrings", "ignored_types"),
        *("json_schema_extra", "json_schema_mode_override", "json_schema_serialization_defaults_required"),
        *("protected_namespaces", "defer_build", "hide_input_in_errors", "loc_by_alias", "validation_error_cause"),
        # what is done with Python's objects, and with what is assigned: nothing is read from them here
        *("frozen", "validate_assignment", "arbitrary_types_allowed", "from_attributes", "revalidate_instances"),
        # names: the codec says itself that they are the fields' own
        *("alias_generator", "populate_by_name", "validate_by_name", "validate_by_alias", "serialize_by_alias"),
        # what is missing or too much: every field is written, and what there is besides is looked at
        *("extra", "validate_default"),
        # values that no plan lets pass: no numbers (inf, nan), bytes, time spans, URLs, what has a pattern, subclasses
        *("allow_inf_nan", "ser_json_inf_nan", "ser_json_bytes", "val_json_bytes", "ser_json_timedelta"),
        *("url_preserve_empty_path", "regex_engine", "polymorphic_serialization"),
        # conversions that JSON needs none of: strict reading takes from it what it wrote; it writes no times as numbers
        *("strict", "val_temporal_unit"),
        *("cache_strings", "validate_return"),
    }
)
"""Settings under which the types that have a plan are written and read as without."""


READING: Final = frozenset(
    {
        *("str_to_lower", "str_to_upper", "str_strip_whitespace", "str_min_length", "str_max_length"),
        *("coerce_numbers_to_str", "plugin_settings"),
    }
)
"""Settings that change what is read, or refuse it, and nothing of what is written."""


def is_written_by_code(model: type[BaseModel]) -> bool:
    """Whether serializers, or settings, have a say in what is written, so that its types may not tell what JSON says."""
    own = model.__pydantic_decorators__
    own_schema = model.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a bound classmethod
    return bool(
        own.field_serializers or own.model_serializers or own_schema or set(model.model_config) - HARMLESS - READING
    )


def is_read_by_code(model: type[BaseModel]) -> bool:
    """Whether validators, settings or constructors have a say in what is read."""
    own = model.__pydantic_decorators__
    validators = own.validators or own.field_validators or own.root_validators or own.model_validators
    return bool(validators or not READING.isdisjoint(model.model_config) or _makes_itself(model))


def _makes_itself(model: type[BaseModel]) -> bool:
    """Whether code that is not pydantic's runs where an instance is made: `__init__`, `model_post_init`, or a private factory."""
    if not _is_pydantics(model.model_post_init) or model.__pydantic_custom_init__:
        return True
    return not all(map(_is_made_by_python, model.__private_attributes__.values()))


def _is_made_by_python(private: ModelPrivateAttr) -> bool:
    """Whether a private attribute begins as its default, or as what something of the standard library makes of nothing.

    Another factory may raise, or reach into the fields.
    """
    factory = private.default_factory
    if factory is None:
        return True
    if not isinstance(factory, _PLAIN) or getattr(private, "default_factory_takes_validated_data", False):
        return False
    return str(factory.__module__).partition(".")[0] in sys.stdlib_module_names


_PLAIN: Final = (type, types.FunctionType, types.BuiltinFunctionType)


class _WithPrivate(BaseModel):
    _attribute: int = 0


class _WithMore(_WithPrivate):
    _another: int = 0


_MAKERS: Final = (BaseModel.model_post_init, _WithPrivate.model_post_init)
"""Nobody's hook, and the one by which pydantic itself makes private attributes: they are no part of what is saved."""

_AROUND: Final = _WithMore.model_post_init.__code__
"""Of the hook that does so, and then calls that of a base class."""


def _is_pydantics(hook: Any) -> bool:
    while getattr(hook, "__code__", None) is _AROUND:
        hook = hook.__wrapped__
    return hook in _MAKERS
