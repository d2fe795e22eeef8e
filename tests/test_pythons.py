"""The Pythons that noxfile.py tests on: each that is there is found, and one that does not start is no silent miss."""

import os
import sys
from pathlib import Path

import pytest
from pythons import BASE, SUPPORTED, find_python, link_pythons

MUTE = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with pyenv's programs alone, and a pyenv without versions."""
    shims = tmp_path / "shims"
    shims.mkdir()
    for version in SUPPORTED:
        (shims / f"python{version}").write_text(MUTE)
        (shims / f"python{version}").chmod(0o755)
    monkeypatch.setenv("PATH", str(shims))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    return tmp_path


def installed(folder: Path) -> Path:
    """This Python, as if it were there as well."""
    program = folder / "bin" / f"python{BASE}"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.found("P4")
def test_a_python_of_pyenv_is_found_behind_the_program_of_its_name_that_does_not_start(places: Path) -> None:
    for release in ("0", "2", "10", "0t"):
        program = installed(places / "pyenv" / "versions" / f"{BASE}.{release}")

    found, mute = find_python(BASE)

    assert found == program.parents[2] / f"{BASE}.10" / "bin" / program.name
    assert mute == [places / "shims" / program.name]


@pytest.mark.found("P4")
def test_a_python_of_uv_is_found(places: Path) -> None:
    program = installed(places / "uv" / f"cpython-{BASE}.4-linux-x86_64-gnu")

    assert find_python(BASE)[0] == program


@pytest.mark.found("P4")
def test_a_program_that_does_not_start_is_reported_and_an_installed_python_is_linked(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pythons.BASE", "3.0")
    monkeypatch.setattr("pythons.SUPPORTED", ("3.98", BASE, "3.99"))
    (places / "shims" / "python3.99").write_text(MUTE)
    (places / "shims" / "python3.99").chmod(0o755)
    installed(places / "pyenv" / "versions" / f"{BASE}.1")
    links = places / "links"

    assert link_pythons(links) == ([BASE], {"3.98": [], "3.99": [places / "shims" / "python3.99"]})
    assert link_pythons(links)[0] == [BASE], "a second time, with the link on PATH"
    assert os.access(links / f"python{BASE}", os.X_OK)
