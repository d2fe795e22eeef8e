"""Import a flow class, a runner, or a function by a text such as `shop.flows:Order` or `shop/flows.py:Order`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import redirect_stdout
from typing import Any

from ..flow import Flow
from .failures import MISUSED, Refusal, described

__all__ = ["flow_class", "loaded"]


def loaded(text: str | None, what: str = "MODULE:FLOW") -> Any:
    """Import what a text names. The current folder is on the path. Raises `Refusal`."""
    if text is None:
        raise Refusal(f"name the flow class by --app {what}, such as --app shop.flows:Order")
    place, _, name = text.rpartition(":")
    if not place or not name or (place.startswith(".") and not place.endswith(".py")):
        raise Refusal(f"{text!r} names nothing to import: write {what}, such as shop.flows:Order")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    with redirect_stdout(sys.stderr):  # what a module prints is no output of the command
        module = _module(place)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refusal(f"{place} has no {part!r}{_known(module)}") from None
        except Exception as error:  # a module's own __getattr__ may raise anything
            raise Refusal(f"{text} cannot be read: {described(error)}") from None
    return found


def _module(place: str) -> Any:
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(place):
        raise Refusal(f"{place} does not exist; check the path")
    try:
        if not is_file:
            return importlib.import_module(place)
        name = os.path.splitext(os.path.basename(place))[0]
        spec = importlib.util.spec_from_file_location(name, place)
        assert spec is not None, "a Python file has a loader"
        assert spec.loader is not None, "a Python file has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        sys.path.insert(0, os.path.dirname(os.path.abspath(place)))
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        if not is_file and error.name and (place == error.name or place.startswith(error.name + ".")):
            raise Refusal(f"there is no module {error.name!r}; start the command where it can be imported") from None
        raise Refusal(f"{place} cannot be imported: it needs the module {error.name!r}") from None
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise Refusal(f"{place} cannot be imported: {described(error)}") from None


def _known(module: Any) -> str:
    flows = [name for name, each in vars(module).items() if _is_flow(each) and each.__module__ == module.__name__]
    return f". Its flows: {', '.join(flows)}" if flows else ""


def _is_flow(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Flow) and found is not Flow


def flow_class(text: str | None) -> type[Flow[Any]]:
    """Import a flow class. Raises `Refusal`."""
    found = loaded(text)
    if not _is_flow(found):
        raise Refusal(
            f"{text} is no flow class, but {type(found).__name__}; name a class that inherits from Flow", MISUSED
        )
    made: type[Flow[Any]] = found
    return made
