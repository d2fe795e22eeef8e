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
)
