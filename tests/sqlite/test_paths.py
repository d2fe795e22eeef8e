"""How a SQLite storage is named, and which storage is the default one."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, errors, persist, start


class Hello(Flow[dict[str, Any]]):
    @start()
    async def hello(self) -> str:
        return "hello"


@persist
class Kept(Hello): ...


@pytest.mark.found("B14")
async def test_a_relative_path_is_that_of_the_folder_in_which_the_storage_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SQLiteFlowPersistence("rel.db")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    flow = Hello(persistence=storage)
    await flow.kickoff()
    with pytest.raises(errors.RunNotFoundError) as caught:
        await Hello.load("unknown", persistence=storage)

    assert storage.path == tmp_path / "rel.db"
    assert str(tmp_path / "rel.db") in repr(storage)
    assert str(tmp_path / "rel.db") in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "rel.db"]


@pytest.mark.found("B14")
@pytest.mark.parametrize("path", ["runs.db", b"runs.db", Path("runs.db")], ids=["text", "bytes", "Path"])
async def test_a_path_is_a_text_bytes_or_a_path(path: Any, tmp_path: Path) -> None:
    assert SQLiteFlowPersistence(path).path == tmp_path / "runs.db"


@pytest.mark.found("B14")
@pytest.mark.parametrize("path", [7, 1.5, object(), ["runs.db"]], ids=lambda path: type(path).__name__)
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match=f"must be a str, bytes or Path, not {type(path).__name__}"):
        SQLiteFlowPersistence(path)


@pytest.mark.found("B14")
@pytest.mark.parametrize("path", ["~/runs.db", Path("~") / "runs.db", b"~/runs.db"], ids=["text", "Path", "bytes"])
def test_a_tilde_is_the_home_folder(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert SQLiteFlowPersistence(path).path == tmp_path / "home" / "runs.db"


@pytest.mark.found("B14")
def test_the_home_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(ValueError, match=r"put '\./' before it"):
        SQLiteFlowPersistence("~nobody-of-this-name/runs.db")


@pytest.mark.found("B14", "T6")
@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("postgresql://user:secret@host/db", "PostgresFlowPersistence"),
        ("postgres://user:secret@host/db", "PostgresFlowPersistence"),
        (Path("postgresql://user:secret@host/db"), "PostgresFlowPersistence"),
        ("sqlite:///runs.db", "write the path alone"),
        ("mysql+aio://user:secret@host/db", "write the path alone"),
        ("file:runs.db?mode=ro", "write the path alone"),
        ("file::memory:", "write the path alone"),
        (":memory:", "MemoryFlowPersistence"),
        ("a\0b", "a NUL character"),
    ],
    ids=str,
)
def test_what_names_no_file_is_refused_when_the_storage_is_made(path: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=advice) as caught:
        SQLiteFlowPersistence(path)

    assert "secret" not in str(caught.value)
    assert os.listdir() == []


@pytest.mark.found("C4")
async def test_a_storage_without_a_path_is_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SQLiteFlowPersistence().path == tmp_path / "asyncflow.db"
    monkeypatch.setenv("ASYNCFLOW_DB", "other.db")
    assert SQLiteFlowPersistence().path == tmp_path / "other.db"

    flow = Kept()
    await flow.kickoff()

    assert await SQLiteFlowPersistence().load(flow.run_id) is not None


@pytest.mark.found("T6")
@pytest.mark.parametrize(
    ("named", "advice"),
    [
        (":memory:", "MemoryFlowPersistence"),
        ("sqlite:///runs.db", "write the path alone"),
        ("file:runs.db", "the path"),
    ],
)
async def test_a_variable_that_names_no_storage_is_refused_before_anything_runs(
    named: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCFLOW_DB", named)
    with pytest.raises(ValueError, match=advice) as caught:
        await Kept().kickoff()
    with pytest.raises(ValueError, match=advice):
        FlowRunner(flows=[Kept])

    assert "$ASYNCFLOW_DB" in str(caught.value)
    assert os.listdir() == []


@pytest.mark.found("T6")
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_a_variable_with_a_postgres_url_is_a_postgres_storage(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCFLOW_DB", f"{scheme}://user:secret@127.0.0.1:1/db")
    with pytest.raises(errors.StorageNotFoundError, match="cannot be reached") as caught:
        await Kept().kickoff()

    assert "secret" not in str(caught.value)
    assert os.listdir() == []


@pytest.mark.found("T6")
async def test_a_postgres_url_without_the_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCFLOW_DB", "postgresql://user:secret@other.invalid/db")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith("asyncflow.persistence.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install '\.\[postgres\]'"):
        await Kept().kickoff()

    assert os.listdir() == []


@pytest.mark.found("A1")
async def test_a_storage_in_memory_says_what_it_is() -> None:
    storage = MemoryFlowPersistence()
    await Hello(persistence=storage).kickoff()

    assert repr(storage) == "<MemoryFlowPersistence, runs: 1>"
