#!/usr/bin/env bash
# Hypercorn 0.18.0 exits with 0 when the application's lifespan fails at startup: a supervisor takes that for a clean end, and does
# not start it again. (uvicorn 0.40.0 exits with 3 for the same application.)
# Seen: Hypercorn prints "LifespanFailureError: Lifespan failure in startup. 'no database'" and exits with 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hypercorn==0.18.0 uvicorn==0.40.0
cd "$folder"
cat > program.py <<'PY'
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
PY
code=0
venv/bin/hypercorn --bind 127.0.0.1:0 program:app > log 2>&1 || code=$?
cat log
echo "Hypercorn exits with $code"
test "$code" = 0
code=0
venv/bin/uvicorn --host 127.0.0.1 --port 0 program:app > log 2>&1 || code=$?
echo "uvicorn exits with $code"
test "$code" = 3
echo "as described"
