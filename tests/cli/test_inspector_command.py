"""`inspector`: it gives the storage and the classes to the inspector, serves it on this machine only, and says what it needs."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from commands import FLOWS, Cli

from asyncflow.integrations.inspector.site import Site

NAME = "asyncflow.integrations.inspector.serving"


@pytest.mark.parametrize("option", [(), ("--actions",)])
def test_the_inspector_is_served_on_this_machine(
    cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    served: list[Any] = []

    async def serve(site: Site, host: str, port: int, on_ready: Any) -> None:
        served.append((getattr(site.storage, "read_only", None), site.flows, site.may_act, host, port))
        on_ready(f"http://{host}:{port}/")

    monkeypatch.setattr(f"{NAME}.serve_site", serve)

    done = cli("inspector", f"{FLOWS}:Order", "--port", 8700, "--db", db, *option)

    assert done.code == 0
    assert served == [(not option, ["Order"], bool(option), "127.0.0.1", 8700)]
    assert "http://127.0.0.1:8700/" in done.err


@pytest.mark.parametrize("missing", ["inspector", "uvicorn"])
def test_what_the_inspector_needs_is_one_line(cli: Cli, db: str, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)  # type: ignore[arg-type]
    monkeypatch.setattr("asyncflow.cli.serving._is_installed", lambda name: name != missing)

    done = cli("inspector", "--db", db)

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "pip install" in done.err


def test_a_port_in_use_is_one_line(cli: Cli, db: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("inspector", "--db", db, "--port", taken.getsockname()[1])

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "cannot be used: Address already in use" in done.err
