"""What an error says of a value that does not fit: as much as the schema tells, and nothing of the value."""

from __future__ import annotations

import datetime
import uuid
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, Field, HttpUrl, Json, TypeAdapter, ValidationError, field_validator

from asyncflow._values.explaining import explained


class Color(Enum):
    RED = "red"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Picky(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def is_known(cls, word: str) -> str:
        raise ValueError(f"{word} is not known")


@pytest.mark.parametrize(
    ("annotation", "given", "said"),
    [
        (int, '"SECRET"', "Input should be a valid integer, unable to parse string as an integer"),
        (Annotated[str, Field(max_length=3)], '"SECRET"', "String should have at most 3 characters"),
        (Annotated[str, Field(pattern="a+")], '"SECRET"', "String should match pattern 'a+'"),
        (Literal["yes", "no"], '"SECRET"', "Input should be 'yes' or 'no'"),
        (Color, '"SECRET"', "Input should be 'red'"),
        (Annotated[datetime.date, Field(gt=datetime.date(2000, 1, 1))], '"1999-12-31"', "greater than 2000-01-01"),
        (datetime.datetime, '"SECRET"', "Input should be a valid datetime or date, input is too short"),
        (datetime.timedelta, '"SECRET"', "Input should be a valid duration, "),
        (AwareDatetime, '"2000-01-01T00:00:00"', "Input should have timezone info"),
        (HttpUrl, '"SECRET"', "Input should be a valid URL, relative URL without a base"),
        (Json[int], '"SECRET"', "Invalid JSON: expected value at line 1 column 1"),
        (dict[str, int], '{"a.b": "SECRET"}', "[...]: Input should be a valid integer"),
        (list[Cat], "[{}]", "0.kind: Field required"),
        # their messages quote the value
        (uuid.UUID, '"SECRET"', "uuid_parsing"),
        (Annotated[Cat | Dog, Field(discriminator="kind")], '{"kind": "SECRET"}', "union_tag_invalid"),
        (Picky, '{"word": "SECRET"}', "word: value_error"),
    ],
)
def test_a_fault_is_explained_without_the_value(annotation: Any, given: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(annotation).validate_json(given)

    found = explained(caught.value.errors(include_url=False, include_input=False))
    assert said in found
    assert "SECRET" not in found
    assert "`S`" not in found
