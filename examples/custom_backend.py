"""A custom backend: a class that saves and loads. This one keeps a folder with one file for each run.

A file is replaced atomically, so a crash leaves either the old checkpoint or the new one. Such a backend does not prevent two
processes from executing one run at the same time; the capability `Ownership` does.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import anyio.to_thread
from pydantic import Field

from asyncflow import Flow, FlowState, MethodError, listen, start
from asyncflow.errors import StaleCheckpoint
from asyncflow.persistence import Checkpoint


class FolderPersistence:
    """Stores the newest checkpoint of each run in a file."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    async def save(self, checkpoint: Checkpoint) -> None:
        await anyio.to_thread.run_sync(self._write, checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        newest = await anyio.to_thread.run_sync(self._read, run_id)
        return newest if newest is not None and seq in (None, newest.seq) else None

    def _write(self, checkpoint: Checkpoint) -> None:
        newest = self._read(checkpoint.run_id)
        if checkpoint.seq != (0 if newest is None else newest.seq + 1):
            raise StaleCheckpoint(
                f"checkpoint {checkpoint.seq} does not follow the stored checkpoint", seq=checkpoint.seq
            )
        path = self._path(checkpoint.run_id)
        with open(path.with_suffix(".new"), "wb") as file:
            file.write(checkpoint.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power cut may undo the rename
        finally:
            os.close(folder)

    def _read(self, run_id: str) -> Checkpoint | None:
        path = self._path(run_id)
        return Checkpoint.from_bytes(path.read_bytes()) if path.exists() else None

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{hashlib.sha256(run_id.encode()).hexdigest()}.run"  # an id may contain any character


class Draft(FlowState):
    words: list[str] = Field(default_factory=list)


class Write(Flow[Draft]):
    def __init__(self, folder: str, *, printer_works: bool = True) -> None:
        super().__init__(persistence=FolderPersistence(folder))
        self.printer_works = printer_works

    @start()
    async def think(self) -> None:
        print("thinking")
        self.state.words += ["to", "be"]

    @listen(think)
    async def publish(self) -> str:
        if not self.printer_works:
            raise ConnectionError("the printer does not respond")
        return " ".join(self.state.words)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        flow = Write(folder, printer_works=False)
        try:
            await flow.kickoff()
        except MethodError as error:
            print(f"{error.failures[0].method} failed: {error.__cause__}")

        print("resumed:", await Write.resume(flow.run_id, folder=folder))  # `think` is not run again


if __name__ == "__main__":
    anyio.run(main)
