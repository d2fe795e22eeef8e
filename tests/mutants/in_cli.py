"""Planted bugs in the command line, in storages that are read only, and in exports."""

from mutant import Mutant

IN_CLI = (
    Mutant(
        "a storage that is read only writes",
        (),
        "persistence/sqlite/persistence.py",
        "GroupCommit(home, self._refuse if read_only else self.writer.write)",
        "GroupCommit(home, self.writer.write)",
        "sqlite/test_read_only.py::test_writing_is_refused_and_changes_nothing",
    ),
    Mutant(
        "an onlooker removes the file of a dead owner",
        (),
        "persistence/sqlite/read_only.py",
        "        finally:\n            os.close(file)\n        return Liveness.DEAD\n",
        "        finally:\n            os.close(file)\n        os.unlink(self._folder / other)\n        return Liveness.DEAD\n",
        "sqlite/test_read_only.py::test_the_side_file_of_a_dead_owner_stays_and_its_run_is_interrupted",
    ),
    Mutant(
        "a command that acts creates a storage",
        (),
        "cli/settings.py",
        "    if not creates:\n",
        "    if False:\n",
        "cli/test_acting.py::test_acting_creates_no_storage",
    ),
    Mutant(
        "bidirectional overrides reach the terminal",
        (),
        "cli/safe_text.py",
        "\\\\u2028-\\\\u202e",
        "\\\\u2028-\\\\u2029",
        "cli/test_safe_text.py::test_a_line_is_safe",
    ),
    Mutant(
        "an import believes lines that were changed",
        (),
        "persistence/transfer.py",
        '            if fields.get("digest") != digest.hexdigest():\n',
        "            if False:\n",
        "persistence/test_transfer.py::test_lines_that_were_changed_cut_or_reordered_are_refused",
    ),
    Mutant(
        "an imported run has the digest of another key",
        (),
        "persistence/_database/restoring.py",
        "await tables.execute(_INSERT_RUN, *head, head.digest(key), ",
        'await tables.execute(_INSERT_RUN, *head, head.digest(b""), ',
        "persistence/test_transfer.py::test_runs_are_the_same_after_the_import_and_can_be_resumed",
    ),
    Mutant(
        "a whole copy counts as damaged",
        (),
        "persistence/sqlite/upkeep.py",
        'if verdict != "ok" or copied != count:',
        'if verdict == "ok":',
        "sqlite/test_backup.py::test_a_copy_made_while_runs_are_stored_is_whole",
    ),
    Mutant(
        "a failed run says what its exception said",
        (),
        "cli/driving.py",
        'f"{failure.method} raised {type(failure.exception).__name__}"',
        'f"{failure.method} raised {failure.exception!r}"',
        "cli/test_acting.py::test_a_run_that_fails_says_where_and_not_with_what_value",
    ),
    Mutant(
        "a store that is not there is a failure of the store",
        (),
        "cli/failures.py",
        "    (errors.StorageNotFoundError, NOT_FOUND),\n",
        "",
        "cli/test_bad_input.py::test_a_missing_store",
    ),
)
