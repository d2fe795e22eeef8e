"""The spans of runs: their parents, links and attributes, and that each of them ends."""

import contextvars
import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Retry,
    Signal,
    continue_as,
    each,
    listen,
    report,
    run_child,
    sleep,
    start,
    step,
    stream,
    wait_for,
)
from asyncflow.errors import MethodError, RunCancelledError, RunTimeoutError

STORAGES = pytest.mark.parametrize("storage", [None, MemoryFlowPersistence], ids=["forgets", "memory"])
SECRET = "canary-4711"


class Report(Flow[dict[str, Any]]):
    @start()
    async def fetch(self) -> int:
        with trace.get_tracer_provider().get_tracer("x").start_as_current_span("ignored"):
            return 1

    @listen(fetch)
    def publish(self, pages: int) -> str:
        return "done"


def parent_of(span: Any) -> Any:
    return None if span.parent is None else span.parent.span_id


@STORAGES
async def test_a_run_is_a_span_below_its_caller_and_each_method_one_below_the_run(told: Any, storage: Any) -> None:
    flow = Report(persistence=storage and storage(), observers=[told.observer()])

    with told.tracer.start_as_current_span("request") as request:
        await flow.kickoff({"secret": SECRET})
        assert trace.get_current_span() is request

    run, fetch, publish = told.one("flow Report"), told.one("method Report.fetch"), told.one("method Report.publish")
    assert parent_of(run) == request.get_span_context().span_id
    assert parent_of(fetch) == parent_of(publish) == run.context.span_id
    assert {span.context.trace_id for span in told.spans} == {request.get_span_context().trace_id}
    about = {"asyncflow.run.id": flow.run_id, "asyncflow.flow": "Report"}
    assert run.attributes == {**about, "asyncflow.pass": 1, "asyncflow.run.status": "finished"}
    method = {"asyncflow.method": "publish", "asyncflow.invocation": "publish:1", "asyncflow.attempt": 1}
    assert publish.attributes == {**about, **method, "asyncflow.trigger": ("fetch:1",)}
    assert run.status.status_code is StatusCode.UNSET
    assert SECRET not in str([span.to_json() for span in told.spans])


async def test_in_a_method_and_in_its_thread_its_span_is_the_current_one(told: Any) -> None:
    mark = contextvars.ContextVar("mark", default=0)

    class Nests(Flow):
        @start()
        async def first(self) -> None:
            mark.set(1)  # the engine goes on in a fresh context
            with told.tracer.start_as_current_span("inside"):
                await anyio.lowlevel.checkpoint()

        @listen(first)
        def second(self) -> None:
            with told.tracer.start_as_current_span("in a thread"):
                pass

    await Nests(observers=[told.observer()]).kickoff()

    assert parent_of(told.one("inside")) == told.one("method Nests.first").context.span_id
    assert parent_of(told.one("in a thread")) == told.one("method Nests.second").context.span_id
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_method_that_sets_context_variables_leaves_no_error_in_the_log(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mark = contextvars.ContextVar("mark", default=0)

    class Sets(Flow):
        @start()
        async def first(self) -> None:
            mark.set(1)

        @listen(first)
        async def second(self) -> int:
            return mark.get()

    with caplog.at_level(logging.WARNING):
        assert await Sets(observers=[told.observer()]).kickoff() == 0

    assert caplog.records == []


async def test_a_failed_method_has_its_exception_and_the_run_its_type(told: Any) -> None:
    class Fails(Flow):
        @start(retry=Retry(attempts=2, initial=0))
        async def fetch(self) -> None:
            raise ConnectionError("refused")

    with pytest.raises(MethodError):
        await Fails(observers=[told.observer()]).kickoff()

    first, second = told.named("method Fails.fetch")
    assert (first.attributes["asyncflow.attempt"], second.attributes["asyncflow.attempt"]) == (1, 2)
    assert second.status.status_code is StatusCode.ERROR
    assert second.attributes["error.type"] == "builtins.ConnectionError"
    (event,) = second.events
    assert (event.name, event.attributes["exception.type"]) == ("exception", "builtins.ConnectionError")
    assert "in fetch" in event.attributes["exception.stacktrace"]
    run = told.one("flow Fails")
    assert (run.status.status_code, run.attributes["error.type"]) == (StatusCode.ERROR, "builtins.ConnectionError")
    assert [event.name for event in run.events] == ["attempt failed"]


async def test_the_message_of_an_exception_is_exported_only_where_that_is_asked_for(told: Any) -> None:
    class Fails(Flow[dict[str, Any]]):
        @start()
        async def fetch(self) -> None:
            try:
                raise KeyError(self.state["secret"])
            except KeyError as error:
                raise ConnectionError(f"refused: {self.state['secret']}") from error

    for asked in (False, True):
        with pytest.raises(MethodError):
            await Fails(observers=[told.observer(exception_messages=asked)]).kickoff({"secret": SECRET})

    without, with_it = (span.to_json() for span in told.named("method Fails.fetch"))
    assert SECRET not in without
    assert f"refused: {SECRET}" in with_it
    assert SECRET not in str([span.to_json() for span in told.named("flow Fails")])


async def test_the_type_of_the_error_of_a_run_whose_time_is_over_is_that_of_the_limit(told: Any) -> None:
    class Late(Flow):
        run_timeout = 0.02

        @start()
        async def go(self) -> None:
            await anyio.sleep_forever()

    for storage in (None, MemoryFlowPersistence()):
        with pytest.raises(RunTimeoutError):
            await Late(persistence=storage, observers=[told.observer()]).kickoff()

    for run in told.named("flow Late"):
        assert run.attributes["asyncflow.run.status"] == "failed"
        assert run.attributes["error.type"] == "asyncflow.errors.RunTimeoutError"


async def test_two_observers_trace_a_run_each_for_itself(told: Any) -> None:
    flow = Report(persistence=MemoryFlowPersistence(), observers=[told.observer(), told.observer()])
    await flow.kickoff()

    runs, methods = told.named("flow Report"), told.named("method Report.fetch")
    assert {parent_of(method) for method in methods} == {run.context.span_id for run in runs}
    assert len(runs) == len(methods) == 2


async def test_no_value_is_in_any_span_or_metric(told: Any) -> None:
    async def keep(value: str) -> str:
        return value

    class Child(Flow[dict[str, Any]]):
        @start()
        async def work(self) -> str:
            return str(self.state["secret"])

    class Talks(Flow[dict[str, Any]]):
        answer = Signal("answer", str)

        @start()
        async def ask(self) -> list[str]:
            report(1, 2, SECRET)
            stream(SECRET)
            found = await step(keep, SECRET, key=SECRET)
            await run_child(Child, {"secret": SECRET}, key=SECRET)
            return [found, await wait_for(self.answer)]

        @listen(each(ask))
        async def work(self, item: str) -> str:
            self.state[item] = item
            raise ValueError(item)

    storage = MemoryFlowPersistence()
    flow = Talks(persistence=storage, observers=[told.observer()])

    async def answered() -> None:
        await anyio.wait_all_tasks_blocked()
        await Talks.signal(flow.run_id, "answer", SECRET, persistence=storage)

    async with anyio.create_task_group() as group:
        group.start_soon(answered)
        with pytest.raises(MethodError):
            await flow.kickoff({"secret": SECRET})

    assert {"flow Talks", "method Talks.ask", "method Talks.work", "flow Child"} <= {span.name for span in told.spans}
    assert SECRET not in str([span.to_json() for span in told.spans])
    assert SECRET not in str(told.reader.get_metrics_data())


async def test_a_resumed_run_begins_a_new_trace_that_is_linked_to_the_one_before(told: Any) -> None:
    class Recovers(Flow):
        is_broken = True

        @start()
        async def first(self) -> int:
            return 1

        @listen(first)
        async def second(self) -> str:
            if Recovers.is_broken:
                raise ConnectionError
            return "done"

    storage = MemoryFlowPersistence()
    flow = Recovers(persistence=storage, observers=[told.observer()])
    with pytest.raises(MethodError):
        await flow.kickoff()
    Recovers.is_broken = False
    with told.tracer.start_as_current_span("resuming request") as request:
        another_process = {"persistence": storage, "observers": [told.observer()]}
        assert await Recovers.resume(flow.run_id, **another_process) == "done"

    before, after = told.named("flow Recovers")
    assert after.parent is None
    assert after.context.trace_id not in (before.context.trace_id, request.get_span_context().trace_id)
    linked = [link.context.span_id for link in after.links]
    assert linked == [before.context.span_id, request.get_span_context().span_id]
    assert after.attributes["asyncflow.run.resumed"] is True
    assert told.named("method Recovers.second")[1].context.trace_id == after.context.trace_id


async def test_every_resume_in_a_row_is_linked_to_a_trace_of_the_run_before_it(told: Any) -> None:
    class Hangs(Flow):
        @start()
        async def first(self) -> None:
            pass

        @listen(first)
        async def hang(self) -> None:
            await anyio.sleep_forever()

    storage = MemoryFlowPersistence()
    flow = Hangs(persistence=storage, observers=[told.observer()])
    with anyio.move_on_after(0.02):
        await flow.kickoff()
    for _ in range(3):
        with anyio.move_on_after(0.02):
            await Hangs.resume(flow.run_id, persistence=storage, observers=[told.observer()])

    runs = told.named("flow Hangs")
    for n, run in enumerate(runs[1:], 1):
        (link,) = run.links
        assert link.context.span_id in {before.context.span_id for before in runs[:n]}
    assert len({run.context.trace_id for run in runs}) == len(runs) == 4


async def test_without_an_observer_a_run_stores_no_trace() -> None:
    storage = MemoryFlowPersistence()
    flow = Report(persistence=storage)
    await flow.kickoff()

    stored = await storage.load(flow.run_id)
    assert stored is not None
    assert b"trace" not in (stored.progress or b"")


async def test_a_child_is_below_the_method_that_runs_it(told: Any) -> None:
    class Child(Flow):
        @start()
        async def work(self) -> int:
            return 1

    class Parent(Flow):
        @start()
        async def ask(self) -> int:
            return int(await run_child(Child)) + int(await run_child(Child, key="again"))

    observer = told.observer()
    Child.observers = Parent.observers = [observer]  # both name it: it is called once for each event
    await Parent(persistence=MemoryFlowPersistence()).kickoff()

    children = told.named("flow Child")
    ask = told.one("method Parent.ask").context.span_id
    assert [parent_of(child) for child in children] == [ask, ask]
    assert len(told.named("method Child.work")) == 2
    assert children[0].attributes["asyncflow.run.parent_id"] == told.one("flow Parent").attributes["asyncflow.run.id"]
    assert observer._runs == {}


async def test_steps_and_waits_are_events_of_the_span_of_their_method(told: Any) -> None:
    async def pay(amount: int) -> int:
        return amount

    class Steps(Flow):
        @start()
        async def work(self) -> None:
            await step(pay, 3, key=SECRET)
            await sleep(0.001)

    await Steps(persistence=MemoryFlowPersistence(), observers=[told.observer()]).kickoff()

    span = told.one("method Steps.work")
    assert [event.name for event in span.events] == ["step finished", "waiting"]
    assert span.events[0].attributes["asyncflow.step"].endswith("pay")
    assert SECRET not in span.to_json()


async def test_each_item_has_a_span_and_nothing_is_kept_of_those_that_have_ended(told: Any) -> None:
    most = 0

    class Items(Flow):
        @start()
        async def fetch(self) -> list[int]:
            return list(range(200))

        @listen(each(fetch), limit=5)
        async def work(self, item: int) -> int:
            nonlocal most
            most = max(most, len(observer._runs[self.run_id].methods))
            await anyio.lowlevel.checkpoint()
            return item

    observer = told.observer()
    await Items(observers=[observer]).kickoff()

    spans = told.named("method Items.work")
    assert sorted(span.attributes["asyncflow.invocation"] for span in spans)[0] == "work:1[0]"
    assert len(spans) == 200
    assert most <= 5


async def test_a_parked_run_ends_its_spans_and_the_trace_after_it_is_linked(told: Any) -> None:
    class Asks(Flow):
        approved = Signal("approved", bool)

        @start()
        async def ask(self) -> int:
            return 1

        @listen(approved, keep_open=True)
        async def go(self, approved: bool) -> bool:
            return approved

    observer, storage = told.observer(), MemoryFlowPersistence()
    flow = Asks(persistence=storage, observers=[observer])
    await flow.kickoff(until="waiting")
    assert flow.status == "waiting"

    waited = told.one("flow Asks")
    assert waited.attributes["asyncflow.run.status"] == "waiting"
    assert observer._runs == {}
    await Asks.signal(flow.run_id, "approved", True, persistence=storage)
    assert await Asks.resume(flow.run_id, persistence=storage, observers=[observer])
    _, woken = told.named("flow Asks")
    assert [link.context.span_id for link in woken.links] == [waited.context.span_id]
    assert observer._runs == {}


@STORAGES
async def test_cancelled_and_interrupted_runs_end_their_spans(told: Any, storage: Any) -> None:
    class Hangs(Flow):
        @start()
        async def hang(self) -> None:
            await anyio.sleep_forever()

    observer = told.observer()
    flow = Hangs(persistence=storage and storage(), observers=[observer])
    with anyio.move_on_after(0.05):
        await flow.kickoff()
    other = Hangs(persistence=storage and storage(), observers=[observer])
    async with anyio.create_task_group() as group:

        async def cancelled() -> None:
            with pytest.raises(RunCancelledError):
                await other.kickoff()

        group.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        await other.cancel()

    statuses = [run.attributes["asyncflow.run.status"] for run in told.named("flow Hangs")]
    assert statuses == ["interrupted", "cancelled"]
    for span in told.named("method Hangs.hang"):
        assert span.attributes["asyncflow.interrupted"] is True
        assert span.status.status_code is StatusCode.UNSET
    assert observer._runs == {}


async def test_a_runner_that_drains_ends_all_spans_also_of_runs_that_wait_for_a_slot(told: Any) -> None:
    class Hangs(Flow):
        @start()
        async def hang(self) -> None:
            await anyio.sleep_forever()

    observer = told.observer()
    with told.tracer.start_as_current_span("request") as request:
        async with FlowRunner(
            MemoryFlowPersistence(), observers=[observer], max_running=1, grace=0.01, patience=0.01
        ) as runner:
            await runner.start(Hangs)
            await runner.start(Hangs)
            await anyio.wait_all_tasks_blocked()

    runs = told.named("flow Hangs")
    assert [run.attributes["asyncflow.run.status"] for run in runs] == ["interrupted", "interrupted"]
    assert {parent_of(run) for run in runs} == {request.get_span_context().span_id}
    assert observer._runs == {}


async def test_a_refused_start_leaves_no_span(told: Any) -> None:
    storage, observer = MemoryFlowPersistence(), told.observer()

    class Storage(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        await Report(persistence=Storage(), observers=[observer]).kickoff()

    assert observer._runs == {}
    assert told.one("flow Report").attributes["asyncflow.run.status"] == "interrupted"
    del storage


async def test_each_pass_of_an_endless_run_has_a_trace_of_its_own(told: Any) -> None:
    class Turns(Flow[dict[str, int]]):
        @start()
        async def turn(self) -> None:
            self.state["n"] = self.state.get("n", 0) + 1
            if self.state["n"] < 3:
                continue_as(dict(self.state))

    observer = told.observer()
    await Turns(persistence=MemoryFlowPersistence(), observers=[observer]).kickoff()

    first, second, third = told.named("flow Turns")
    assert [run.attributes["asyncflow.pass"] for run in (first, second, third)] == [1, 2, 3]
    assert [link.context.span_id for link in third.links] == [second.context.span_id]
    assert len({run.context.trace_id for run in (first, second, third)}) == 3


async def test_names_of_genai_workflows_only_where_they_are_asked_for(told: Any, monkeypatch: Any) -> None:
    await Report(observers=[told.observer()]).kickoff()
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    await Report(observers=[told.observer()]).kickoff()

    without, with_them = told.named("flow Report")
    assert not [name for name in without.attributes if name.startswith("gen_ai")]
    assert with_them.attributes["gen_ai.operation.name"] == "invoke_workflow"
    assert with_them.attributes["gen_ai.workflow.name"] == "Report"
