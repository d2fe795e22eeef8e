"""Depth, size and digits have limits, and a value that exceeds one is reported as that."""

import sys
from typing import Any

import pytest
from awkward import NO_ANNOTATION, in_a_dict, in_a_model, nested, refusal, returned

from asyncflow import errors


@pytest.mark.clauses("V5")
@pytest.mark.parametrize("depth", [150, 250, 3_000])
@pytest.mark.parametrize("where", ["dict state", "model state", "result", "plain result"])
async def test_what_is_nested_too_deeply_is_a_limit(depth: int, where: str) -> None:
    value = nested(depth)
    trying = {
        "dict state": lambda: in_a_dict(value),
        "model state": lambda: in_a_model(Any, value),
        "result": lambda: returned(list[Any], value),
        "plain result": lambda: returned(NO_ANNOTATION, value),
    }[where]
    error = await refusal(trying())

    assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
async def test_a_value_that_contains_itself_is_a_limit() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    for trying in (in_a_dict(loop), in_a_model(Any, loop), returned(list[Any], loop), returned(NO_ANNOTATION, loop)):
        error = await refusal(trying)

        assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
async def test_what_is_too_large_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow._codec.codec.MAX_BYTES", 10_000)
    for trying in (in_a_dict("x" * 10_001), in_a_model(str, "x" * 10_001), returned(str, "x" * 10_001)):
        error = await refusal(trying)

        assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="this Python writes any number")
@pytest.mark.parametrize(
    ("trying", "told"),
    [
        (lambda: in_a_dict(10**5_000), "int at 'value'"),
        (lambda: in_a_model(int, 10**5_000), "int at 'value'"),
        (lambda: in_a_model(dict[str, list[int]], {"a": [1, 10**5_000]}), "int at 'value.a[1]'"),
        (lambda: returned(int, 10**5_000), "what make returned cannot be stored: int: "),
    ],
    ids=["in a dict", "in a model", "within", "returned"],
)
async def test_a_number_with_too_many_digits_is_a_limit_and_the_error_names_its_path(trying: Any, told: str) -> None:
    error = await refusal(trying())

    assert isinstance(error, errors.LimitExceededError)
    assert told in str(error)
    assert "more digits" in str(error)
