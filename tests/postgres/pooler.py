"""PgBouncer, from Debian's package: one of our own for a test, on loopback, with its files in a folder of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psycopg
from server import IS_ROOT, _die_with_parent

PoolMode = Literal["session", "transaction", "statement"]
APT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
"""Nothing is asked, and the package does not start a service."""


def found() -> str | None:
    """Where the program is. Root on a Debian installs its package where it is missing."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which("pgbouncer", path=path)
    if program is None and IS_ROOT and shutil.which("apt-get"):
        _install()
        program = shutil.which("pgbouncer", path=path)
    return program


def _install() -> None:
    with open(
        Path(tempfile.gettempdir()) / "aflw-pgbouncer.lock", "w"
    ) as lock:  # test processes start at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "pgbouncer"]
        for command in (install, ["apt-get", "update", "-q"], install):
            done = subprocess.run(command, env=APT, capture_output=True)
            if command is install and done.returncode == 0:
                return


class Pooler:
    """Between clients and a server. `conninfo` reaches the server through it, with the same user and database."""

    def __init__(self, program: str, server: str, mode: PoolMode, **settings: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aflw-pooler-"))
        with psycopg.connect(server) as connection:
            info = connection.info
            database = {"host": info.host, "port": info.port, "dbname": info.dbname}
            given = {"user": info.user, "dbname": info.dbname, "password": info.password or None}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        user: dict[str, Any] = {}
        if IS_ROOT:  # which PgBouncer refuses to be
            user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        self.folder.chmod(0o755)
        users = self.folder / "users"
        users.write_text(f'"{given["user"]}" "{given["password"] or ""}"\n')
        options = {
            "pool_mode": mode,
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": users,
            "admin_users": given["user"],
            "default_pool_size": 20,
            "server_login_retry": 1,
            **settings,
        }
        path = self.folder / "pgbouncer.ini"
        with open(path, "w") as file:
            print("[databases]", file=file)
            print(f"{database['dbname']} =", *(f"{name}={value}" for name, value in database.items()), file=file)
            print("[pgbouncer]", file=file)
            for name, value in options.items():
                print(f"{name} = {value}", file=file)
        self.conninfo = psycopg.conninfo.make_conninfo("", host="127.0.0.1", port=port, sslmode="disable", **given)
        self._admin = psycopg.conninfo.make_conninfo(self.conninfo, dbname="pgbouncer")
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program, path],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                start_new_session=True,
                **user,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.tell("SHOW VERSION")
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise
                time.sleep(0.02)

    def tell(self, command: str) -> list[dict[str, Any]]:
        """A command of its administrator; what it answers."""
        connection = psycopg.connect(self._admin, autocommit=True, cursor_factory=psycopg.ClientCursor)
        try:  # not `with`: it would begin and commit a transaction, which the console does not know
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            cursor.execute(command.encode())
            return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def close(self) -> None:
        self._process.kill()  # not SIGQUIT: a process that is started in the background of a shell ignores it
        self._process.wait()
        shutil.rmtree(self.folder)


MakePooler = Callable[..., Pooler]
