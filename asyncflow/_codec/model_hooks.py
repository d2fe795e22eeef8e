"""Whether a model's class affects the JSON that is written for its instances, or what is read back.

Settings are classified by pydantic's documentation. A setting that is unknown here, such as one of a later pydantic, interferes.
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
        # how the class, its schema and its errors are created
        *("title", "model_title_generator", "field_title_generator", "use_attribute_docstrings", "ignored_types"),
        *("json_schema_extra", "json_schema_mode_override", "json_schema_serialization_defaults_required"),
        *("protected_namespaces", "defer_build", "hide_input_in_errors", "loc_by_alias", "validation_error_cause"),
        # how Python objects and assigned values are treated: nothing is read from them here
        *("frozen", "validate_assignment", "arbitrary_types_allowed", "from_attributes", "revalidate_instances"),
        # names: the codec itself requests the fields' own names
        *("alias_generator", "populate_by_name", "validate_by_name", "validate_by_alias", "serialize_by_alias"),
        # missing and extra values: every field is written, and extra values are checked
        *("extra", "validate_default"),
        # values that no plan accepts: inf and nan, bytes, timedeltas, URLs, strings with a pattern, subclasses
        *("allow_inf_nan", "ser_json_inf_nan", "ser_json_bytes", "val_json_bytes", "ser_json_timedelta"),
        *("url_preserve_empty_path", "regex_engine", "polymorphic_serialization"),
        # conversions that JSON does not need: strict reading accepts what was written; no times are written as numbers
        *("strict", "val_temporal_unit"),
        *("cache_strings", "validate_return"),
    }
)
"""Settings that do not change how the types that have a plan are written and read."""


READING: Final = frozenset(
    {
        *("str_to_lower", "str_to_upper", "str_strip_whitespace", "str_min_length", "str_max_length"),
        *("coerce_numbers_to_str", "plugin_settings"),
    }
)
"""Settings that change or refuse the value that is read, and do not affect writing."""


def is_written_by_code(model: type[BaseModel]) -> bool:
    """Whether serializers or settings affect what is written, so that the types may not determine the JSON."""
    own = model.__pydantic_decorators__
    own_schema = model.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a bound classmethod
    return bool(
        own.field_serializers or own.model_serializers or own_schema or set(model.model_config) - HARMLESS - READING
    )


def is_read_by_code(model: type[BaseModel]) -> bool:
    """Whether validators, settings or constructors affect what is read."""
    own = model.__pydantic_decorators__
    validators = own.validators or own.field_validators or own.root_validators or own.model_validators
    return bool(validators or not READING.isdisjoint(model.model_config) or _makes_itself(model))


def _makes_itself(model: type[BaseModel]) -> bool:
    """Whether code that is not pydantic's runs when an instance is created: `__init__`, `model_post_init`, or a private factory."""
    if not _is_pydantics(model.model_post_init) or getattr(
        model, "__pydantic_custom_init__", True
    ):  # BaseModel itself has none
        return True
    return not all(map(_is_made_by_python, model.__private_attributes__.values()))


def _is_made_by_python(private: ModelPrivateAttr) -> bool:
    """Whether a private attribute starts as its default, or as what a standard-library factory returns without arguments.

    Another factory may raise, or access the fields.
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
"""The hook that does nothing, and the one by which pydantic itself creates private attributes, which are not saved."""

_AROUND: Final = _WithMore.model_post_init.__code__
"""The code of pydantic's hook that creates private attributes, and then calls the hook of a base class."""


def _is_pydantics(hook: Any) -> bool:
    while getattr(hook, "__code__", None) is _AROUND:
        hook = hook.__wrapped__
    return hook in _MAKERS
