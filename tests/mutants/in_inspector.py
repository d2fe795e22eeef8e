"""Bugs in the inspector: who is answered, what is hidden, and what a page can bear."""

from mutant import Mutant

INSPECTOR = "integrations/inspector"
REDACTION = "inspector/test_inspector_redaction.py"
BOUNDS = "inspector/test_inspector_bounds.py"

IN_INSPECTOR: tuple[Mutant, ...] = (
    Mutant(
        "the inspector streams the parts of a value that are hidden",
        ("O4",),
        f"{INSPECTOR}/streaming.py",
        'redacted(tree_of(value), redact, ("event", event, name))',
        'redact(("event", event, name), value)',
        f"{REDACTION}::test_redact_gets_the_parts_of_what_a_method_emits",
    ),
    Mutant(
        "the inspector shows the state of a step as it is stored",
        ("O4",),
        f"{INSPECTOR}/run_page.py",
        "await state_at(site.storage, run_id, seq, redact=site.redact)",
        "await state_at(site.storage, run_id, seq)",
        f"{REDACTION}::test_redact_hides_a_value_on_every_page",
    ),
    Mutant(
        "the inspector sends the state as a file as it is stored",
        ("O4",),
        f"{INSPECTOR}/state_file.py",
        'number(request, "at"), redact=site.redact)',
        'number(request, "at"))',
        f"{REDACTION}::test_redact_hides_a_value_on_every_page",
    ),
    Mutant(
        "a hidden field of the state can be overwritten in the inspector",
        (),
        f"{INSPECTOR}/acting.py",
        "field in plain and not is_shown(plain, shown, field)",
        "field not in plain",
        f"{REDACTION}::test_what_is_hidden_cannot_be_overwritten",
    ),
    Mutant(
        "the inspector's stream asks authorize nothing",
        (),
        f"{INSPECTOR}/streaming.py",
        '    await site.allow(request, Action("read", run_id))\n',
        "",
        f"{BOUNDS}::test_authorize_gets_the_id_that_is_acted_on",
    ),
    Mutant(
        "the inspector acts for a page of another site",
        (),
        f"{INSPECTOR}/access.py",
        "_host_of(origins[0]) != host.lower()",
        "_host_of(origins[0]) == ''",
        "inspector/test_inspector_access.py::test_what_does_not_come_from_its_own_page_changes_nothing",
    ),
    Mutant(
        "the inspector writes a comment after the end of a stream",
        (),
        f"{INSPECTOR}/streaming.py",
        "beating.start_soon(beat)",
        "group.start_soon(beat)",
        "inspector/test_inspector_streams.py::test_nothing_follows_the_end_of_a_stream",
    ),
    Mutant(
        "the inspector's forms send odd characters as they are shown",
        (),
        f"{INSPECTOR}/templates/run.html",
        'name="field" value="{{ each.name|exact }}"',
        'name="field" value="{{ each.name }}"',
        f"{BOUNDS}::test_forms_send_odd_characters_as_they_are",
    ),
)
