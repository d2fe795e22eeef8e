#!/usr/bin/env bash
# pydantic_core.from_json(data, allow_inf_nan=False) refuses NaN and Infinity, and lets 1e999 through as inf: whoever wants finite numbers
# alone has to look through what was read. Versions 2.33.0 (pydantic 2.11.0) and 2.41.1 (pydantic 2.12.0).
# Seen: "Infinity: ValueError", and then "1e999: inf".
# Also: to_json({1: "a", "1": "b"}) writes one name twice, {"1":"a","1":"b"}, of which parsers keep one.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/program.py" <<'PY'
from pydantic_core import from_json, to_json

try:
    raise SystemExit(f"read: {from_json(b'Infinity', allow_inf_nan=False)}")
except ValueError as error:
    print(f"Infinity: {type(error).__name__}")
print(f"1e999: {from_json(b'1e999', allow_inf_nan=False)}")
print(to_json({1: "a", "1": "b"}).decode())
PY
for version in 2.11.0 2.12.0; do
    "$folder/venv/bin/pip" install --quiet "pydantic==$version"
    "$folder/venv/bin/python" "$folder/program.py" | tee "$folder/log"
    grep -q "^1e999: inf$" "$folder/log"
    grep -q '^{"1":"a","1":"b"}$' "$folder/log"
done
echo "as described"
