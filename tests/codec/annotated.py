"""Types, and a way through the codec for a value of one."""

import dataclasses
import datetime as dt
import decimal
import enum
import typing
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict

from asyncflow._codec.codec import Codec
from asyncflow._codec.state_codecs import state_codec_for
from asyncflow._values.copying import difference
from asyncflow.state import state_type_of

D = decimal.Decimal
T = typing.TypeVar("T")
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "red"


class Row(BaseModel):
    when: dt.datetime
    tags: set[int] = set()


@dataclasses.dataclass
class Point:
    x: D


def kept(codec: Codec, value: Any) -> bytes:
    """The bytes of a value that is kept by them."""
    data, _ = codec.encode(value)
    assert difference(value, codec.decode(data)) is None
    return data


def state_codec(annotation: Any) -> Codec:
    return state_codec_for(state_type_of(annotation, {}))


class Inner(BaseModel):
    any: Any = None


class Typed(TypedDict, total=False):
    any: Any
    metadata: dict[str, Any]
