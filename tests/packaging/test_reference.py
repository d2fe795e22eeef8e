"""The page of the public names is what the code says, and says something of each name, parameter, field and attribute."""

from __future__ import annotations

import builtins
import re

import reference

import asyncflow.errors


def test_the_reference_is_what_the_code_says() -> None:
    written = reference.PAGE.read_text(encoding="utf-8")

    assert written == reference.page(), f"write it again: {reference.COMMAND}"


def test_every_public_name_parameter_and_field_is_described() -> None:
    assert reference.undocumented() == []


def test_a_docstring_describes_no_parameter_that_the_call_does_not_have() -> None:
    more = [
        f"{call.path}({each.name})"
        for name in reference.public()
        for call in reference.calls(name)
        for each in call.more
    ]

    assert sorted(more) == ["asyncflow.Flow(formerly)", "asyncflow.Flow(merges)"]  # attributes of the class


def test_the_errors_that_docstrings_name_exist() -> None:
    page = reference.PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+Error)`", page)) | set(re.findall(r"`([A-Z]\w+Error)`s", page))
    known = {*asyncflow.errors.__all__, "ConformanceError", "JsonInputsError", *vars(builtins)}

    assert len(named) > 40
    assert named - known == set()


def test_a_docstring_is_read_as_a_text_and_a_list() -> None:
    doc = reference.Doc.parsed("Do it.\n\n- `a`: one,\n  and more.\n- `**b`: two.\n\nRaises `ValueError`.")

    assert doc.items == {"a": "one, and more.", "b": "two."}
    assert doc.text == "Do it.\n\nRaises `ValueError`."
