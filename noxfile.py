"""The commands of the project. `python3 noxfile.py -s tests` needs nothing but Python, its venv module and git."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

try:
    import nox
except ModuleNotFoundError:  # create a venv with nox, and continue in it
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
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what pip trusts: a company's own certificates too

CACHES = HERE / ".nox"
PROJECT = nox.project.load_toml("pyproject.toml")

sys.path.insert(0, str(HERE / "tests"))
from chromium import find_chromium  # noqa: E402 - it is in a folder of its own
from pythons import link_pythons  # noqa: E402

OTHERS, MISSING = link_pythons(CACHES / "pythons")
"""The other supported Pythons that are here, and those that are not, with what has their name and does not start."""


def install(session: nox.Session, *groups: str, resolution: str = "highest") -> None:
    """Install the project as it is, and the tools of some groups."""
    tools = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install("--resolution", resolution, "-e", ".[trio]", *tools)
    session.env["PYTHONDONTWRITEBYTECODE"] = "1"


@nox.session
def demo(session: nox.Session) -> None:
    """Run a real flow that is killed halfway and resumed by its UUID."""
    install(session)
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all checks: tests on asyncio, uvloop and trio, style, types, layers."""
    install(session, "tests", "lint", "types", "floors")
    check_style(session)
    check_floors(session)
    check_types(session)
    run_tests(session)
    if session.posargs:
        return
    for version, mute in MISSING.items():
        if mute:
            session.error(f"Python {version} is there, and does not start: {', '.join(map(str, mute))}")
        session.warn(f"THERE IS NO PYTHON {version} HERE, SO NOTHING IS TESTED ON IT")
    for version in OTHERS:
        session.notify(f"tests_on-{version}")
    session.notify("floors_of_dependencies")


@nox.session(python=OTHERS)
def tests_on(session: nox.Session) -> None:
    """Run the short form of the tests on each other supported Python that is found."""
    install(session, "tests")
    run_tests(session, short=True)


@nox.session
def floors_of_dependencies(session: nox.Session) -> None:
    """Run the short form of the tests on the oldest version of each dependency that pyproject.toml allows."""
    install(session, "tests", resolution="lowest-direct")
    run_tests(session, short=True)
    session.warn("THE TESTS IN A BROWSER WERE NOT RUN; THEIR COMMAND: python3 noxfile.py -s e2e")


@nox.session
def e2e(session: nox.Session) -> None:
    """Run the tests in a browser: Chromium, which is found, or, as root on Debian, installed."""
    browser = find_chromium()
    if browser is None:
        session.error("there is no Chromium here, and it could not be installed: install it as `chromium` on the PATH")
    install(session, "tests", "e2e")
    session.env["ASYNCFLOW_BROWSER"] = browser
    cache = f"cache_dir={CACHES / 'pytest'}"
    session.run("python", "-m", "pytest", "-o", cache, *(session.posargs or ["tests/e2e"]))


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """Run the short form of the tests on a Python that only Debian testing has: `-s newest -- 3.14 [pytest arguments]`, as root."""
    session.run("bash", "tests/newest.sh", *(session.posargs or ["3.14"]))


@nox.session
def faults(session: nox.Session) -> None:
    """Run the long forms of the fault tests, part by part, resuming where they stopped; then the planted bugs."""
    install(session, "tests")
    session.run("python", "tests/faults/run.py", *session.posargs)
    session.run("python", "tests/mutants/run.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style."""
    install(session, "lint")
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    install(session, "types")
    check_types(session)


@nox.session
def floors(session: nox.Session) -> None:
    """Check the import layers."""
    install(session, "floors")
    check_floors(session)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks."""
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
    session.run("pyright", "--verifytypes", "asyncflow", "--ignoreexternal")  # by the first Python on the path


def run_tests(session: nox.Session, *, short: bool = False) -> None:
    args = session.posargs or ["-n", "2"]
    if short:
        session.env["ASYNCFLOW_TESTS"] = "short"
    session.run("python", "-m", "pytest", "-o", f"cache_dir={CACHES / 'pytest'}", *args)


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "nox", "-f", __file__, *sys.argv[1:]]).returncode)
