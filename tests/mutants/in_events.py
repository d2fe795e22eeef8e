"""Bugs in the events of runs, and in who gets them."""

from mutant import Mutant

OBSERVERS = "runtime/test_observers.py"
BAD, EVERY = "runtime/test_bad_observers.py", "runtime/test_every_event.py"
STREAMS = "runner/test_event_streams.py"
SPANS, LOGS = "tracing/test_spans.py", "runs/test_logs.py"

IN_EVENTS: tuple[Mutant, ...] = (
    Mutant(
        "a run that is not stored emits nothing",
        ("O1",),
        "_runtime/controls.py",
        "        self.journal.unstored = Unstored(audience, self.run_id, name, number, self._clock)\n",
        "        self.journal.unstored = None\n",
        f"{OBSERVERS}::test_an_observer_gets_every_event_in_order_on_the_loop",
    ),
    Mutant(
        "a thread calls the observers itself",
        ("O1",),
        "_runtime/services.py",
        "            self.audience.from_thread(emitted)\n",
        "            emitted()\n",
        f"{OBSERVERS}::test_an_observer_gets_every_event_in_order_on_the_loop",
    ),
    Mutant(
        "the observers of a parent do not get its children",
        ("O1",),
        "_runs/setup.py",
        "joined(own.audience, None if mine is None else mine.of_children)",
        "own.audience",
        f"{OBSERVERS}::test_children_are_seen_by_the_observers_of_their_parent_and_not_by_its_readers",
    ),
    Mutant(
        "an observer that raises fails the run",
        ("O2",),
        "_runtime/audience.py",
        "            except BaseException as error:  # a user's observer may raise anything\n"
        "                self.disable(observer, event.run_id, error)\n",
        "            except ZeroDivisionError:\n                pass\n",
        f"{OBSERVERS}::test_an_observer_that_raises_is_logged_once_and_harms_no_run",
    ),
    Mutant(
        "a cancellation that an observer raises is one of the run",
        ("O2",),
        "_runtime/audience.py",
        "            except BaseException as error:  # a user's observer may raise anything\n"
        "                self.disable(observer, event.run_id, error)\n",
        "            except Exception as error:\n                self.disable(observer, event.run_id, error)\n",
        f"{BAD}::test_what_is_no_exception_of_a_program_harms_no_run_either",
    ),
    Mutant(
        "only the first observer knows that a run begins",
        (),
        "_runtime/audience.py",
        "                    text = observer.on_begin(begins)\n",
        "                    text = kept or observer.on_begin(begins)\n",
        f"{BAD}::test_each_observer_knows_that_a_run_begins_and_the_first_text_is_kept",
    ),
    Mutant(
        "a reader that is dropped takes an event of another one with it",
        ("O2",),
        "_runtime/audience.py",
        "        for known in tuple(self._readers):",
        "        for known in self._readers:",
        f"{BAD}::test_a_reader_that_is_dropped_while_an_event_is_passed_on_costs_no_other_reader_the_event",
    ),
    Mutant(
        "a run that is cancelled while no process drives it has no event of that",
        ("O1",),
        "_runs/cancelling.py",
        "    recorder.audience = audience\n",
        "",
        f"{EVERY}::test_a_runner_has_an_event_of_a_run_that_it_cancels_while_no_process_drives_it",
    ),
    Mutant(
        "an observer that raises is called again",
        ("O2",),
        "_runtime/audience.py",
        "        self._observe_with([known for known in self._observers if known is not observer])\n",
        "",
        f"{OBSERVERS}::test_an_observer_that_raises_is_logged_once_and_harms_no_run",
    ),
    Mutant(
        "an observer suppresses the exception of a method",
        ("O2",),
        "_runtime/audience.py",
        "    def __exit__(self, *raised: Any) -> None:\n        for audience, observer, entered in reversed(self._entered):\n",
        "    def __exit__(self, *raised: Any) -> bool:\n        for audience, observer, entered in reversed(self._entered):\n"
        "            return bool(entered.__exit__(*raised))\n",
        f"{OBSERVERS}::test_a_method_runs_within_what_its_observer_gives",
    ),
    Mutant(
        "a slow reader keeps everything",
        ("O2",),
        "_runtime/readers.py",
        "        if len(lane) >= LIMIT:\n",
        "        if False:\n",
        f"{OBSERVERS}::test_what_a_reader_holds_is_bounded",
    ),
    Mutant(
        "a slow handle does not read again what it lost",
        ("O3",),
        "_runtime/readers.py",
        "            if self._rereads and not event.is_live:\n                self.has_gap = True\n",
        "            if self._rereads and not event.is_live:\n                pass\n",
        f"{STREAMS}::test_a_reader_that_lost_a_part_of_a_checkpoint_has_a_gap",
    ),
    Mutant(
        "a handle yields what it has read from the storage again",
        ("O3",),
        "runner/handles.py",
        "                    if live if found.is_live else found.position > position:\n",
        "                    if live or not found.is_live:\n",
        f"{STREAMS}::test_an_event_that_is_read_before_its_commit_is_answered_comes_once",
    ),
    Mutant(
        "a flow and its child call the same observer twice",
        (),
        "_runtime/audience.py",
        "    last = own\n    last.leave_out(outer)\n",
        "    last = own\n",
        f"{SPANS}::test_a_child_is_below_the_method_that_runs_it",
    ),
    Mutant(
        "a refused start is not reported to observers as over",
        (),
        "_runs/stopping.py",
        "                audience.leave(instance.reported)\n",
        "                pass\n",
        f"{SPANS}::test_a_refused_start_leaves_no_span",
    ),
    Mutant(
        "a resumed run is not linked to the trace before",
        (),
        "_runs/passes.py",
        "        trace=progress.trace,\n",
        '            trace="",\n',
        f"{SPANS}::test_a_resumed_run_begins_a_new_trace_that_is_linked_to_the_one_before",
    ),
    Mutant(
        "the span of a method is not the current one",
        (),
        "integrations/opentelemetry/spans.py",
        "            contexts.attach(self._context)\n",
        "            pass\n",
        f"{SPANS}::test_in_a_method_and_in_its_thread_its_span_is_the_current_one",
    ),
    Mutant(
        "the span of a parked run stays open",
        (),
        "integrations/opentelemetry/observer.py",
        '    RunWaiting: "waiting",\n',
        "",
        f"{SPANS}::test_a_parked_run_ends_its_spans_and_the_trace_after_it_is_linked",
    ),
    Mutant(
        "the message of an attempt that is repeated is logged",
        (),
        "_runtime/steps.py",
        "self._log_attempt(scope, failure.type, failure.number, retry_at, is_ending=is_ending)\n",
        "self._log_attempt(scope, str(error), failure.number, retry_at, is_ending=is_ending)\n",
        f"{LOGS}::test_no_value_of_a_state_inputs_results_or_signals_is_in_any_line",
    ),
)
