"""The long forms of the fault tests, part by part: `python tests/faults/run.py`, or `python3 noxfile.py -s faults`.

A part is one test of the catalogue, run with one seed after the other until its count is reached. What is done is kept in
`.nox/faults.json`, so that the next call continues there; with `--table` the table is printed, and nothing is run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".nox" / "faults.json"


@dataclass(frozen=True)
class Part:
    """So many trials of a test. `factor`: the size of one call of it, in sizes of every run."""

    id: str
    fault: str
    trials: int
    test: str
    factor: float = 1


PARTS = (
    Part("R01", "SIGKILL at random moments", 10_000, "faults/test_killed.py -k random", 3),
    Part("R02", "SIGKILL at every storage call of 20 flows", 2_000, "faults/test_killed.py -k storage_call", 7),
    Part("R03", "power cuts", 200_000, "faults/test_power_loss.py -k takes", 5),
    Part("R05", "an I/O error at every call of 5 flows", 2_000, "faults/test_io_errors.py", 10),
    Part("R09", "schedules, on asyncio and trio", 1_200_000, "faults/test_schedules.py -k model", 5),
    Part("R11", "rules against a model", 20_000, "faults/test_machine.py", 5),
    Part("R12", "16 processes that want the same runs", 20_000, "faults/test_owners.py -k sixteen", 5),
    Part("R13", "the same on PostgreSQL, killed", 5_000, "postgres/test_processes.py"),
    Part("R14", "owners stopped past their leases", 500, "faults/test_owners.py -k stopped", 5),
    Part("R16", "PostgreSQL stopped and started again", 500, "postgres/test_restarts.py", 10),
    Part("R17", "connections to PostgreSQL cut", 5_000, "postgres/test_cuts.py", 10),
    Part("R19", "bits flipped in the database", 100_000, "faults/test_bit_rot.py", 5),
    Part("R20", "hostile rows", 200_000, "faults/test_hostile_rows.py", 10),
    Part("R22", "values there and back", 100_000, "codec/test_round_trips.py", 10),
    Part("R23", "a lock held for up to 10 s; 16 processes", 10, "faults/test_busy.py", 10),
    Part("R27", "servers killed and left by their clients", 500, "web/test_servers.py", 5),
    Part("R33", "the approval service, killed while runs are parked", 200, "web/test_approval_service.py", 50),
    Part("R35", "the document service, killed among its documents", 200, "web/test_document_service.py -k killed", 25),
    Part(
        "R34",
        "runs that are tried again, killed; a runner drove half of them",
        80,
        "faults/test_killed_attempts.py",
        33.34,
    ),
    Part("R36", "parents, children and grandchildren, killed", 200, "faults/test_killed_children.py", 20),
    Part("R37", "the order saga, killed among its children", 200, "web/test_order_saga_killed.py", 5),
    Part("R28", "10,000 runs for ten minutes, killed now and then", 10_000, "faults/test_soak.py", 10),
    Part("R26", "leaving", 12, "faults/test_leaving.py"),
)


def kept() -> dict[str, Counter[str]]:
    """What is done, by the part's id."""
    stored = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return {part.id: Counter(stored.get(part.id, {})) for part in PARTS}


def run(part: Part, done: Counter[str], processes: int) -> Counter[str]:
    """One call of a part's test, with the next seed; what it adds. Raises `CalledProcessError`."""
    seed = done["calls"]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="asyncflow-faults-") as folder:
        figures = Path(folder, "figures")
        file, *chosen = part.test.split()
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{file}", *chosen]
        env = {
            **os.environ,
            "ASYNCFLOW_FAULTS": f"{part.factor:g}",
            "ASYNCFLOW_SEED": str(seed),
            "ASYNCFLOW_FIGURES": str(figures),
        }
        subprocess.run([*command, "-n", str(processes)], cwd=ROOT, env=env, check=True)
        added = Counter[str](calls=1, seconds=round(time.monotonic() - began))
        for line in figures.read_text().splitlines():
            counts = json.loads(line)
            if counts.pop("what") == part.id:
                added.update(counts)
    return added


def table(done: dict[str, Counter[str]]) -> str:
    """What was reached, as Markdown."""
    head = "| | fault | trials | of | faults hit | acknowledged | lost | wrong | run again | minutes |"
    lines = [head, f"|{' --- |' * 10}"]
    for part in PARTS:
        d = done[part.id]
        cells = (part.id, part.fault, d["trials"], part.trials, d["faults"], d["acknowledged"], d["lost"], d["wrong"])
        told = " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
        lines.append(f"| {told} | {d['again']:,} | {d['seconds'] / 60:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="such as R01; all of them, unless given")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after so many")
    parser.add_argument("--processes", type=int, default=2, help="how many run side by side")
    parser.add_argument("--table", action="store_true", help="print the table alone")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    done = kept()
    chosen = [part for part in PARTS if not options.parts or part.id in options.parts]
    while not options.table and time.monotonic() < until:
        left = [part for part in chosen if done[part.id]["trials"] < part.trials]
        if not left:
            break
        part = min(left, key=lambda part: done[part.id]["trials"] / part.trials)
        try:
            done[part.id] += run(part, done[part.id], options.processes)
        except subprocess.CalledProcessError:
            print(
                f"{part.id} has failed, with ASYNCFLOW_SEED={done[part.id]['calls']} ASYNCFLOW_FAULTS={part.factor:g}"
            )
            return 1
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(done, indent=1) + "\n")
        print(table(done), flush=True)
    print(table(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
