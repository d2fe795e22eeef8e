"""Which Chromium is here, for the session `e2e` of noxfile.py. As root on Debian, it is installed if it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["find_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of Chromium; None if it is not here and cannot be installed."""
    return _found() or (_found() if _installed() else None)


def _found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _installed() -> bool:
    """Install Debian's package, as root on Debian. Return whether it succeeded."""
    if os.name != "posix" or os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        return False
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"])
    return all(subprocess.run(["apt-get", *c], env=env).returncode == 0 for c in commands)
