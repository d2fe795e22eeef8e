"""The books that the benchmarks keep: tables, ratios, and that a peer that fails is reported. No peer is installed for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import anyio
import pytest

from benchmarks import __main__ as command
from benchmarks import against, environments, hops, items, profile, report, running, works
from benchmarks.contestants import CONTESTANTS
from benchmarks.environments import REQUIREMENTS, NoEnvironment
from benchmarks.measure import stay_here
from benchmarks.meters import Meter, stalls, ticking
from benchmarks.picture import picture
from benchmarks.running import Case, Failed, Line
from benchmarks.works import WORKS, Figures

OURS = next(each for each in CONTESTANTS if (each.module, each.way) == ("asyncflow", "full"))
IN_MEMORY = next(each for each in CONTESTANTS if (each.module, each.way) == ("asyncflow", "none"))
PEER = next(each for each in CONTESTANTS if each.title == "CrewAI, @persist")


def case(who: running.Contestant, work: str = "W1") -> Case:
    return Case(work, who, "asyncio", size=2, seconds=0.05)


def test_a_ratio_is_the_median_of_what_the_rounds_say_side_by_side() -> None:
    figures = {OURS.title: iter([10.0, 100.0, 20.0]), PEER.title: iter([30.0, 200.0, 100.0])}

    lines = running.run([case(OURS), case(PEER)], 3, print, lambda case: {"us_a_step": next(figures[case.who.title])})

    ours, theirs = report.rows(lines)["W1"]
    assert (ours.ratio, theirs.ratio) == (1.0, 3.0)  # of 3, 2 and 5; the medians' own would be 5
    assert theirs.figures == {"us_a_step": 100.0}
    assert f"| {PEER.title} | 100 | 3 | {PEER.takes} |" in report.tables(lines)


def test_rounds_alternate() -> None:
    order: list[str] = []

    def measure(case: Case) -> Figures:
        order.append(case.who.title)
        return {"us_a_step": 1.0}

    running.run([case(OURS), case(PEER)], 2, print, measure)

    assert order == [OURS.title, PEER.title] * 2


@pytest.mark.parametrize("error", [Failed("failed: KeyError: 'x'"), NoEnvironment("not installed: no such version")])
def test_a_peer_that_fails_is_reported_and_not_tried_again(error: Exception) -> None:
    tried: list[str] = []

    def measure(case: Case) -> Figures:
        tried.append(case.who.title)
        if case.who is PEER:
            raise error
        return {"us_a_step": 1.0}

    lines = running.run([case(PEER), case(OURS)], 3, print, measure)

    assert tried.count(PEER.title) == 1
    assert tried.count(OURS.title) == 3
    assert f"| {PEER.title} | {error} |" in report.tables(lines)
    told = json.loads(report.as_json(lines, "about"))["lines"]
    assert (told[0]["failure"], told[1]["failure"]) == (str(error), None)


def test_an_environment_that_cannot_be_made_is_reported_and_tried_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[object] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        tried.append(command)
        return subprocess.CompletedProcess(command, 1, "", "one line\nERROR: no such | version\n\n")

    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "_failures", {})
    monkeypatch.setattr(subprocess, "run", run)

    for _ in range(2):
        with pytest.raises(NoEnvironment, match="not installed: ERROR: no such / version"):
            environments.python_of("crewai")
    assert len(tried) == 1


def test_who_cannot_do_a_work_says_why() -> None:
    cannot = replace(PEER, cannot={"W5": "it keeps no book"})

    lines = running.run([case(cannot, "W5")], 1, print, lambda _: pytest.fail("it was asked all the same"))

    assert "it keeps no book" in report.tables(lines)


def test_a_measurement_is_a_process_of_its_own() -> None:
    figures = running.measured(case(IN_MEMORY))

    assert figures["runs"] >= 2
    assert figures["us_a_step"] > 0


def test_a_process_that_fails_leaves_its_last_line() -> None:
    with pytest.raises(Failed, match=r"failed: ModuleNotFoundError: No module named 'benchmarks\.peers\.nobody'"):
        running.measured(case(replace(OURS, module="nobody")))


def test_a_measurement_reaches_no_other_machine() -> None:
    stay_here("socket.connect", (None, ("127.0.0.1", 5432)))
    stay_here("socket.connect", (None, "/tmp/socket"))

    with pytest.raises(PermissionError):
        stay_here("socket.connect", (None, ("192.0.2.1", 443)))
    with pytest.raises(PermissionError):
        stay_here("socket.sendto", (None, ("192.0.2.1", 8125)))
    with pytest.raises(PermissionError):
        stay_here("socket.getaddrinfo", ("telemetry.example", 443))


async def test_a_loop_that_never_lets_the_ticker_tick_was_held_all_the_while() -> None:
    async with ticking() as late:
        time.sleep(0.05)  # noqa: ASYNC251  (that is the fault)

    assert stalls(late)["stall_max_ms"] > 40


async def test_what_a_fan_out_writes_is_the_mean_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class FansOut:
        async def fan_out(self, width: int) -> int:
            return width

    class Metered(Meter):
        def read(self) -> Meter:
            super().read()
            self.bytes = next(wrote)
            return self

    wrote = iter([3_000] * 19 + [43_000])
    monkeypatch.setattr(works, "Meter", Metered)
    async with anyio.create_task_group() as group:
        figures = await works.fan_out(FansOut(), 7, 60, group)

    assert (figures["runs"], figures["written_kb"]) == (20, 5.0)


def test_every_contestant_has_an_environment_and_a_line_to_be_compared_with() -> None:
    places = {(each.module, each.way) for each in CONTESTANTS}

    assert {each.environment for each in CONTESTANTS} == {"asyncflow", *REQUIREMENTS}
    assert {each.versus for each in CONTESTANTS} <= places


def test_the_named_subset_is_a_part_of_everything() -> None:
    short, everything = command.options_of([]), command.options_of(["--all"])

    assert short.works == ["W1", "W2", "W3", "W4"]
    assert everything.works == list(WORKS)


def test_the_picture_shows_who_was_measured() -> None:
    lines = [Line(case(OURS), [{"us_a_step": 50.0}]), Line(case(PEER), [], "failed")]

    drawn = ElementTree.fromstring(picture(report.rows(lines), "a caption"))

    texts = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"asyncflow", "50 us", "a caption"} <= set(texts)
    assert "CrewAI" not in texts


def test_the_page_takes_new_tables_between_its_markers() -> None:
    page = f"before\n{command.BEGIN}old\n{command.END}after\n"

    once = command.with_tables(page, "new")

    assert once == f"before\n{command.BEGIN}\nnew\n{command.END}after\n"
    assert command.with_tables(once, "new") == once
    assert command.README.read_text().count(command.BEGIN) == 1


@pytest.mark.parametrize("way", ["none", "full"])
def test_a_profile_shares_out_all_the_time_that_a_step_takes(way: str) -> None:
    command = [sys.executable, "-m", "benchmarks.profile", "--way", way, "--runs", "3000", "--most", "5"]

    told = subprocess.run(command, cwd=running.ROOT, check=True, capture_output=True, text=True).stdout

    total, groups = float(told.split()[0]), re.findall(r"^\| ([\d.]+) \| (\w[^`|]*) \|$", told, re.MULTILINE)
    assert sum(float(each) for each, _ in groups) == pytest.approx(total, abs=0.05 * len(groups) + 0.05)
    assert {"drive", "decide", "copy"} <= {group.split(":")[0] for _, group in groups}
    assert way == "none" or "wait: " in told
    assert len(re.findall(r"^\| [\d.]+ \| `", told, re.MULTILINE)) == 5


async def test_two_builds_take_turns_and_a_round_is_the_median_of_neighbouring_turns() -> None:
    order: list[str] = []
    line = against.Comparison("W1", "none")

    def build(name: str, cost: float) -> Callable[[], Awaitable[float]]:
        async def turn() -> float:
            order.append(name)
            return cost

        return turn

    for cost in (3.0, 2.0, 2.2):
        line.add(await against.in_turns(build("ours", cost), build("theirs", 2.0), 2))

    assert line.ratios == [1.5, 1.0, 1.1]
    assert line.ratio == 1.1
    assert order[:4] == ["ours", "theirs", "theirs", "ours"]
    assert "| **1.100** |" in against.table([line])


@pytest.mark.parametrize(("work", "way"), [("W1", "none"), ("W2", "full"), ("W5", "full")])
def test_two_builds_are_measured_in_one_process_each_from_its_own_folder(work: str, way: str, tmp_path: Path) -> None:
    shutil.copytree(running.ROOT / "asyncflow", tmp_path / "asyncflow")

    pairs = against.a_round(tmp_path, work, way, 1, 0.01)

    assert len(pairs) == against.TURNS
    assert min(map(min, pairs)) > 0


def test_a_folder_without_a_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        against.a_round(tmp_path, "W1", "none", 1, 0.01)


def test_items_and_declared_listeners_are_measured_in_one_process() -> None:
    figures = items.measured("asyncflow", "process", "compared", 20, 1)
    long = items.measured("asyncflow", "process", "long", 200)

    assert list(figures) == ["declared listeners", "limit 100", "no limit"]
    assert all(each["cpu"] > 0 and each["seconds"] > 0 for each in figures.values())
    assert long["bytes"] > 0
    assert long["memory"] >= 0
    assert items.ratio(
        [{"cpu": 3.0}, {"cpu": 8.0}, {"cpu": 5.0}], [{"cpu": 1.0}, {"cpu": 2.0}, {"cpu": 1.0}], "cpu"
    ) == ("4.00 (3.00 to 5.00)")


def test_every_file_of_a_step_has_its_group() -> None:
    assert profile._group("/x/site-packages/asyncflow/_scheduling/advance.py").startswith("decide")
    assert profile._group("/x/asyncflow/asyncflow/persistence/_database/group_commit.py").startswith("commit")
    assert profile._group("/x/asyncflow/.nox/lib/anyio/_core/_tasks.py") == "anyio"
    assert profile._group("/x/benchmarks/peers/asyncflow.py") == "the flow's own methods"
    assert profile._group("/x/lib/python3.11/asyncio/events.py") == "the event loop"
    assert profile._group("/x/lib/python3.11/json/decoder.py") == "the rest"


def test_the_hops_of_a_build_are_counted_in_a_process_of_its_own() -> None:
    trips = hops.trips_of(running.ROOT)

    assert set(hops.AIMS) < set(trips)
    assert trips["one step"].storage == ["append"]
    assert trips["load by id"].storage == ["load"]
    for trip in trips.values():
        assert trip.calls >= len(trip.modules) > 5
        assert trip.moves == trip.back + len(trip.modules) - 1
    assert "flow.py" in trips["load by id"].modules
    assert "| one step | " in hops.table(trips, trips)


def test_a_trip_does_not_count_a_resumed_coroutine_again() -> None:
    tracer = hops.Tracer()
    tracer.begin("waiting")
    frame = SimpleNamespace(
        f_code=SimpleNamespace(co_filename=hops.PACKAGE + "flow.py", co_name="f"), f_locals={}, f_back=None
    )

    for event in ("call", "return", "call"):
        tracer(frame, event, None)  # type: ignore[arg-type]

    assert tracer.trips["waiting"].calls == 1
