"""What tests of the SQLite storage observe."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from database import Seen


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            self.set_trace_callback(None)
            with contextlib.suppress(sqlite3.Error):
                names = (
                    "synchronous",
                    "journal_mode",
                    "foreign_keys",
                    "trusted_schema",
                    "cell_size_check",
                    "busy_timeout",
                )
                found.settings.append({name: self.execute(f"PRAGMA {name}").fetchone()[0] for name in names})
            super().close()

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **{"factory": Watched, **options})
        connection.set_trace_callback(found.statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    return found
