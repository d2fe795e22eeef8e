"""Engines with one planted bug each. Each must be caught by the test that it names; each clause of the contract has at least one.

python tests/mutants/run.py            # all of them; or some, by a part of their names
"""

from in_children import IN_CHILDREN
from in_cli import IN_CLI
from in_events import IN_EVENTS
from in_inspector import IN_INSPECTOR
from in_items import IN_ITEMS
from in_runs import IN_RUNS
from in_steps import IN_STEPS
from in_storage import IN_STORAGE
from in_trees import IN_TREES
from in_waits import IN_WAITS
from in_web import IN_WEB
from mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *(
        *IN_CHILDREN,
        *IN_CLI,
        *IN_EVENTS,
        *IN_INSPECTOR,
        *IN_ITEMS,
        *IN_RUNS,
        *IN_STEPS,
        *IN_STORAGE,
        *IN_TREES,
        *IN_WAITS,
        *IN_WEB,
    ),
)
