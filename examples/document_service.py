"""A document service: each document of a list goes through a slow, unreliable API, and the page shows live how far each one is.

`uvicorn examples.document_service:app --workers 2` serves it on http://127.0.0.1:8000/. The workers share `./asyncflow.db`, or what
`$ASYNCFLOW_DB` names: another SQLite file, or a `postgresql://` URL. Kill a worker meanwhile: the other one continues with the documents
that have not completed, in the attempt and the pause where they were.
"""

import base64
import hashlib
import os
import random
import time
from typing import Annotated

import anyio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field, StringConstraints

from asyncflow import Flow, FlowRunner, FlowState, Retry, RetryAfter, each, listen, report, start, step, this_invocation
from asyncflow.integrations.fastapi import flow_router, lifespan

SECONDS = float(os.environ.get("API_SECONDS", "1"))
"""How long an answer of the API takes."""
SEED = os.environ.get("API_SEED", "1")
"""Which calls fail. The same ones in each process; none if it is empty."""
LOG = os.environ.get("API_LOG", os.devnull)
"""The file to which the API appends a line for each call."""

TRY_AGAIN = Retry(attempts=10, initial=SECONDS, maximum=30.0, on=(ConnectionError, TimeoutError))
"""For the errors that pass by themselves; a fault of the program is not tried again."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Job(FlowState):
    documents: list[Name] = Field(min_length=1, max_length=100)


class Summary(BaseModel):
    document: str
    title: str
    text: str
    attempt: int


class Report(BaseModel):
    summaries: list[Summary]
    attempts: int


class Summarize(Flow[Job, Report]):
    """Summarizes documents, and joins the summaries into a report, in the order of the documents."""

    @start()
    async def fetch(self) -> list[str]:
        """A service would ask a storage; here the list is what was posted, each document once."""
        self.state.documents = list(dict.fromkeys(self.state.documents))
        return self.state.documents

    @listen(each(fetch), limit=4, retry=TRY_AGAIN, timeout=5 * SECONDS)
    async def summarize(self, document: str) -> Summary:
        # the expensive call: its answer is stored, and the call is not repeated if the next one fails
        report(0, 2, "text")
        text = await step(call_api, "text", document)
        report(1, 2, "title")
        title = await call_api("title", document)
        return Summary(document=document, title=title, text=text, attempt=this_invocation().attempt)

    @listen(summarize)
    async def join(self, summaries: list[Summary]) -> Report:
        return Report(summaries=summaries, attempts=sum(summary.attempt for summary in summaries))


async def call_api(task: str, document: str) -> str:
    """The API, which charges for each answer. A real one would get the key, to charge for a repeated call once; this one logs it."""
    call = this_invocation()
    key, attempt = f"{call.invocation_id}/{task}", call.attempt
    dice = random.Random(f"{SEED} {task} {document} {attempt}")
    trouble = dice.choice(("none", "none", "fails", "slow", "busy")) if SEED and attempt < 5 else "none"
    log("called", key, attempt)
    await anyio.sleep(SECONDS * (10 if trouble == "slow" else dice.uniform(0.5, 1.0)))
    if trouble == "fails":
        raise ConnectionError("the API has closed the connection")
    if trouble == "busy":
        raise RetryAfter(2 * SECONDS)  # as with the status 429 and a header Retry-After
    log("answered", key, attempt)
    return f"The {task} of {document}."


def log(what: str, key: str, attempt: int) -> None:
    """Append a line with one system call: no transaction undoes it, and lines of several processes do not mix."""
    file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{what} {key} {attempt} {os.getpid()} {time.time()!r}\n".encode())
    os.close(file)


SCRIPT = """
const at = id => document.getElementById(id);
let source, run, heard, key;  // events; the run that is shown; the news of its documents; of a request
const isOver = () => ["finished", "failed", "cancelled"].includes(run?.status);

function draw() {
  const names = run.state.documents, done = heard.filter(text => text === "done").length;
  at("status").textContent = `${run.status}: ${done} of ${names.length} done`;
  Object.assign(at("done"), {max: names.length, value: done});
  at("items").replaceChildren(...names.map((name, n) => {
    const line = document.createElement("li");
    line.textContent = `${name}: ${heard[n] ?? "not done"}`;
    return line;
  }));
  at("report").textContent = run.result?.summaries.map(summary => `${summary.title} ${summary.text}`).join("\\n") ?? "";
  at("resume").hidden = run.status !== "failed";
}
async function show(id) {
  const answer = await fetch(`/runs/${id}`).catch(() => null);
  if (location.hash !== `#${id}`) return;  // another run is shown by now
  if (answer?.status === 404) return [location.hash, at("status").textContent] = ["", "There is no such run."];
  if (!answer?.ok) return setTimeout(show, 1000, id);
  run = await answer.json();
  draw();
}
function watch(id) {
  location.hash = id;  // the address of the page shows the same run again
  source?.close();
  [run, heard, source] = [null, [], new EventSource(`/runs/${id}/events`)];  // it reconnects, and continues after the last event
  show(id);
  source.onmessage = message => {
    const event = JSON.parse(message.data), item = /^summarize:1\\[(\\d+)\\]$/.exec(event.invocation)?.[1];
    if (event.event === "RunResumed") heard = heard.map(text => text === "failed" ? "tried again" : text);
    if (item === undefined) return show(id);
    const due = new Date(event.due * 1000).toLocaleTimeString();
    const again = `attempt ${event.attempt} failed, the next one is due at ${due}`;
    const now = `${event.done} of ${event.total}: ${event.text}`;  // what the method reports; live, so it is not repeated
    const news = {MethodFinished: "done", MethodFailed: "failed", MethodRetrying: again, Reported: now}[event.event];
    heard[item] = news ?? heard[item];
    if (run && news) draw();
  };
  source.onerror = event => {  // after a 503, of a server that starts, a browser does not reconnect; after a 204 it has all events
    const isClosed = event.target.readyState === EventSource.CLOSED;
    if (isClosed && !isOver()) setTimeout(() => location.hash === `#${id}` && watch(id), 1000);
  };
}
async function send(path, body, headers) {
  const sent = {method: "POST", headers: {"Content-Type": "application/json", ...headers}, body: JSON.stringify(body)};
  const answer = await fetch(path, sent), text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status} ${text}`);
  watch(JSON.parse(text).run_id);
}
const failed = error => { at("status").textContent = `Not accepted: ${error.message}`; };
at("new").oninput = () => { key = null; };
at("new").onsubmit = event => {  // sent again after an error, the same list has the same key, and starts no second run
  event.preventDefault();
  key ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
  const documents = event.target.names.value.split("\\n").map(name => name.trim()).filter(Boolean);
  send("/flows/Summarize", {documents}, {"Idempotency-Key": key}).then(() => { key = null; }, failed);
};
at("resume").onclick = () => send(`/runs/${location.hash.slice(1)}/resume`, {}, {}).catch(failed);
if (location.hash) watch(location.hash.slice(1));
"""

PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Documents</title>
<form id="new"><textarea name="names" rows="8" placeholder="One document per line" required></textarea> <button>Summarize</button></form>
<p><progress id="done" max="1" value="0"></progress> <span id="status"></span> <button id="resume" hidden>Resume</button></p>
<ol id="items"></ol>
<pre id="report"></pre>
<script>{SCRIPT}</script>
</html>
"""
ONLY_THIS_SCRIPT = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; connect-src 'self'; script-src 'sha256-{ONLY_THIS_SCRIPT}'; base-uri 'none'; form-action 'none'"

runner = FlowRunner(flows=[Summarize])
app = FastAPI(title="Documents", lifespan=lifespan(runner))
app.include_router(flow_router(runner, [Summarize]))


@app.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY + "; frame-ancestors 'none'"})
