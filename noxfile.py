"""The commands of the project. `python3 noxfile.py -s tests` needs nothing but Python, its venv module and git."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

try:
    import nox
except ModuleNotFoundError:  # make a venv with nox in it, and go on there
    TOOLS = HERE / ".nox" / "tools"
    PYTHON = TOOLS / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import nox"], stderr=subprocess.DEVNULL).returncode:
        try:
            import ensurepip  # noqa: F401
        except ModuleNotFoundError:
            sys.exit("this Python cannot make virtual environments; on Debian: apt-get install python3-venv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", TOOLS], check=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "nox[uv]"], check=True)
    sys.exit(subprocess.run([PYTHON, "-m", "nox", "-f", __file__, *sys.argv[1:]]).returncode)

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what pip trusts: a company's own certificates too

CACHES = HERE / ".nox"
PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """Install the project as it stands, and the tools of some groups."""
    tools = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("-e", ".[trio]", *tools)
    session.env["PYTHONDONTWRITEBYTECODE"] = "1"


@nox.session
def demo(session: nox.Session) -> None:
    """A real flow, killed half-way, goes on by its UUID."""
    install(session)
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that must hold: the tests on asyncio, uvloop and trio, style, types, floors."""
    install(session, "tests", "lint", "types", "floors")
    check_style(session)
    check_floors(session)
    check_types(session)
    run_tests(session)
    session.notify("tests_on_newer")


@nox.session(python="3.13")
def tests_on_newer(session: nox.Session) -> None:
    """The tests alone on Python 3.13, where there is one."""
    install(session, "tests")
    run_tests(session)


@nox.session
def faults(session: nox.Session) -> None:
    """The long forms of the fault tests, part by part, going on where they stopped; then the planted bugs."""
    install(session, "tests")
    session.run("python", "tests/faults/run.py", *session.posargs)
    session.run("python", "tests/mutants/run.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    install(session, "lint")
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    install(session, "types")
    check_types(session)


@nox.session
def floors(session: nox.Session) -> None:
    """Who may import whom."""
    install(session, "floors")
    check_floors(session)


@nox.session
def bench(session: nox.Session) -> None:
    """The figures."""
    install(session, "tests")
    session.run("python", "-m", "benchmarks", *session.posargs)


def check_style(session: nox.Session) -> None:
    cache = f"--cache-dir={CACHES / 'ruff'}"
    session.run("ruff", "check", cache, ".")
    session.run("ruff", "format", "--check", cache, ".")


def check_floors(session: nox.Session) -> None:
    session.run("lint-imports", "--cache-dir", str(CACHES / "import_linter"))


def check_types(session: nox.Session) -> None:
    session.run("mypy", f"--cache-dir={CACHES / 'mypy'}")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


def run_tests(session: nox.Session) -> None:
    args = session.posargs or ["-n", "2"]
    session.run("python", "-m", "pytest", "-o", f"cache_dir={CACHES / 'pytest'}", *args)


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "nox", "-f", __file__, *sys.argv[1:]]).returncode)
