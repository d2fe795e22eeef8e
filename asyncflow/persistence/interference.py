"""What of a model's class has a say in what JSON says of its instances, or in what is read back.

Settings are told apart by pydantic's documentation. One that is not known here, such as one of a later pydantic, interferes.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

__all__ = ["interferes"]

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


def interferes(model: type[BaseModel]) -> bool:
    """Whether validators, serializers, settings or constructors have a say."""
    decorators = model.__pydantic_decorators__
    hooks = (
        *(decorators.validators, decorators.field_validators, decorators.root_validators, decorators.model_validators),
        *(decorators.field_serializers, decorators.model_serializers),
    )
    own_schema = model.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a bound classmethod
    own_making = model.model_post_init is not BaseModel.model_post_init or model.__pydantic_custom_init__
    return bool(any(hooks) or set(model.model_config) - HARMLESS or own_schema or own_making)
