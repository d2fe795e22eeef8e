"""Planted bugs in lists whose items a method works on."""

from mutant import Mutant

__all__ = ["IN_ITEMS"]

RULES = "scheduling/test_each_rules.py"
ITEMS, STORED, COSTS = "runtime/test_items.py", "runs/test_items_stored.py", "runtime/test_item_costs.py"

IN_ITEMS = (
    Mutant(
        "a resume runs completed items again",
        ("N1",),
        "_scheduling/groups.py",
        "for index in range(self.count) if index not in self.done)\n        return",
        "for index in range(self.count))\n        return",
        f"{ITEMS}::test_a_resume_runs_only_the_items_that_did_not_complete",
    ),
    Mutant(
        "an item that a pass has dropped is pending again when the run is loaded",
        ("N1", "W13"),
        "persistence/encoding.py",
        "ended = group.done.keys() | group.dropped",
        "ended = group.done.keys()",
        f"{RULES}::test_an_item_that_an_ending_pass_has_dropped_is_not_pending_again_after_a_crash",
    ),
    Mutant(
        "a list has no limit",
        ("N2",),
        "_scheduling/groups.py",
        "    return limit or MOST_WITHOUT_LIMIT\n",
        "    return MOST_WITHOUT_LIMIT\n",
        f"{ITEMS}::test_no_more_items_than_the_limit_run_at_the_same_time_and_they_start_in_order",
    ),
    Mutant(
        "a resume of a parked run does not store another limit",
        ("N2", "W11"),
        "_runs/passes.py",
        "only_waits(progress) and begun(setup.settings.definition, progress, deadline) is None\n",
        "only_waits(progress)\n",
        f"{STORED}::test_a_parked_run_continues_under_another_limit",
    ),
    Mutant(
        "an item that another limit has put back is tried again at once",
        ("N2", "N5"),
        "_scheduling/progress.py",
        "            self.paused.add(key)\n",
        "            pass\n",
        f"{RULES}::test_an_item_that_another_limit_has_put_back_still_waits_for_its_next_attempt",
    ),
    Mutant(
        "results come in the order in which the items completed",
        ("N3",),
        "_scheduling/groups.py",
        "Gathered(self.done[index] for index in range(self.count))",
        "Gathered(self.done.values())",
        f"{ITEMS}::test_the_method_runs_once_for_each_item_and_completes_with_the_list_of_results",
    ),
    Mutant(
        "an item starts after another one has failed",
        ("N4",),
        "_scheduling/progress.py",
        "for index in () if self.failed or self.ending else tuple(group.following()):",
        "for index in () if self.ending else tuple(group.following()):",
        f"{RULES}::test_after_a_failure_no_further_item_is_pending_before_a_resume",
    ),
    Mutant(
        "a merge conflict of an item is a failure",
        ("N5",),
        "_runtime/steps.py",
        "scope.method.retry is not None or scope.method.each\n",
        "scope.method.retry is not None\n",
        f"{ITEMS}::test_a_merge_conflict_runs_an_item_again_without_a_policy",
    ),
    Mutant(
        "each item counts as a call of its method",
        ("N6",),
        "_runtime/steps.py",
        "if limit is not None and invocation.occurrence > limit:",
        'if limit is not None and invocation.occurrence + getattr(invocation, "place", 0) > limit:',
        f"{ITEMS}::test_the_items_count_as_one_call_of_the_method",
    ),
    Mutant(
        "the whole list is decoded for each item",
        ("N6",),
        "_runtime/results.py",
        "        if items is None:\n",
        "        if True:\n",
        f"{COSTS}::test_an_item_of_many_takes_as_many_lines_as_one_of_a_few",
    ),
    Mutant(
        "the output is the list if the last item ends the pass",
        ("N7",),
        "_scheduling/ending.py",
        'if type(ended) is Item and begins == "finish" and not definition.output:',
        "if False:",
        f"{RULES}::test_the_last_item_may_be_the_one_that_ends_the_pass",
    ),
    Mutant(
        "attempts of items outlive their list",
        ("N7", "W13"),
        "_scheduling/progress.py",
        "                self.attempts.pop(each, None)\n                self.failed",
        "                self.failed",
        f"{RULES}::test_what_another_limit_has_put_back_goes_with_the_list_when_the_pass_ends",
    ),
    Mutant(
        "results of items that no longer fit are found after the progress has changed",
        ("N3", "V2"),
        "_runtime/items.py",
        "            results = journal.results.received(key, others)",
        "            happened = journal.happened(ItemReturned(scope.key), name_of(scope), scope.key, result, state, is_recorded)\n"
        "            results = journal.results.received(key, others)",
        f"{STORED}::test_results_of_items_that_the_class_annotates_otherwise_are_refused",
    ),
)
