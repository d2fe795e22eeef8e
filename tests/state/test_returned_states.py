"""A state whose model was given an `id` may be used wherever the model that was declared may: in results, states and inputs."""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel, Field, PrivateAttr

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, listen, persist, start

pytestmark = [pytest.mark.found("B7"), pytest.mark.clauses("V1")]


class Article(BaseModel):
    title: str = ""
    marks: list[float] = Field(default_factory=list)
    cache: dict[str, int] = Field(default_factory=dict, exclude=True)
    _notes: str = PrivateAttr(default="")


class Other(BaseModel):
    name: str = ""


class Write(Flow[Article]):
    @start()
    async def write(self) -> None:
        self.state.title = "Tea"
        self.state.marks = [1]  # an int where a float is declared
        self.state._notes = "mine"


@dataclasses.dataclass
class Shelf:
    article: Article


RESULTS: dict[str, tuple[Any, Any, Any]] = {
    "itself": (Article, lambda state: state, lambda result: result),
    "a list": (list[Article], lambda state: [state, Article(title="x")], lambda result: result[0]),
    "optional": (Article | None, lambda state: state, lambda result: result),
    "one of two": (Article | Other, lambda state: state, lambda result: result),
    "a dict": (dict[str, Article], lambda state: {"a": state}, lambda result: result["a"]),
    "a tuple": (tuple[int, Article], lambda state: (1, state), lambda result: result[1]),
    "nested": (dict[str, list[Article | None]], lambda state: {"a": [None, state]}, lambda result: result["a"][1]),
    "a dataclass": (Shelf, lambda state: Shelf(state), lambda result: result.article),
}


@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize(("annotation", "wrap", "unwrap"), RESULTS.values(), ids=RESULTS)
async def test_a_state_may_be_returned(annotation: Any, wrap: Any, unwrap: Any, stored: bool) -> None:
    persistence = SQLiteFlowPersistence("runs.db") if stored else None

    class Returns(Flow[Article]):
        @start()
        async def write(self) -> annotation:
            self.state.title = "Tea"
            self.state.marks = [1]
            return wrap(self.state)

        @listen(write)
        async def read(self, given: Any) -> annotation:
            got.append(unwrap(given))
            if is_failing:
                raise ValueError
            return given

    got: list[Any] = []
    is_failing = stored
    flow = Returns(persistence=persistence)
    if stored:
        with pytest.raises(MethodError):
            await flow.kickoff()
        is_failing = False
    result = await flow.kickoff()
    again = (await Returns.load(flow.run_id, persistence=persistence)).result if stored else result

    for article in (*got, unwrap(result), unwrap(again)):
        assert isinstance(article, Article)
        assert (article.title, article.marks) == ("Tea", [1.0])
    assert len(got) == 1 + stored
    if stored:
        assert type(unwrap(result)) is type(unwrap(again)) is Article


class Site(FlowState):
    article: Article = Field(default_factory=Article)
    articles: dict[str, list[Article]] = Field(default_factory=dict)
    count: int = 0


@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_a_state_may_hold_the_state_of_another_flow(stored: bool) -> None:
    class Publish(Flow[Site]):
        @start()
        async def write(self) -> None:
            writing = Write()
            await writing.kickoff()
            writing.state.cache["a"] = 1
            self.state.article = writing.state
            self.state.articles["a"] = [writing.state]

        @listen(write)
        async def check(self) -> tuple[str, str, dict[str, int]]:
            self.state.count += 1
            article = self.state.article
            return self.state.articles["a"][0].title, article._notes, article.cache

    persistence = MemoryFlowPersistence() if stored else None
    flow = Publish(persistence=persistence)

    assert await flow.kickoff() == ("Tea", "mine", {"a": 1})
    if persistence is not None:
        loaded = (await Publish.load(flow.run_id, persistence=persistence)).state
        assert loaded.articles["a"][0] == loaded.article == Article(title="Tea", marks=[1.0])


async def test_another_flows_state_may_be_an_input() -> None:
    class Publish(Flow[Site]):
        @start()
        async def read(self) -> str:
            return self.state.article.title

    writing = Write()
    await writing.kickoff()
    flow = Publish(persistence=MemoryFlowPersistence())

    assert await flow.kickoff({"article": writing.state}) == "Tea"


async def test_a_subclass_of_ones_own_is_still_refused_where_it_would_load_as_its_base() -> None:
    class More(Article):
        more: int = 0

    class Returns(Flow[Article]):
        @start()
        async def write(self) -> Article:
            return More(more=1)

    with pytest.raises(MethodError, match="ResultNotStorableError"):
        await persist(MemoryFlowPersistence())(Returns)().kickoff()
