"""Planted bugs in the storage of child runs."""

from mutant import Mutant

TREES, SQLITE, POSTGRES = "persistence/_database/trees.py", "sqlite/test_trees.py", "postgres/test_postgres_trees.py"

IN_TREES = (
    Mutant(
        "a run that is over gets a child",
        ("K1",),
        "persistence/_database/inboxes.py",
        '        if head is None or head.status in ("finished", "cancelled"):\n            raise parent_ended',
        "        if head is None:\n            raise parent_ended",
        f"{SQLITE}::test_a_run_that_is_over_gets_no_child",
    ),
    Mutant(
        "a parent is looked at without its lock",
        ("K1",),
        "persistence/postgres/rows.py",
        "ORDER BY run_id FOR UPDATE",
        "ORDER BY run_id",
        f"{POSTGRES}::test_a_child_waits_for_the_end_of_its_parent",
    ),
    Mutant(
        "a tree is pruned although one of its runs is driven",
        ("K2",),
        TREES,
        "            free[owner] = await self._verdict(owner) is Verdict.FREE\n",
        "            free[owner] = True\n",
        f"{SQLITE}::test_trees_are_pruned_in_batches",
    ),
    Mutant(
        "children are pruned without their parents",
        ("K2",),
        TREES,
        'ROOT: Final = "(parent IS NULL OR ',
        'ROOT: Final = "(1 = 1 OR ',
        f"{SQLITE}::test_trees_are_pruned_in_batches",
    ),
    Mutant(
        "a run is deleted without its descendants",
        ("K2",),
        TREES,
        "            if job.is_done and below:\n",
        "            if False:\n",
        f"{SQLITE}::test_wide_trees_are_listed_and_deleted",
    ),
    Mutant(
        "a run is deleted whose parent was changed",
        ("K3",),
        TREES,
        "        check_parent_digest(stored[0], parent, digest, self._key)\n",
        "",
        f"{SQLITE}::test_a_run_whose_parent_was_changed_is_not_deleted",
    ),
    Mutant(
        "the parent that the first checkpoint names is not compared",
        ("K3",),
        "persistence/children.py",
        "    if parent_named_in(progress) != parent:\n",
        "    if False:\n",
        f"{SQLITE}::test_a_changed_parent_is_found",
    ),
    Mutant(
        "a child whose parent is over is not found",
        ("K4",),
        "persistence/_database/listing.py",
        "p.run_id = runs.parent AND p.{_LIVES})",
        "p.run_id = runs.parent)",
        f"{SQLITE}::test_children_that_outlive_their_parents_are_found",
    ),
)
