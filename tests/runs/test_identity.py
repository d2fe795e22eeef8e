"""What a flow's stored runs are known by: no other class resumes them, whatever it is called."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncflow
from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, errors, start
from asyncflow.persistence import Checkpoint

pytestmark = [pytest.mark.found("B1", "T5")]

MODULE = """
from asyncflow import Flow, listen, start

class Process(Flow[dict]{keywords}):
    {body}

    @start()
    async def begin(self):
        self.state["begun_by"] = "{by}"

    @listen(begin)
    async def work(self):
        if self.state.get("fails"):
            raise RuntimeError("fails")
        return "{by} did the work"
"""


def module(name: str, *, by: str = "", keywords: str = "", body: str = "pass", to: str = "") -> type[Flow[Any]]:
    """The class `Process` of a module of its own."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(MODULE.format(by=by or name, keywords=keywords, body=body), made.__dict__)
    cls: type[Flow[Any]] = made.Process
    return cls


@pytest.fixture(autouse=True)
def _without_modules_of_other_tests() -> Any:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def failed(cls: type[Flow[Any]], storage: Any, run_id: str = "parcel-7") -> None:
    """Leave a run of this class that failed in its second method."""
    with pytest.raises(errors.MethodError):
        await cls(persistence=storage).kickoff({"id": run_id, "fails": True})
    flow = await cls.load(run_id, persistence=storage)
    await flow.update_state(fails=False)


async def by_resume(cls: type[Flow[Any]], storage: Any) -> Any:
    return await cls.resume("parcel-7", persistence=storage)


async def by_kickoff(cls: type[Flow[Any]], storage: Any) -> Any:
    return await cls(persistence=storage).kickoff({"id": "parcel-7"})


async def by_load(cls: type[Flow[Any]], storage: Any) -> Any:
    return await cls.load("parcel-7", persistence=storage)


async def by_fork(cls: type[Flow[Any]], storage: Any) -> Any:
    return await (await cls.fork("parcel-7", persistence=storage)).kickoff()


async def by_restore(cls: type[Flow[Any]], storage: Any) -> Any:
    return await cls(persistence=storage).kickoff(restore_from_state_id="parcel-7")


async def by_update_state(cls: type[Flow[Any]], storage: Any) -> Any:
    flow = cls(persistence=storage, initial_state={"id": "parcel-7"})
    await flow.update_state(x=1)


async def by_runner(cls: type[Flow[Any]], storage: Any) -> Any:
    async with FlowRunner(storage, recover_every=None) as runner:
        return await runner.run(cls, run_id="parcel-7")


CALLS = [by_resume, by_kickoff, by_load, by_fork, by_restore, by_update_state, by_runner]


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Any:
    return MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence("runs.db")


@pytest.mark.clauses("L5")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_a_run_of_another_module_s_class_of_the_same_name_is_refused_and_left_as_it_was(
    storage: Any, call: Callable[[Any, Any], Awaitable[Any]]
) -> None:
    billing, shipping = module("billing"), module("shipping")
    await failed(billing, storage)
    before = await storage.load("parcel-7")

    with pytest.raises(errors.RunFlowMismatchError, match=r"billing\.Process, not to shipping\.Process") as caught:
        await call(shipping, storage)

    assert "formerly = 'billing.Process'" in str(caught.value)
    assert await storage.load("parcel-7") == before
    assert await billing.resume("parcel-7", persistence=storage) == "billing did the work"


@pytest.mark.clauses("L5")
async def test_a_runner_recovers_no_run_of_a_class_of_another_module(storage: Any) -> None:
    billing, shipping = module("billing"), module("shipping")
    flow = billing(persistence=storage)
    await flow.kickoff({"id": "other"})
    fork = await billing.fork("other", seq=1, persistence=storage)  # interrupted: no process drives it

    async with FlowRunner(storage, flows=[shipping], recover_every=None) as runner:
        assert await runner.recover() == 0
    async with FlowRunner(storage, flows=[billing], recover_every=None) as runner:
        assert await runner.recover() == 1
    assert (await billing.load(fork.run_id, persistence=storage)).result == "billing did the work"


@pytest.mark.parametrize("known", ["flows=", "add", "start"])
async def test_a_runner_refuses_two_classes_of_one_bare_name(known: str) -> None:
    billing, shipping = module("billing"), module("shipping")
    with pytest.raises(errors.FlowDefinitionError, match=r"billing\.Process and shipping\.Process"):
        async with FlowRunner(
            MemoryFlowPersistence(), flows=[billing, shipping] if known == "flows=" else [billing]
        ) as runner:
            runner.add(shipping) if known == "add" else await runner.start(shipping)


async def test_a_runner_refuses_two_classes_of_one_identity() -> None:
    def made(n: int) -> type[Flow[Any]]:
        class Process(Flow[dict[str, Any]]):
            @start()
            async def begin(self) -> int:
                return n

        return Process

    with pytest.raises(errors.FlowDefinitionError, match="two different classes known as"):
        FlowRunner(MemoryFlowPersistence(), flows=[made(1), made(2)])


async def test_a_runner_takes_two_classes_of_one_bare_name_where_one_declares_another() -> None:
    billing, shipping = module("billing"), module("shipping", body='name = "shipping"')
    async with FlowRunner(MemoryFlowPersistence(), flows=[billing, shipping]) as runner:
        assert await runner.run(billing) == "billing did the work"
        assert await runner.run(shipping) == "shipping did the work"


async def test_a_runner_takes_one_class_as_often_as_it_is_given() -> None:
    billing = module("billing")
    async with FlowRunner(MemoryFlowPersistence(), flows=[billing, lambda: billing(), billing]) as runner:
        assert await runner.run(billing) == await runner.run(lambda: billing()) == "billing did the work"


# ---- names that are declared ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "body"),
    [("", 'name = "process"'), (', name="process"', "pass")],
    ids=["an attribute", "a class keyword"],
)
async def test_a_declared_name_is_the_identity_wherever_the_class_is_defined(
    keywords: str, body: str, storage: Any
) -> None:
    await failed(module("old", by="old", keywords=keywords, body=body), storage)
    moved = module("new", by="new", keywords=keywords, body=body)

    assert await moved.resume("parcel-7", persistence=storage) == "new did the work"
    stored = await storage.load("parcel-7")
    assert (stored.identity, stored.flow) == ("process", "process")


async def test_a_name_that_an_instance_is_given_is_its_identity(storage: Any) -> None:
    billing = module("billing")
    await billing(persistence=storage, name="one").kickoff({"id": "parcel-7"})

    assert (await billing.load("parcel-7", persistence=storage, name="one")).status == "finished"
    for init in ({}, {"name": "two"}):
        with pytest.raises(errors.RunFlowMismatchError):
            await billing.load("parcel-7", persistence=storage, **init)


FORMERLY = {
    "an attribute": ("", 'formerly = "old.Process"'),
    "several": ("", 'formerly = ("older.Process", "old.Process")'),
    "a class keyword": (', formerly="old.Process"', "pass"),
    "several as a class keyword": (', formerly=["old.Process"]', "pass"),
    "beside a name": ("", 'name = "process"; formerly = "old.Process"'),
}


@pytest.mark.parametrize(("keywords", "body"), FORMERLY.values(), ids=FORMERLY)
async def test_a_class_that_moved_says_what_it_was_and_resumes_its_runs(keywords: str, body: str, storage: Any) -> None:
    old = module("old")
    await failed(old, storage)
    await old(persistence=storage).kickoff({"id": "other"})
    fork = await old.fork("other", seq=1, persistence=storage)
    new = module("new", keywords=keywords, body=body)

    assert await new.resume("parcel-7", persistence=storage) == "new did the work"
    async with FlowRunner(storage, flows=[new], recover_every=None) as runner:
        assert await runner.recover() == 1
    assert (await new.load(fork.run_id, persistence=storage)).result == "new did the work"


async def test_a_subclass_is_not_formerly_what_its_base_was(storage: Any) -> None:
    await failed(module("old"), storage)
    new = module("new", body='formerly = "old.Process"')

    class Below(new):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(errors.RunFlowMismatchError):
        await Below.resume("parcel-7", persistence=storage)


# ---- scripts -------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, anyio
from asyncflow import *

class MyFlow(Flow[dict]):
    @start()
    async def begin(self):
        self.state["script"] = "{name}"

    @listen(begin)
    async def finish(self):
        if "die" in sys.argv:
            os._exit(3)
        return "{name} on " + self.state["script"]

if __name__ == "__main__":
    async def main():
        async with FlowRunner(SQLiteFlowPersistence("runs.db"), flows=[MyFlow], recover_every=None) as runner:
            if "die" in sys.argv:
                await runner.run(MyFlow, run_id="x")
            print(await runner.recover())
        print((await MyFlow.load("x", persistence=SQLiteFlowPersistence("runs.db"))).result)

    anyio.run(main)
"""


def run_python(*args: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{Path(asyncflow.__file__).parents[1]}{os.pathsep}{Path.cwd()}"}
    return subprocess.run([sys.executable, *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=120)


def script(path: str) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(SCRIPT.format(name=path))


def test_two_scripts_over_one_file_leave_each_other_s_runs_alone() -> None:
    for path in ("one.py", "two.py"):
        script(path)
    assert run_python("one.py", "die").returncode == 3

    other = run_python("two.py")
    assert other.stdout == "0\n"
    assert "RunFlowMismatchError" in other.stderr
    assert run_python("one.py").stdout == "1\none.py on one.py\n"


def test_two_scripts_of_one_name_in_two_folders_leave_each_other_s_runs_alone() -> None:
    for path in ("a/main.py", "b/main.py"):
        script(path)
    assert run_python("a/main.py", "die").returncode == 3

    assert run_python("b/main.py").stdout == "0\n"
    assert run_python("a/main.py").stdout == "1\na/main.py on a/main.py\n"


RUNPY = "import runpy; runpy.run_path('app.py', run_name='__main__')"


@pytest.mark.parametrize(
    "again", [["app.py"], ["./app.py"], ["-m", "app"], ["-c", RUNPY]], ids=["script", "./script", "-m", "runpy"]
)
def test_a_script_resumes_its_runs_however_it_is_started(again: list[str]) -> None:
    script("app.py")
    assert run_python("app.py", "die").returncode == 3

    assert run_python(*again).stdout == "1\napp.py on app.py\n"


def test_a_run_stored_by_a_script_is_resumed_by_its_module_and_the_other_way_round() -> None:
    script("package/app.py")
    resume = "import anyio, asyncflow, {0}; print(anyio.run(lambda: {0}.MyFlow.resume('x', {1})))"
    where = "persistence=asyncflow.SQLiteFlowPersistence('runs.db')"
    start_run = (
        "import anyio, asyncflow, sys, {0}; sys.argv.append('die'); anyio.run({0}.MyFlow({1}).kickoff, {{'id': 'x'}})"
    )

    assert run_python("package/app.py", "die").returncode == 3
    assert run_python("-c", resume.format("package.app", where)).stdout == "package/app.py on package/app.py\n"

    os.unlink("runs.db")
    assert run_python("-c", start_run.format("package.app", where)).returncode == 3
    assert run_python("package/app.py").stdout == "1\npackage/app.py on package/app.py\n"


# ---- runs of 0.1, which know the bare name alone -------------------------------------------------------------------


async def of_0_1(storage: Any, stored: Checkpoint) -> None:
    """Store a checkpoint as 0.1 did."""
    state = (stored.state or b"").replace(b"parcel-7", b"old")
    older = stored._replace(
        run_id="old", state=state, identity="", format=1, version="", seq=0, base=0, previous=b"", epoch=1
    )
    await storage.append(older.sealed())


async def test_a_run_of_0_1_loads_where_the_class_has_the_methods_that_it_waits_for(storage: Any) -> None:
    billing = module("billing")
    await failed(billing, storage)
    await of_0_1(storage, await storage.load("parcel-7"))

    class Process(Flow[dict[str, Any]]):
        @start()
        async def other(self) -> None: ...

    with pytest.raises(errors.RunFlowMismatchError, match=r"stored by asyncflow 0\.1 .* waits for work"):
        await Process.load("old", persistence=storage)
    assert await billing.resume("old", persistence=storage) == "billing did the work"


@pytest.mark.parametrize("formerly", ["Process", "billing.Process"])
async def test_a_run_of_0_1_follows_a_class_that_was_renamed_since(formerly: str, storage: Any) -> None:
    await failed(module("billing"), storage)
    await of_0_1(storage, await storage.load("parcel-7"))
    renamed = module("new", body=f'name = "renamed"; formerly = {formerly!r}')

    async with FlowRunner(storage, flows=[renamed], recover_every=None) as runner:
        assert await (await runner.start(renamed, run_id="old")).status() == "failed"
    assert await renamed.resume("old", persistence=storage) == "new did the work"


async def test_a_declared_name_is_no_bare_name_of_0_1(storage: Any) -> None:
    await failed(module("billing", body='name = "Process"'), storage)

    with pytest.raises(errors.RunFlowMismatchError):
        await module("shipping").resume("parcel-7", persistence=storage)


NO_NAMES = [3, b"x", "\ud800", "a\0b", ("a", "b")]


@pytest.mark.found("B1")
@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_name_that_cannot_be_stored_is_refused_when_the_class_is_made(name: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match="name must be a string"):
        type("Named", (Flow,), {"name": name})
    with pytest.raises(errors.FlowDefinitionError, match="name must be a string"):

        class Keyword(Flow, name=name):
            @start()
            async def first(self) -> None: ...

    class Fine(Flow):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="name must be a string"):
        Fine(name=name)


@pytest.mark.found("B1")
@pytest.mark.parametrize("formerly", [3, b"x", [3], ["a", "\ud800"]], ids=ascii)
def test_former_names_are_strings(formerly: Any) -> None:
    with pytest.raises(errors.FlowDefinitionError, match="formerly must be a string"):
        type("Named", (Flow,), {"formerly": formerly})
    with pytest.raises(errors.FlowDefinitionError, match="formerly must be a string"):

        class Keyword(Flow, formerly=formerly):
            pass


@pytest.mark.found("B1")
def test_a_runner_refuses_two_classes_that_were_formerly_the_same() -> None:
    class A(Flow, name="a", formerly="old.P"):
        @start()
        async def first(self) -> None: ...

    class B(Flow, name="b", formerly=("older.P", "old.P")):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match=r"a and b both declare formerly = 'old\.P'"):
        FlowRunner(flows=[A, B])


@pytest.mark.found("B1")
async def test_a_runner_that_does_not_know_the_flow_of_a_run_names_it_and_says_what_to_write(storage: Any) -> None:
    class Billed(Flow, name="billing.Process"):
        @start()
        async def first(self) -> None:
            raise RuntimeError

    class Other(Flow):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.MethodError):
        await Billed(persistence=storage).kickoff({"id": "x"})
    async with FlowRunner(storage, flows=[Other]) as runner:
        with pytest.raises(
            errors.RunFlowMismatchError, match=r"flow billing\.Process, .* formerly = 'billing\.Process'"
        ):
            await runner.resume("x")


def test_the_base_class_itself_is_refused_where_a_flow_is_expected() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="Flow has no methods; subclass it"):
        Flow()
    with pytest.raises(TypeError, match="Flow itself is neither"):
        FlowRunner(flows=[Flow])
