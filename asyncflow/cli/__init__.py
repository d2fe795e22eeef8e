"""The command line: `asyncflow` and `python -m asyncflow`. Needs the extra `cli`; nothing else of the package imports this folder.

Each command is a thin function over the library, in a module that is imported only when the command runs.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code: 0 done, 1 failed, 2 wrong use, 3 not found; 130 after Ctrl-C, 141 for a closed pipe.

    - `arguments`: the words after the program's name; None: those of this process.
    """
    if any(importlib.util.find_spec(name) is None for name in ("typer", "rich")):
        sys.stderr.write(
            "asyncflow: the command line needs the extra cli; in a checkout of asyncflow: pip install '.[cli]'\n"
        )
        return 2
    gc.freeze()  # what is imported stays: collections need not look at it
    try:
        from .app import run

        return run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:  # while modules are imported
        return 130
