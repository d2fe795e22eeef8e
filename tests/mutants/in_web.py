"""Bugs in what is shown over HTTP."""

from mutant import Mutant

CANARY = "web/test_redaction.py::test_what_redact_hides_is_in_no_response"
WEB = "integrations/fastapi"

IN_WEB: tuple[Mutant, ...] = (
    Mutant(
        "the message of an error is shown as it is stored",
        ("O4",),
        f"{WEB}/models.py",
        'message = shown.text(error.message, "error", "message")',
        "message = error.message",
        CANARY,
    ),
    Mutant(
        "the history shows the state as it is stored",
        ("O4",),
        f"{WEB}/showing.py",
        'shown = self._values.tree(view.state, "state")',
        "shown = stored",
        CANARY,
    ),
    Mutant(
        "a stream shows what methods emit as it is",
        ("O4",),
        f"{WEB}/streaming.py",
        'field.name: shown.tree(getattr(event, field.name), "event", field.name)',
        "field.name: getattr(event, field.name)",
        CANARY,
    ),
    Mutant(
        "a path has the alias of a field",
        ("O4",),
        f"{WEB}/redaction.py",
        "*path, names.get(key, key))",
        "*path, key)",
        "web/test_redaction.py::test_paths_have_the_names_of_fields_as_in_python",
    ),
    Mutant(
        "a run that waits is listed twice, or not at all, by its signal",
        (),
        f"{WEB}/listing.py",
        "if lowest is None or entry.position >= lowest]",
        "if True]",
        "web/test_listed_runs.py::test_a_page_by_a_signal_looks_at_some_runs_and_the_next_one_at_others",
    ),
    Mutant(
        "a stream of a damaged run begins, and ends, and its client reconnects without end",
        ("V4",),
        f"{WEB}/streaming.py",
        "rows = await rows_between(storage, newest.run_id, after=max(-1, seq - 1), until=newest.seq)",
        "rows: list[Checkpoint] = []",
        "web/test_bad_requests.py::test_a_damaged_run_is_a_409_and_the_others_are_shown",
    ),
    Mutant(
        "a page of a history reads the whole of it",
        (),
        "_runs/reading.py",
        "min(newest.seq, after + limit)",
        "newest.seq",
        "web/test_shown_runs.py::test_a_page_of_a_history_reads_no_more_than_the_page",
    ),
    Mutant(
        "the history shows earlier values as they are stored",
        ("O4",),
        "_runs/history.py",
        "before={name: earlier[name] for name in names if name in earlier},",
        "before={name: from_json(before[name]) for name in names if name in earlier},",
        CANARY,
    ),
)
