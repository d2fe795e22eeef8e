"""What tests of definitions share: labels, and the problems of a class."""

from typing import Any

import pytest
from driver import Api

from asyncflow._definition.build import define
from asyncflow.errors import FlowDefinitionError


def problems(cls: type, api: type = Api, **local: Any) -> tuple[str, ...]:
    with pytest.raises(FlowDefinitionError) as caught:
        define(cls, api, local)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    assert cls.__name__ in str(caught.value)
    return caught.value.problems
