"""Bugs in the parking and the waking of runs."""

from mutant import Mutant

PARKED = "runs/test_parked.py"
SERVED = "runner/test_parked_runs.py"

IN_WAITS: tuple[Mutant, ...] = (
    Mutant(
        "a signal that comes while its run is parked does not wake it",
        ("W11", "W6"),
        "_runtime/signals.py",
        "parks(max((stored.id for stored in self._known), default=0))",
        "parks(1 << 60)",
        f"{PARKED}::test_a_signal_that_comes_while_its_run_is_parked_wakes_it",
    ),
    Mutant(
        "a signal does not wake a parked run",
        ("W11",),
        "persistence/_database/inboxes.py",
        "SET wake_at = 0 WHERE run_id = ? AND wake_at > 0",
        "SET wake_at = 0 WHERE run_id = ? AND wake_at < 0",
        f"{PARKED}::test_a_signal_that_nothing_waits_for_wakes_a_run_and_does_not_grow_it",
    ),
    Mutant(
        "a run whose method waits is parked",
        ("W11",),
        "_runtime/controls.py",
        "not (self._steps.tasks or self._is_over or progress.ending)",
        "not (self._is_over or progress.ending)",
        f"{PARKED}::test_a_run_whose_method_waits_is_not_parked",
    ),
    Mutant(
        "a short wait parks the run",
        ("W11",),
        "_runtime/controls.py",
        "        if wake_at - now < self._park_after:\n",
        "        if wake_at - now < 0:\n",
        f"{PARKED}::test_short_waits_stay_in_memory",
    ),
    Mutant(
        "the time limit of a pass wakes no run",
        ("W11", "R7"),
        "_runtime/parking.py",
        "[*times, progress.deadline] if progress.deadline else times",
        "times",
        f"{PARKED}::test_the_time_limit_of_a_pass_is_part_of_the_wake_time",
    ),
    Mutant(
        "a run that waits in memory keeps its slot",
        ("W11",),
        "runner/live.py",
        "            self._slots.release()\n            self._places.release()\n",
        "            self._has_slot = self.has_place = True\n",
        f"{SERVED}::test_runs_whose_methods_wait_hold_neither_a_slot_nor_a_place",
    ),
    Mutant(
        "what follows a wait takes no slot",
        ("W11",),
        "runner/live.py",
        "        if self._has_slot or not self._is_begun:\n",
        "        if True:\n",
        f"{SERVED}::test_no_more_methods_run_at_once_than_there_are_slots_also_after_waits",
    ),
    Mutant(
        "what follows a wait queues up behind new runs",
        ("W11",),
        "runner/slots.py",
        "        queue = self._ahead or self._waiting\n",
        "        queue = self._waiting or self._ahead\n",
        f"{SERVED}::test_what_a_wait_ends_for_comes_before_new_runs",
    ),
    Mutant(
        "a wake time that was damaged is believed",
        ("W11",),
        "runner/sweeping.py",
        " < entry.wake_at - TOLERANCE",
        " < 0.0",
        f"{SERVED}::test_a_sweep_wakes_a_run_whose_wake_time_was_damaged",
    ),
    Mutant(
        "the next due runs are not woken when the first of many have begun",
        ("W11",),
        "runner/background.py",
        "        if len(self._woken) == AT_ONCE // 2:\n",
        "        if False:\n",
        f"{SERVED}::test_of_many_due_runs_some_are_woken_at_once_and_the_next_when_these_have_begun",
    ),
    Mutant(
        "a method that waits again counts as no progress",
        ("W11", "L2"),
        "_runtime/waits.py",
        "            await self._show_progress()\n",
        "",
        "sqlite/test_takeovers.py::test_a_method_that_reaches_its_wait_again_resets_the_count",
    ),
)
