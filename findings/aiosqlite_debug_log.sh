#!/usr/bin/env bash
# aiosqlite 0.22.1 logs, at DEBUG, every call with its arguments: the values that a statement binds stand in the log in clear text as
# soon as an application sets the root logger to DEBUG. There is no setting for it but the level of the logger "aiosqlite".
# Seen: "executing functools.partial(<built-in method execute ...>, 'INSERT INTO t VALUES (?)', ['a private value'])".
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiosqlite==0.22.1
cd "$folder"
cat > program.py <<'PY'
import asyncio
import logging

import aiosqlite

logging.basicConfig(level=logging.DEBUG)


async def main() -> None:
    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (value TEXT)")
        await connection.execute("INSERT INTO t VALUES (?)", ["a private value"])


asyncio.run(main())
PY
venv/bin/python program.py 2> log
grep "DEBUG:aiosqlite:executing .*INSERT INTO t VALUES.*a private value" log
echo "as described"
