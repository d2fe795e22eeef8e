"""`inspector`: it gives the storage and the classes to the inspector, serves it on this machine only, and says what it needs."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from commands import FLOWS, Cli, Order

NAME = "asyncflow.integrations.inspector"


@pytest.mark.parametrize("option", [(), ("--actions",)])
def test_the_inspector_is_served_on_this_machine(
    cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    made: list[Any] = []
    served: list[Any] = []
    stub: Any = ModuleType(NAME)
    stub.inspector = lambda storage, **given: made.append((storage.read_only, given))
    monkeypatch.setitem(sys.modules, NAME, stub)

    async def serve() -> None:
        pass

    server = SimpleNamespace(
        Config=lambda app, **given: served.append(given), Server=lambda config: SimpleNamespace(serve=serve)
    )
    monkeypatch.setitem(sys.modules, "uvicorn", server)  # type: ignore[arg-type]
    monkeypatch.setattr("asyncflow.cli.serving._is_installed", lambda name: True)

    done = cli("inspector", f"{FLOWS}:Order", "--port", 8700, "--db", db, *option)

    assert done.code == 0
    assert made == [(not option, {"flows": [Order], "actions": bool(option)})]
    assert (served[0]["host"], served[0]["port"]) == ("127.0.0.1", 8700)
    assert "http://127.0.0.1:8700/" in done.err


@pytest.mark.parametrize("missing", ["inspector", "uvicorn"])
def test_what_the_inspector_needs_is_one_line(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)  # type: ignore[arg-type]
    monkeypatch.setattr("asyncflow.cli.serving._is_installed", lambda name: name != missing)

    done = cli("inspector", "--db", db)

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "pip install" in done.err
