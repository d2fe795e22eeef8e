"""Flows with everything that a picture shows, and names that are markup or reserved words of some format."""

from datetime import timedelta
from typing import Any, Literal

from asyncflow import Flow, Retry, Signal, after, and_, each, listen, or_, router, run_child, sleep, start, step
from asyncflow._pictures.deriving import picture_of
from asyncflow._pictures.picture import Picture

approved = Signal("approved", str)
withdrawn = Signal("withdrawn")


class Linear(Flow):
    @start()
    async def fetch(self) -> str:
        return "text"

    @listen(fetch)
    async def parse(self, text: str) -> str:
        """Split the text into words.

        And more.
        """
        return text

    @listen(parse, output=True)
    async def report(self, text: str) -> str:
        return text


class Publish(Flow):
    @start()
    async def plan(self) -> list[str]:
        return ["a", "b"]

    @start()
    async def load_rules(self) -> str:
        return "rules"

    @listen(each(plan), limit=10, retry=Retry(attempts=3))
    async def research(self, topic: str) -> str:
        return topic

    @listen(or_(and_(research, load_rules), "revise"), timeout=90)
    async def write(self) -> str:
        await sleep(0)
        return "draft"

    @router(write)
    async def review(self, draft: str) -> Literal["revise", "good", "give up"]:
        return "good"

    @router(and_("good", or_(approved, after("good", timedelta(days=2)))))
    async def decide(self) -> Literal["out", "drop"]:
        return "out"

    @listen("out", output=True)
    async def publish(self) -> Any:
        await step(print, "published")
        return await run_child(Linear)

    @listen(withdrawn, keep_open=False)
    async def withdraw(self) -> None: ...


MARKUP = (
    *(
        'a"b',
        "<script>alert(1)</script>",
        "</script>",
        "1. one",
        "2) two",
        "- x",
        "+ x",
        "a -- b --> c",
        "a|b",
        "`x`",
        "**b**",
        "_y_",
    ),
    *(
        "\\n",
        "\\N \\G",
        "&lt;",
        "#35;",
        "%% c",
        "~~s~~",
        "[x](y)",
        "http://a.b",
        "{",
        "}}",
        '"]',
        "é ü 漢字",
        "linkStyle",
        "href",
    ),
    *("tab\tnew\nline", "a\x00b", "left\u202eright", "x" * 300),
)
"""Labels that some format could read as its own."""


class Awkward(Flow, name='<b>"A" & \\ end'):
    @start()
    async def end(self) -> None: ...

    @router(end, emit=MARKUP)
    async def graph(self) -> str:
        return "href"

    @listen(or_(*MARKUP[:20]))
    async def subgraph(self) -> None: ...

    @listen(MARKUP[20])
    async def node(self) -> None: ...

    @listen(MARKUP[-3])
    async def größe(self) -> None: ...

    @listen(node)
    async def _x_(self) -> None: ...


def drawn(flow: type[Flow[Any, Any]]) -> Picture:
    return picture_of(flow._definition, flow.name or "")
