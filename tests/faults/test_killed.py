"""Processes that are killed at any moment, and at every storage call: nothing acknowledged is lost, or run again."""

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from pathlib import Path

import pytest
from figures import FACTOR, SEED, tell
from killing import OUTPUT, Final, Life, Log, Server, complaints

REPLAY = f"ASYNCFLOW_SEED={SEED} ASYNCFLOW_FAULTS={FACTOR:g}"

SHAPES = ("chain", "fan", "mix", "loop", "lists", "several")
CASES = max(1, round(6 * FACTOR))
"""Graphs of each shape."""
TRIALS = 10
"""Of each graph."""

SWEPT = (("chain", "2", "asyncio"), ("fan", "4", "trio"), ("loop", "0", "uvloop"), ("lists", "1", "asyncio"))
if FACTOR >= 7:
    more = [(shape, f"{SEED}/{n}") for n in range(5) for shape in SHAPES[:-1]][:17]
    SWEPT += tuple((*graph, ("asyncio", "trio", "uvloop")[n % 3]) for n, graph in enumerate(more))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@dataclass
class Figures:
    """What the trials of a test hit and saw."""

    trials: int = 0
    hits: int = 0
    """Kills of a child that lived."""
    in_flight: int = 0
    """Hits after an acknowledgement, and before the result."""
    acknowledged: int = 0
    run_again: int = 0
    """Invocations started once more, not having been acknowledged: E3."""

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def trial(server: Server, life: Life, expected: Final | None, lives: Sequence[Life], replay: str) -> Figures:
    """Live these lives, one after the other while they are killed, then one to the end; and listen to the oracle."""
    folder = Path(life.folder)
    folder.mkdir()
    figures = Figures(trials=1)
    for one in (*lives, life):
        death = server.live(one)
        if not death.killed:
            break
        figures.hits += 1
        figures.in_flight += is_in_flight(folder, len(life.graphs))
    told = Path(folder, OUTPUT).read_text()
    assert not death.hung, f"still alive after {death.seconds:.1f} seconds: {replay}\n{told}"
    assert (death.status, told) == (0, ""), f"{death}: {replay}\n{told}"
    broken = complaints(folder, life.graphs, figures.hits, expected)
    assert not broken, "\n".join([replay, *broken, Path(folder, "effects.log").read_text()])
    log = Log.read(folder)
    figures.acknowledged, figures.run_again = log.acknowledged, log.run_again
    shutil.rmtree(folder)
    return figures


def is_in_flight(folder: Path, runs: int) -> bool:
    log = Log.read(folder)
    return bool(log.acknowledged) and len(log.of("result")) < runs


def undisturbed(server: Server, life: Life, replay: str) -> tuple[Final, float]:
    """How the graphs of a life end if it is not killed, and in how many seconds."""
    folder = Path(life.folder)
    folder.mkdir()
    death = server.live(life)
    assert death.status == 0, f"{replay}\n{Path(folder, OUTPUT).read_text()}"
    assert complaints(folder, life.graphs, 0, None) == [], replay
    final = Final.read(folder)
    shutil.rmtree(folder)
    return final, death.seconds


# ---- R01: at random moments ----------------------------------------------------------------------------------------


def drawn(shape: str, number: int, folder: Path) -> tuple[Life, random.Random]:
    rng = random.Random(f"{SEED}/{shape}/{number}")
    single = SHAPES[:-1]
    shapes = rng.choices(single, k=rng.randint(2, 4)) if shape == "several" else [shape]
    graphs = tuple((one, f"{SEED}/{number}/{place}") for place, one in enumerate(shapes))
    loop = ("asyncio", "uvloop", "asyncio", "trio", "asyncio", "uvloop")[number % 6]
    return Life(str(folder), graphs, loop, rng.choice(("full", "process"))), rng


@pytest.mark.clauses("D1", "D2", "D3", "D4", "E1", "E2", "E3", "E4", "L2", "N1", "N3")
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_acknowledged_survives_kills_at_random_moments(shape: str, server: Server, tmp_path: Path) -> None:
    began = time.perf_counter()
    figures = Figures()
    for number in range(CASES):
        life, rng = drawn(shape, number, tmp_path / "trial")
        replay = f"{shape} graph {number} of {REPLAY}: {life}"
        expected, seconds = undisturbed(server, life, replay)
        for _ in range(TRIALS):
            moments = [rng.triangular(0, seconds, 0.7 * seconds) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            kills = [replace(life, kill_after=moment) for moment in moments]
            figures += trial(server, life, expected, kills, f"{replay}, killed after {moments}")

    print(f"{shape}: {figures}, in {time.perf_counter() - began:.1f} s")
    tell("R01", trials=figures.trials, faults=figures.hits, acknowledged=figures.acknowledged)
    assert figures.trials == CASES * TRIALS
    assert figures.hits >= 0.7 * figures.trials
    assert figures.in_flight >= 0.02 * figures.trials  # a busy machine delays the kills: 3 of 60 were seen
    assert figures.acknowledged >= 3 * figures.trials
    assert figures.run_again >= 0.02 * figures.trials


# ---- R02: at every storage call ------------------------------------------------------------------------------------


@pytest.mark.clauses("D1", "D2", "D4", "E1", "E2", "E3", "E4", "L2")
@pytest.mark.parametrize("point", ["before", "after", "append"])
@pytest.mark.parametrize(("shape", "seed", "loop"), SWEPT)
def test_what_was_acknowledged_survives_a_kill_at_every_storage_call(
    shape: str, seed: str, loop: str, point: str, server: Server, tmp_path: Path
) -> None:
    began = time.perf_counter()
    life = Life(str(tmp_path / "trial"), ((shape, seed),), loop)
    expected, _ = undisturbed(server, life, f"{life}")
    figures = Figures()
    for nth in count(1):
        kill = replace(life, kill_at=(point, nth))
        one = trial(server, life, expected, [kill], f"{kill}")
        if not one.hits:
            break  # it has ended before it reached that point
        figures += one

    print(f"{shape} {loop} {point}: {figures}, in {time.perf_counter() - began:.1f} s")
    tell("R02", trials=figures.trials, faults=figures.hits, acknowledged=figures.acknowledged)
    assert figures.hits == figures.trials >= (4 if point == "append" else 40)
    assert figures.in_flight >= 3
    assert figures.acknowledged >= 3 * figures.trials
    assert point != "before" or figures.run_again >= 2  # what has answered may be committed
