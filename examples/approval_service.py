"""An approval service: an article is drafted, a person approves it or asks for a revision, and after two days it expires.

`uvicorn examples.approval_service:app --workers 2` serves it; http://127.0.0.1:8000/ is the page on which articles are approved. A run
that waits is parked and needs no worker: either of them accepts its signal, and either wakes it, also if the other one was killed.
"""

import os
from datetime import timedelta
from typing import Literal

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowRunner, FlowState, Signal, after, and_, listen, or_, router, start
from asyncflow.integrations.fastapi import flow_router, lifespan

LIMIT = timedelta(seconds=float(os.environ.get("APPROVAL_SECONDS", 2 * 86_400)))
"""How long a person may take to answer."""


class Decision(BaseModel):
    approved: bool
    remark: str = ""


class Article(FlowState):
    title: str = Field(min_length=1, max_length=200)
    text: str = ""
    remarks: list[str] = Field(default_factory=list)
    published: int = 0


class Publish(Flow[Article]):
    """Drafts an article, asks until it is approved, and publishes it."""

    decided = Signal("decided", Decision)

    @start("revise")
    async def draft(self) -> None:
        self.state.text = " ".join((f"About {self.state.title}.", *self.state.remarks))

    @listen(draft)
    async def ask(self) -> None:
        """Nothing but the question: a service would send a mail, with `self.invocation_id` as its idempotency key."""

    @router(or_(and_(ask, decided), after(ask, LIMIT)))
    async def decide(self, decision: Decision | None) -> Literal["revise", "approved", "too late"]:
        if decision is None:
            return "too late"
        if not decision.approved:
            self.state.remarks.append(decision.remark)
        return "approved" if decision.approved else "revise"

    @listen("approved")
    async def publish(self) -> str:
        self.state.published += 1
        return self.state.text

    @listen("too late")
    async def expire(self) -> str:
        return "no answer came"


PAGE = """<!doctype html>
<title>Approvals</title>
<form id="new"><input name="title" placeholder="Title" required> <button>Write</button></form>
<ul id="runs"></ul>
<script>
async function send(path, body, key) {
  const headers = {"Content-Type": "application/json", ...(key && {"Idempotency-Key": key})};
  const answer = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)});
  if (!answer.ok) alert(`Not accepted (${answer.status}): ${await answer.text()}`);
}
async function show() {
  const list = document.getElementById("runs"), page = await (await fetch("/runs")).json();
  const runs = await Promise.all(page.runs.map(async r => (await fetch("/runs/" + encodeURIComponent(r.run_id))).json()));
  list.replaceChildren(...runs.map(run => {
    const line = document.createElement("li");
    line.append(`${run.state.text || run.state.title}: ${run.status} `);
    if (run.waits_for.includes("decided")) for (const approved of [true, false]) {
      const button = document.createElement("button");
      button.textContent = approved ? "Approve" : "Revise";
      // one key for each question: a second click on an old page sends nothing again
      button.onclick = async () => {
        const remark = approved ? "" : prompt("What is missing?");
        if (remark === null) return;  // cancelled
        await send(`/runs/${encodeURIComponent(run.run_id)}/signals/decided`, {approved, remark}, `answer-${run.state.remarks.length}`);
        show();
      };
      line.append(button);
    }
    return line;
  }));
}
document.getElementById("new").onsubmit = async event => {
  event.preventDefault();
  await send("/flows/Publish", {title: event.target.title.value});
  show();
};
show(); setInterval(show, 2000);
</script>
"""

runner = FlowRunner(flows=[Publish])
app = FastAPI(title="Approvals", lifespan=lifespan(runner))
app.include_router(flow_router(runner, [Publish], signals=[Publish.decided]))


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE
