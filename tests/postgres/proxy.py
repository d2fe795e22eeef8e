"""A loopback proxy that cuts the next exchange after it is armed, at a given place."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Literal, get_args

import psycopg

Place = Literal["before the request", "in the request", "late", "after the request", "before the reply", "in the reply"]
"""Late: the client is cut off at once, and the request delivered a while later."""

PLACES: tuple[Place, ...] = get_args(Place)
Held = Literal["held"]
"""The same, and delivered when `deliver` is called."""
LATE = 0.05


class Proxy:
    def __init__(self, conninfo: str) -> None:
        with psycopg.connect(conninfo) as connection:
            info = connection.info
            unix = info.host.startswith("/")
            self._server: object = f"{info.host}/.s.PGSQL.{info.port}" if unix else (info.host, info.port)
            self._family = socket.AF_UNIX if unix else socket.AF_INET
            given = {"user": info.user, "dbname": info.dbname, "password": info.password or None}
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.conninfo = psycopg.conninfo.make_conninfo(
            "", host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable", **given
        )
        self._armed: Place | Held | None = None
        self._skip = 0
        self._held: list[tuple[socket.socket, bytes]] = []
        self._turn = threading.Lock()
        self.cuts = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def arm(self, place: Place, after: int = 0) -> None:
        """Cut the next exchange that a client begins, or one after so many."""
        self._armed, self._skip = place, after

    def disarm(self) -> None:
        self._armed = None

    def hold(self) -> None:
        """Hold the next request back, and cut its client off."""
        self._armed = "held"

    def deliver(self) -> None:
        """Deliver what is held, and wait until the server has answered, and has hung up."""
        for server, data in self._held:
            server.settimeout(30)
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            while server.recv(1 << 20):
                pass

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(10)
        _cut(*self._sockets)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(self._family)
                server.connect(self._server)
                self._sockets += (client, server)
                replies: list[Place] = []
                for pump in (self._requests, self._replies):
                    self._threads.append(threading.Thread(target=pump, args=(client, server, replies)))
                    self._threads[-1].start()

    def _requests(self, client: socket.socket, server: socket.socket, replies: list[Place]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                with self._turn:
                    if self._armed is not None and self._skip:
                        self._skip -= 1
                        place = None
                    else:
                        place, self._armed = self._armed, None
                    self.cuts += place is not None
                match place:
                    case "before the request":
                        break
                    case "in the request":
                        server.sendall(data[: len(data) // 2])
                        break
                    case "held":
                        self._held.append((server.dup(), data))
                        self._sockets.append(self._held[-1][0])
                        _cut(client)
                        return
                    case "late":
                        _cut(client)
                        time.sleep(LATE)
                        server.sendall(data)
                        time.sleep(LATE)
                        break
                    case "after the request":
                        server.sendall(data)
                        break
                    case "before the reply" | "in the reply":
                        replies.append(place)
                server.sendall(data)
        _cut(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, replies: list[Place]) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if replies:
                    client.sendall(b"" if replies[0] == "before the reply" else data[: len(data) - 5])
                    break
                client.sendall(data)
        _cut(client, server)


def _cut(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
