"""The sizes of the fault tests, and what they have hit and seen: printed, and added up by `tests/faults/run.py`."""

import json
import os

FACTOR = float(os.environ.get("ASYNCFLOW_FAULTS", "1"))
"""How many times the sizes of every run."""

SEED = int(os.environ.get("ASYNCFLOW_SEED", "0"))
"""What everything random is drawn from."""


def tell(what: str, *, trials: int, faults: int, acknowledged: int = 0, lost: int = 0, **others: int) -> None:
    """What a test of the catalogue has hit and seen: `what` is its id there, such as R01."""
    counts = {"trials": trials, "faults": faults, "acknowledged": acknowledged, "lost": lost, **others}
    print(f"{what}, seed {SEED}, factor {FACTOR:g}: {counts}")
    path = os.environ.get("ASYNCFLOW_FIGURES")
    if path:
        with open(path, "a") as file:
            file.write(json.dumps({"what": what, **counts}) + "\n")
