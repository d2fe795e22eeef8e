"""Run each mutant against its test, in a copy of the package: `python tests/mutants/run.py [PART OF A NAME ...]`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SECONDS = 180
"""A test that takes longer hangs: unharmed, each takes a few."""


def planted(mutant: Mutant, folder: Path) -> None:
    """A copy of the package in the folder, with the bug in it."""
    shutil.copytree(ROOT / "asyncflow", folder / "asyncflow", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "asyncflow" / mutant.file
    file.write_text(file.read_text().replace(mutant.find, mutant.plant))


def tested(mutant: Mutant) -> tuple[bool, str]:
    """Whether its test has failed, or hangs; and what it said."""
    with tempfile.TemporaryDirectory(prefix="asyncflow-mutant-") as name:
        planted(mutant, Path(name))
        paths = f"pythonpath={name} . tests/scheduling tests/faults"  # the copy first, before the package next to the benchmarks
        options = ("-q", "-x", "-p", "no:cacheprovider", "-o", paths)
        command = (sys.executable, "-P", "-m", "pytest", *options, f"tests/{mutant.test}")
        env = {**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return True, "it hangs"
        return done.returncode == 1 and " failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def main() -> int:
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(part in m.name for part in sys.argv[1:])]
    survived = 0
    for mutant in chosen:
        is_caught, said = tested(mutant)
        survived += not is_caught
        told = "caught" if is_caught else f"SURVIVED\n{said}"
        print(f"{', '.join(mutant.clauses):8} {mutant.name}: {told}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
