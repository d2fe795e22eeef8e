"""Which Pythons are there: for noxfile.py, which tests on each of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
BASE = f"{sys.version_info.major}.{sys.version_info.minor}"
ASKED = "import sys; print('%d.%d' % sys.version_info[:2])"


def find_python(version: str) -> tuple[Path | None, list[Path]]:
    """Where a Python is, and the programs of its name that do not start one.

    pyenv puts a program of each name on PATH, which says "command not found" unless its version is chosen. So what is found is
    asked, and the versions of pyenv and uv are looked through as well.
    """
    mute: list[Path] = []
    for folder in dict.fromkeys(_folders(version)):
        program = folder / f"python{version}"
        if program.is_file() and os.access(program, os.X_OK):
            said = subprocess.run([program, "-c", ASKED], capture_output=True, text=True, check=False).stdout
            if said.strip() == version:
                return program, mute
            mute.append(program)
    return None, mute


def _folders(version: str) -> Iterable[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local" / "share" / "uv" / "python"))
    yield from (Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder)
    for root, name in ((pyenv / "versions", f"{version}.*"), (uv, f"cpython-{version}.*")):
        releases = [place for place in root.glob(name) if re.search(r"\d\.\d+\.\d+(-|$)", place.name)]  # not 3.13.0t
        yield from (
            place / "bin"
            for place in sorted(releases, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)[:3]], reverse=True)
        )
    yield from map(Path, ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"))


def link_pythons(links: Path) -> tuple[list[str], dict[str, list[Path]]]:
    """The other supported versions that are found, each linked where PATH has it first; and those that are not.

    Of these, what has their name and does not start.
    """
    found: list[str] = []
    missing: dict[str, list[Path]] = {}
    for version in SUPPORTED:
        if version == BASE:
            continue
        program, mute = (None, []) if os.name == "nt" else find_python(version)
        link = links / f"python{version}"
        if program is None:
            missing[version] = mute
            link.unlink(missing_ok=True)
            continue
        found.append(version)
        if program != link:
            links.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    os.environ["PATH"] = os.pathsep.join((str(links), os.environ.get("PATH", os.defpath)))
    return found, missing
