"""Bugs in the events of runs, and in who gets them."""

from mutant import Mutant

OBSERVERS = "runtime/test_observers.py"
STREAMS = "runner/test_event_streams.py"

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
        "joined(own.audience, mine.outer if mine is not None and mine.is_of_one else mine)",
        "own.audience",
        f"{OBSERVERS}::test_children_are_seen_by_the_observers_of_their_parent_and_not_by_its_readers",
    ),
    Mutant(
        "an observer that raises fails the run",
        ("O2",),
        "_runtime/audience.py",
        "            except Exception:  # a user's observer may raise anything\n                self.disable(observer, event.run_id)\n",
        "            except ZeroDivisionError:\n                pass\n",
        f"{OBSERVERS}::test_an_observer_that_raises_is_logged_once_and_harms_no_run",
    ),
    Mutant(
        "an observer that raises is called again",
        ("O2",),
        "_runtime/audience.py",
        "        if observer in self._observers:\n            self._observers.remove(observer)\n",
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
        "_runtime/audience.py",
        "        if len(lane) >= LIMIT:\n",
        "        if False:\n",
        f"{OBSERVERS}::test_what_a_reader_holds_is_bounded",
    ),
    Mutant(
        "a slow handle does not read again what it lost",
        ("O3",),
        "_runtime/audience.py",
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
)
