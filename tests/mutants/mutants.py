"""Engines with one planted bug each. Each must be caught by the test that it names; each clause of the contract has at least one.

python tests/mutants/run.py            # all of them; or some, by a part of their names
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A bug: in `file`, `find` (which stands there once) becomes `plant`. `test` is a pytest id, without parameters."""

    name: str
    clauses: tuple[str, ...]
    file: str
    find: str
    plant: str
    test: str


CANCEL, GOING, FAILURE = (f"runtime/test_{name}.py" for name in ("cancellation", "going_on", "failure"))
CUTS, POSTGRES = "postgres/test_cuts.py", "postgres/test_postgres.py"
STATE, SQLITE, CODEC = "runtime/test_state.py", "persistence/test_sqlite.py", "persistence/test_codec.py"

MUTANTS = (
    # ---- durability
    Mutant(
        "a listener starts before the commit",
        ("D1",),
        "_runtime/engine.py",
        "            await self.recorder.commit(ended.checkpoint)\n",
        "            if not (ended.commands and type(ended.commands[0]) is RunMethod):\n"
        "                await self.recorder.commit(ended.checkpoint)\n",
        f"{FAILURE}::test_a_save_that_fails_stops_the_run_and_nothing_follows",
    ),
    Mutant(
        "the first method starts before the inputs are stored",
        ("D2",),
        "_runtime/instance.py",
        "            await commit_start(engine, checkpoint)\n",
        "            pass\n",
        f"{FAILURE}::test_a_save_that_fails_stops_the_run_and_nothing_follows",
    ),
    Mutant(
        "NORMAL under the name of full",
        ("D3",),
        "persistence/sqlite/persistence.py",
        '"FULL" if self.durability == "full" else "NORMAL"',
        '"NORMAL"',
        f"{SQLITE}::test_durability_is_wal_with_full_or_normal",
    ),
    Mutant(
        "a digest that does not cover its predecessor's",
        ("D4",),
        "persistence/checkpoint.py",
        '(fields[_PREVIOUS], to_json(fields[_HEAD], bytes_mode="hex"), *parts)',
        '(to_json(fields[_HEAD], bytes_mode="hex"), *parts)',
        "persistence/test_checkpoint.py::test_a_digest_covers_every_field_but_the_epoch",
    ),
    Mutant(
        "the head is not compared",
        ("D4", "L1"),
        "persistence/sqlite/schema.sql",
        " AND epoch = NEW.epoch AND head = NEW.seq - 1 AND head_digest = NEW.previous",
        "",
        f"{SQLITE}::test_a_checkpoint_that_does_not_follow_is_stale_and_nothing_is_written",
    ),
    # ---- execution counts
    Mutant(
        "a method that changes nothing has no checkpoint",
        ("E1",),
        "_runtime/engine.py",
        "        if recorder is None or not (has_checkpoint or is_last",
        "        if recorder is None or not ((has_checkpoint and state is not None) or is_last",
        f"{SQLITE}::test_a_method_that_does_not_change_the_state_stores_none",
    ),
    Mutant(
        "resuming runs the trigger again as well",
        ("E2", "X3"),
        "_scheduling/progress.py",
        "        invocation = self.pending.pop(key)\n",
        "        invocation = self.pending[key]\n",
        f"{GOING}::test_resume_continues_an_unfinished_run",
    ),
    Mutant(
        "what was at work at a crash is taken for done",
        ("E3",),
        "_scheduling/advance.py",
        "tuple(map(RunMethod, progress.pending.values()))",
        "tuple(map(RunMethod, list(progress.pending.values())[1:]))",
        f"{FAILURE}::test_a_run_whose_save_failed_goes_on_once_the_storage_is_well",
    ),
    Mutant(
        "all methods share one draft",
        ("E4",),
        "_runtime/scope.py",
        "            self._draft = copied(self.base.state)\n",
        "            self._draft = self.base.state\n",
        f"{STATE}::test_a_draft_is_seen_by_nobody_before_it_is_committed",
    ),
    Mutant(
        "the last writer wins",
        ("E4",),
        "merge.py",
        '    raise Conflict(path, "both changed it")\n',
        "    return ours\n",
        f"{STATE}::test_changes_that_cannot_both_stand_fail_the_later_method",
    ),
    Mutant(
        "a base is taken when a method begins, not when it is launched",
        ("E4",),
        "_runtime/engine.py",
        "        method, invocation, flow = scope.method, scope.invocation, self.flow\n",
        "        method, invocation, flow = scope.method, scope.invocation, self.flow\n        scope.base = self.committed\n",
        f"{STATE}::test_a_method_sees_the_state_of_its_launch_and_committed_state_the_newest",
    ),
    # ---- cancellation
    Mutant(
        "a cancellation is swallowed",
        ("C1",),
        "_runtime/engine.py",
        "            scope = await self._work(self._next(commands))\n",
        "            try:\n                scope = await self._work(self._next(commands))\n"
        "            except BaseException:\n                return None\n",
        f"{CANCEL}::test_a_task_that_was_cancelled_natively_gets_its_cancelled_error",
    ),
    Mutant(
        "only a shield around what must be known",
        ("C2",),
        "_waiting.py",
        "    while not task.done():\n        try:\n",
        "    if not task.done():\n        try:\n",
        f"{CANCEL}::test_a_run_is_nobodys_after_its_task_was_cancelled_at_any_await",
    ),
    Mutant(
        "a cancelled waiter does not wait for its commit",
        ("C2",),
        "persistence/commits.py",
        "                await outlast(job.late)\n",
        "",
        f"{SQLITE}::test_a_save_that_is_cancelled_while_queued_is_withdrawn_and_during_its_commit_waited_for",
    ),
    Mutant(
        "a cancelled save stays in the queue",
        ("C3",),
        "persistence/commits.py",
        "                self._withdraw(job)\n",
        "                pass\n",
        f"{SQLITE}::test_a_save_that_is_cancelled_while_queued_is_withdrawn_and_during_its_commit_waited_for",
    ),
    Mutant(
        "cancel() is not stored",
        ("C4",),
        "_runtime/instance.py",
        "            await to_its_end(lambda: self._cancelled_durably(claim))\n",
        "            pass\n",
        f"{CANCEL}::test_cancel_is_durable_and_final",
    ),
    Mutant(
        "a cancelled thread is not waited for",
        ("C1",),
        "_runtime/threads.py",
        "            await outlast(call.ended)\n",
        "            pass\n",
        f"{CANCEL}::test_a_natively_cancelled_plain_method_is_waited_for",
    ),
    # ---- failure
    Mutant(
        "a failed method's draft is kept",
        ("X1",),
        "_runtime/engine.py",
        "        self.failures.append(Failure(",
        "        if scope._has_draft:\n            self.newest = Version(self.newest.number + 1, scope._draft)\n"
        "        self.failures.append(Failure(",
        f"{STATE}::test_the_draft_of_a_failed_method_vanishes",
    ),
    Mutant(
        "a failure cancels its siblings at once",
        ("X2",),
        "_runtime/engine.py",
        'if not ended.is_well and self.settings.on_error == "cancel" and',
        "if self.failures and",
        f"{FAILURE}::test_siblings_that_run_finish_and_nothing_new_starts",
    ),
    Mutant(
        "one failure of several is told",
        ("X2",),
        "_runtime/engine.py",
        "self.failures, self.recorder is not None)",
        "self.failures[:1], self.recorder is not None)",
        f"{FAILURE}::test_several_failures_are_one_method_error_and_one_group",
    ),
    Mutant(
        "what was enabled beside a failure is lost",
        ("X3",),
        "_scheduling/progress.py",
        "        if self.failed:\n            self.held.add(key)\n",
        "        if self.failed:\n            del self.pending[key]\n",
        f"{FAILURE}::test_resume_runs_only_what_failed_or_never_started",
    ),
    Mutant(
        "KeyboardInterrupt is taken for a failure",
        ("X4",),
        "_runtime/engine.py",
        "        except Exception as error:  # whatever",
        "        except (Exception, KeyboardInterrupt) as error:  # whatever",
        f"{FAILURE}::test_a_crash_leaves_as_itself_and_the_run_is_resumable",
    ),
    # ---- owners
    Mutant(
        "taking over does not raise the epoch",
        ("L1",),
        "persistence/sqlite/writer.py",
        "        job.epoch = head.epoch + 1\n",
        "        job.epoch = head.epoch\n",
        f"{SQLITE}::test_every_taking_over_raises_the_epoch",
    ),
    Mutant(
        "an owner that lives is replaced",
        ("L2",),
        "persistence/sqlite/writer.py",
        "        if head.owner is None or job.may_replace(head.owner):\n",
        "        if True:\n",
        f"{SQLITE}::test_a_run_of_another_process_is_locked_until_that_is_dead_and_then_free_at_once",
    ),
    Mutant(
        "one process drives a run twice",
        ("L2",),
        "_runtime/runs.py",
        "    if driven in _DRIVEN and not is_closed(_DRIVEN[driven]):\n",
        "    if False:\n",
        f"{GOING}::test_kickoff_of_a_run_that_is_running_elsewhere_is_refused",
    ),
    Mutant(
        "an id may be created twice",
        ("L4",),
        "persistence/sqlite/schema.sql",
        "  run_id TEXT NOT NULL UNIQUE,\n",
        "  run_id TEXT NOT NULL,\n",
        f"{SQLITE}::test_a_second_creator_of_an_id_is_stale_and_changes_nothing",
    ),
    # ---- load and save
    Mutant(
        "a value is stored without being looked at",
        ("V1",),
        "persistence/codec.py",
        "        found = difference(value, loaded, promoted=True)\n",
        "        found = None\n",
        f"{CODEC}::test_a_value_that_would_change_is_refused_with_path_type_and_reason",
    ),
    Mutant(
        "a payload is an alias of the state",
        ("V1",),
        "_runtime/engine.py",
        "            return copied(kept)\n",
        "            return kept\n",
        "runtime/test_running.py::test_a_receiver_that_changes_its_payload_changes_nothing_else",
    ),
    Mutant(
        "stored fields that the model lacks are dropped",
        ("V2",),
        "persistence/codec.py",
        "            if lost:\n                raise Misfit",
        "            if False:\n                raise Misfit",
        f"{GOING}::test_a_stored_field_that_the_model_lacks_is_named_and_nothing_is_lost",
    ),
    Mutant(
        "a pending method that is gone is skipped",
        ("V3",),
        "_runtime/runs.py",
        "    if gone:\n",
        "    for name in gone:\n        for key in [k for k, i in stored.progress.pending.items() if i.method == name]:\n"
        "            del stored.progress.pending[key]\n    if False:\n",
        f"{GOING}::test_a_pending_method_that_is_gone_is_named_and_nothing_changes",
    ),
    Mutant(
        "digests are not checked",
        ("V4",),
        "persistence/checkpoint.py",
        "    if not _fits_digest(row):\n",
        "    if False:\n",
        f"{SQLITE}::test_a_changed_bit_in_a_checkpoint_is_found_and_hurts_that_run_only",
    ),
    Mutant(
        "the head is not checked",
        ("V4", "D4"),
        "persistence/head.py",
        " or head.digest(key) != row[-1]:\n",
        ":\n",
        f"{SQLITE}::test_a_changed_bit_in_the_head_of_a_run_is_found_and_hurts_that_run_only",
    ),
    Mutant(
        "what stands behind the head is not looked for",
        ("V4", "D4"),
        "persistence/sqlite/reader.py",
        "_ALL if seq is None else seq",
        "head.head if seq is None else seq",
        f"{SQLITE}::test_an_old_head_with_its_own_digest_is_found",
    ),
    Mutant(
        "an unknown id in a damaged database is a new run",
        ("V4",),
        "persistence/sqlite/reader.py",
        "            await self._refuse_damage(connection)\n",
        "",
        f"{SQLITE}::test_an_unknown_id_in_a_damaged_database_is_no_new_run",
    ),
    Mutant(
        "the index of the ids is not checked",
        ("V4",),
        "persistence/sqlite/reader.py",
        '"PRAGMA integrity_check(runs)"',
        '"PRAGMA quick_check(1)"',
        "faults/test_bit_rot.py::test_a_flipped_bit_in_what_holds_the_file_together_is_told_or_changes_nothing",
    ),
    Mutant(
        "the schema is not looked at",
        ("V4",),
        "persistence/sqlite/database.py",
        "            await _check_schema(connection, path)\n",
        "",
        f"{SQLITE}::test_a_damaged_schema_is_found_and_what_others_added_is_theirs",
    ),
    Mutant(
        "a history may lack its beginning",
        ("V4", "D4"),
        "persistence/head.py",
        "        if stored[0].seq != base:\n",
        "        if False:\n",
        "faults/test_bit_rot.py::test_a_row_that_is_not_where_it_was_is_told_of_its_run_alone",
    ),
    Mutant(
        "what a row holds may be of any type",
        ("V4",),
        "persistence/checkpoint.py",
        "        return _is_well_typed(row) and row.expected_digest() == row.digest\n",
        "        return row.expected_digest() == row.digest\n",
        "faults/test_hostile_rows.py::test_a_hostile_value_is_a_typed_error_or_one_of_the_model",
    ),
    Mutant(
        "a plan looks at the first of many",
        ("V1",),
        "persistence/exact.py",
        "        lambda values: set(map(type, values)) <= only and holds(values),\n",
        "        lambda values: set(map(type, values[:1])) <= only and holds(values[:1]),\n",
        "persistence/test_exact.py::test_what_the_types_let_pass_is_kept",
    ),
    Mutant(
        "a schedule decides what a pass gives",
        ("D1",),
        "_runtime/engine.py",
        "            if _says(ended.commands, Finish):  # not simply",
        "            if True:  # not simply",
        "faults/test_schedules.py::test_every_schedule_is_what_the_model_says",
    ),
    Mutant(
        "a forger needs no key",
        ("V4",),
        "persistence/head.py",
        "digest_size=16, key=key).digest()",
        "digest_size=16).digest()",
        f"{SQLITE}::test_what_was_made_up_is_found_where_there_is_a_key",
    ),
    Mutant(
        "verifying begins where loading does",
        ("V4",),
        "persistence/queued.py",
        "            stored = await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=True))\n            if",
        "            stored = await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=False))\n            if",
        f"{SQLITE}::test_damage_that_loading_does_not_meet_is_found_by_verifying",
    ),
    Mutant(
        "any size is stored",
        ("V5",),
        "persistence/codec.py",
        "    if len(data) > MAX_BYTES:\n",
        "    if False:\n",
        f"{CODEC}::test_what_is_too_large_is_a_limit",
    ),
    Mutant(
        "any depth is stored",
        ("V5",),
        "persistence/codec.py",
        "        if not _fits(value):\n",
        "        if False:\n",
        f"{CODEC}::test_what_is_nested_too_deeply_is_a_limit",
    ),
    # ---- group commit
    Mutant(
        "one failing save fails its neighbours",
        ("D1",),
        "persistence/sqlite/writer.py",
        "        if len(batch) > 1 and is_one_jobs:\n",
        "        if False:\n",
        f"{SQLITE}::test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch",
    ),
    Mutant(
        "no rollback after an error",
        ("C2",),
        "persistence/sqlite/writer.py",
        "                await self._held.rollback()\n",
        "                pass\n",
        f"{SQLITE}::test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch",
    ),
    # ---- PostgreSQL
    Mutant(
        "PostgreSQL: what was sent may be committed after it was looked for",
        ("D1",),
        "persistence/postgres/writer.py",
        "        gone = await rows_of(connection, _END, (milliseconds, *backend))\n",
        "        gone: list[Any] = []\n",
        f"{CUTS}::test_what_became_of_a_checkpoint_is_known_wherever_the_connection_is_cut",
    ),
    Mutant(
        "PostgreSQL: a commit is tried again blindly",
        ("D1",),
        "persistence/postgres/writer.py",
        "            await self._resolve(connection, batch, error)\n",
        "            await self._write(batch, BUSY_SECONDS)\n",
        f"{CUTS}::test_what_became_of_a_checkpoint_is_known_wherever_the_connection_is_cut",
    ),
    Mutant(
        "PostgreSQL: a connection that the server has ended is used",
        ("D1",),
        "persistence/postgres/database.py",
        "            connection.pgconn.consume_input()\n",
        "            pass\n",
        f"{CUTS}::test_a_connection_that_was_lost_while_nothing_was_asked_of_it_is_made_anew",
    ),
    Mutant(
        "PostgreSQL: no fence",
        ("L1",),
        "persistence/postgres/schema.sql",
        "AND epoch = c.epoch AND head",
        "AND head",
        f"{POSTGRES}::test_a_run_can_be_taken_by_force",
    ),
    Mutant(
        "PostgreSQL: a lease is not looked at",
        ("L2",),
        "persistence/postgres/writer.py",
        "    if left > 0:\n",
        "    if False:\n",
        f"{POSTGRES}::test_a_run_is_its_owners_until_the_lease_has_run_out_and_then_the_owner_is_fenced",
    ),
    Mutant(
        "PostgreSQL: a lease that has run out still holds",
        ("L2", "L3"),
        "persistence/postgres/writer.py",
        "    if left > 0:\n",
        "    if left:\n",
        f"{POSTGRES}::test_a_run_is_its_owners_until_the_lease_has_run_out_and_then_the_owner_is_fenced",
    ),
    Mutant(
        "PostgreSQL: a lease is renewed by commits alone",
        ("L2",),
        "persistence/postgres/persistence.py",
        "            self.commits.put(Renew())\n",
        "            pass\n",
        f"{POSTGRES}::test_a_lease_is_renewed_while_a_method_runs",
    ),
    Mutant(
        "PostgreSQL: a clean end keeps its lease",
        ("L2",),
        "persistence/postgres/writer.py",
        "                await self._held.execute(self._target.sql(rows.LEAVE), (self._owner,))\n",
        "                pass\n",
        f"{POSTGRES}::test_a_clean_end_gives_up_the_lease",
    ),
    Mutant(
        "PostgreSQL: a commit that the server does not wait for",
        ("D3",),
        "persistence/postgres/schema.sql",
        "PERFORM set_config('synchronous_commit', 'on', true);",
        "NULL;",
        f"{POSTGRES}::test_a_commit_is_durable_where_the_server_would_not_wait_for_it",
    ),
    Mutant(
        "PostgreSQL: what does not follow is told as saved",
        ("D4",),
        "persistence/postgres/writer.py",
        "            verdicts[appends[place - 1]] = _stale(appends[place - 1])\n",
        "            pass\n",
        f"{POSTGRES}::test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch",
    ),
    Mutant(
        "PostgreSQL: one that waits for a lock fails its neighbours",
        ("D1",),
        "persistence/postgres/writer.py",
        "        elif len(batch) > 1 and (state",
        "        elif False and (state",
        f"{POSTGRES}::test_a_run_that_another_program_has_locked_is_waited_for_and_does_not_fail_its_neighbours",
    ),
)
