// What the pages do with scripts: they refresh their parts, follow the events of a run, and draw its graph. Nothing here makes markup
// of text: what comes from a run is set as the text of an element, or comes as a page that the server has escaped.

const posted = document.querySelector("[data-page]"); // the answer to a form: its own address cannot be asked again
if (posted) history.replaceState(null, "", posted.dataset.page);

const announced = document.getElementById("live");
document.documentElement.classList.add("scripted");

function say(text) {
  if (announced.textContent !== text) announced.textContent = text;
}

// ---- parts of a page that are refreshed ----

const shownParts = new Map();
for (const part of document.querySelectorAll("[data-part]")) shownParts.set(part.id, part.outerHTML);

function isFilled(input) {
  if (input.type === "hidden") return false;
  if (input.matches("select")) return input.selectedIndex !== Math.max(0, [...input.options].findIndex((each) => each.defaultSelected));
  return input.value !== input.defaultValue;
}

function isBusy(part) {
  const focused = document.activeElement;
  const isEditing = part.contains(focused) && focused.matches("input, textarea, select");
  if (isEditing || [...part.querySelectorAll("input, textarea, select")].some(isFilled)) return true;
  return part.querySelector("details.edit[open], details.confirm[open]") !== null;
}

const FOCUSABLE = "a, button, summary, [tabindex]";

function replace(part, fresh) {
  if (shownParts.get(part.id) === fresh.outerHTML || isBusy(part)) return;
  if (fresh.dataset.same !== undefined && fresh.dataset.same === part.dataset.same) return; // a form: each copy has a new key
  shownParts.set(part.id, fresh.outerHTML);
  for (const details of part.querySelectorAll("details[id]")) {
    const same = fresh.querySelector("#" + CSS.escape(details.id));
    if (same) same.open = details.open;
  }
  const places = [...part.querySelectorAll(FOCUSABLE)];
  const at = places.indexOf(document.activeElement);
  const scrolled = [...part.querySelectorAll(".scroll, .value")].map((each) => [each.scrollLeft, each.scrollTop]);
  part.replaceWith(fresh);
  [...fresh.querySelectorAll(".scroll, .value")].forEach((each, n) => {
    if (scrolled[n]) [each.scrollLeft, each.scrollTop] = scrolled[n];
  });
  if (at >= 0) [...fresh.querySelectorAll(FOCUSABLE)][at]?.focus({ preventScroll: true });
}

// All pages together take at most this part of the time to be refreshed: they must not slow the runs that their server may drive. The
// server says how many follow a run.
const SHARE = 30;
let isRefreshing = false;
let took = 0;
let followed = 1;
let isStale = false;

async function refresh() {
  if (isRefreshing) {
    isStale = true;
    return;
  }
  isRefreshing = true;
  const begun = performance.now();
  try {
    const address = new URL(location.href);
    address.searchParams.delete("did");
    address.hash = "";
    const answer = await fetch(address, { cache: "no-store" });
    if (!answer.ok) return say("The page cannot be refreshed: " + answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    followed = Math.max(1, Number(fresh.getElementById("content").dataset.followed));
    for (const part of document.querySelectorAll("[data-part]")) {
      const same = fresh.getElementById(part.id);
      if (same) replace(part, document.adoptNode(same));
    }
    const graph = document.getElementById("graph");
    const redrawn = fresh.getElementById("graph");
    if (graph && redrawn && graph.dataset.picture !== redrawn.dataset.picture) {
      graph.dataset.picture = redrawn.dataset.picture;
      drawGraph();
    }
    if (announced.textContent.startsWith("The page cannot")) say("");
  } catch {
    say("The page cannot be refreshed: the server does not answer");
  } finally {
    took = performance.now() - begun;
    isRefreshing = false;
    if (isStale) {
      isStale = false;
      refreshSoon();
    }
  }
}

let soon = 0;

function refreshSoon() {
  soon ||= setTimeout(() => {
    soon = 0;
    refresh();
  }, Math.max(300, SHARE * followed * took));
}

function refreshInterval() {
  const part = document.querySelector("[data-refresh]");
  return part ? Number(part.dataset.refresh) : 0;
}

async function keepRefreshing() {
  while (refreshInterval()) {
    await new Promise((resume) => setTimeout(resume, Math.max(refreshInterval(), SHARE * followed * took)));
    if (!document.hidden) await refresh();
  }
}

// ---- the events of a run ----

const list = document.getElementById("events");
const MOST = 500;
let stream = null;
let last = "";

function textOf(event) {
  const hidden = new Set(["event", "run_id", "flow", "seq", "n", "at"]);
  return Object.entries(event)
    .filter(([name, value]) => !hidden.has(name) && value !== null && String(value) !== "")
    .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : value}`)
    .join("  ");
}

function append(event) {
  const line = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = event.event;
  if (event.event.includes("Failed")) line.className = "failed";
  const time = event.at ? new Date(event.at * 1000).toISOString().slice(11, 23) : "";
  line.append(`${time}  `, name, `  ${textOf(event)}`);
  const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
  list.append(line);
  while (list.children.length > MOST) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function follow() {
  if (stream || document.hidden) return;
  const address = new URL(list.dataset.stream, location.href);
  if (last) address.searchParams.set("after", last);
  stream = new EventSource(address);
  const opened = Date.now();
  stream.onmessage = (message) => {
    if (message.lastEventId) last = message.lastEventId;
    const event = JSON.parse(message.data);
    append(event);
    if (event.at * 1000 > opened - 2000) {
      say(`${event.event} ${event.invocation ?? event.signal ?? event.timer ?? ""}`.trim());
      refreshSoon();
    }
  };
  stream.addEventListener("end", () => {
    leave();
    isOver = true;
    refreshSoon();
  });
}

let isOver = false;

function leave() {
  stream?.close();
  stream = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) leave();
  else if (list && !isOver) follow();
});

// ---- the graph ----

function drawGraph() {
  const graph = document.getElementById("graph");
  if (graph && window.asyncflow) window.asyncflow.draw(graph, JSON.parse(graph.dataset.picture));
}

document.getElementById("graph")?.addEventListener("picture:select", (event) => {
  for (const code of document.querySelectorAll("#part-methods td code, #part-time td code, #part-steps td code")) {
    const isPicked = code.textContent.replace(/:\d+$/, "") === event.detail;
    code.closest("tr")?.classList.toggle("picked", isPicked);
  }
});

// ---- by keyboard: "/" goes to the search, j and k to the next and the previous run ----

document.addEventListener("keydown", (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey || key.target.closest("input, textarea, select")) return;
  if (key.key === "/") {
    key.preventDefault();
    document.getElementById("jump").focus();
  } else if (key.key === "j" || key.key === "k") {
    const rows = [...document.querySelectorAll(".runs td.id a, .steps td.number a")];
    const next = rows.indexOf(document.activeElement) + (key.key === "j" ? 1 : -1);
    rows[Math.max(0, Math.min(rows.length - 1, next))]?.focus();
  }
});

drawGraph();
keepRefreshing();
if (list) follow();
