// Draws a flow, or a run of it, as SVG: asyncflow.draw(container, picture). `picture` is what Picture.to_json() returns, parsed. It needs
// dagre and draw.css, sets no styles and evaluates no text: a page with the policy default-src 'self' can use it. Drawing again keeps zoom,
// scroll position, selection and focus. When a node is selected, the container gets the event "picture:select" with the node's id.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif";
  const METHODS = ["start", "listen", "router"];
  const WORDS = {
    start: "start", listen: "listener", each: "for each item", router: "router", and: "waits for all", or: "waits for any",
    signal: "signal", timer: "timer", label: "label", end: "end",
  };
  const SIGNS = {
    completed: "✓", running: "▶", failed: "✕", retrying: "↻", waiting: "…", interrupted: "‖", skipped: "–", "not reached": "",
  };
  const CLOCK = "M0-5.5A5.5 5.5 0 1 1-.01-5.5ZM0-3V0L2 1.5", ENVELOPE = "M-6.5-4.5H6.5V4.5H-6.5ZM-6.5-4.5L0 .8 6.5-4.5";
  const PLAY = "M-3.2-4.4L4.6 0-3.2 4.4Z";
  const views = new WeakMap(), canvas = document.createElement("canvas").getContext("2d");

  function make(parent, name, attributes = {}, text = "") {
    const isHtml = parent instanceof HTMLElement && name !== "svg";
    const element = isHtml ? document.createElement(name) : document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  function widthOf(text, size, weight = 400) {
    canvas.font = `${weight} ${size}px ${FONT}`;
    return canvas.measureText(text).width;
  }

  const kindOf = (node) => (node.each ? "each" : node.kind);
  const isJoin = (node) => node.kind === "and" || node.kind === "or";
  const isFocusable = (node) => !isJoin(node) && node.kind !== "end";

  // ---- nodes: their sizes and shapes ------------------------------------------------------------------------------

  function measured(node) {
    if (isJoin(node)) return { width: 32, height: 32, notes: "" };
    if (node.kind === "end") return { width: 18, height: 18, notes: "" };
    const notes = [...node.notes, node.took].filter(Boolean).join(" · ");
    const isMethod = METHODS.includes(node.kind), hasIcon = node.begins || node.kind === "signal" || node.kind === "timer";
    const [name, note] = [widthOf(node.text, isMethod ? 14 : 12, isMethod ? 600 : 500), widthOf(notes, 11)];
    const padding = { router: 46, signal: 40, start: 40 }[node.kind] ?? 32;
    const width = Math.ceil(Math.max(name + (hasIcon ? 18 : 0), note) + padding);
    return { width: Math.max(isMethod ? 84 : 0, width), height: isMethod ? (notes ? 54 : 40) : 30, notes };
  }

  function outline(parent, kind, w, h, grown = 0) {
    const [x, y] = [w / 2 + grown, h / 2 + grown];
    const at = { class: grown ? "af-output" : "af-shape" };
    if (kind === "router") {
      const cut = Math.min(16, y);
      return make(parent, "path", { ...at, d: `M${-x} 0L${-x + cut} ${-y}H${x - cut}L${x} 0 ${x - cut} ${y}H${-x + cut}Z` });
    }
    if (kind === "signal") return make(parent, "path", { ...at, d: `M${-x} ${-y}H${x - 10}L${x} 0 ${x - 10} ${y}H${-x}L${-x + 8} 0Z` });
    if (kind === "and" || kind === "or") return make(parent, "circle", { ...at, r: y });
    const round = kind === "start" ? y : kind === "timer" ? 3 : Math.min(8, h / 4) + grown;
    return make(parent, "rect", { ...at, x: -x, y: -y, width: 2 * x, height: 2 * y, rx: round });
  }

  function shape(parent, node, w, h) {
    const kind = kindOf(node);
    if (kind === "end") {
      make(parent, "circle", { class: "af-output", r: 9 });
      make(parent, "circle", { class: "af-shape", r: 5 });
      return;
    }
    for (const by of kind === "each" ? [8, 4] : []) outline(make(parent, "g", { transform: `translate(${by} ${by})` }), kind, w, h);
    if (node.is_output) outline(parent, kind, w, h, 4);
    outline(parent, kind, w, h);
    if (kind === "timer") make(parent, "path", { class: "af-notch", d: `M${-w / 2 + 26} ${-h / 2}V${h / 2}` });
  }

  function drawNode(parent, node, box) {
    const kind = kindOf(node), isMethod = METHODS.includes(node.kind);
    const classes = ["af-node", `af-${kind}`, ...(node.status ? [`af-is-${node.status.replace(" ", "-")}`] : [])];
    const group = make(parent, "g", { class: classes.join(" "), transform: `translate(${box.x} ${box.y})`, "data-node": node.id });
    if (isFocusable(node)) {
      group.setAttribute("tabindex", "0");
      group.setAttribute("role", "button");
      group.setAttribute("aria-label", [node.text, ...facts(node).map(([name, value]) => `${name} ${value}`)].join(", "));
    }
    shape(group, node, box.width, box.height);
    if (isJoin(node)) make(group, "text", { class: "af-join-text", y: 3.5 }, node.kind);
    if (!isFocusable(node)) return group;
    const icon = { signal: ENVELOPE, timer: CLOCK }[node.kind] ?? (node.begins ? PLAY : "");
    const size = isMethod ? 14 : 12;
    const y = box.notes ? -4 : size * 0.35;
    const middle = icon ? 9 : 0;
    if (icon) {
      const left = node.kind === "timer" ? -box.width / 2 + 13 : middle - widthOf(node.text, size, isMethod ? 600 : 500) / 2 - 12;
      make(group, "path", { class: node.begins ? "af-icon af-play" : "af-icon", d: icon, transform: `translate(${left} ${y - size * 0.35})` });
    }
    make(group, "text", { class: isMethod ? "af-name" : "af-event", x: middle, y }, node.text);
    if (box.notes) make(group, "text", { class: "af-notes", y: 14 }, box.notes);
    if (node.status && SIGNS[node.status]) badge(group, node, box);
    return group;
  }

  function badge(group, node, box) {
    const text = SIGNS[node.status] + (node.count > 1 ? ` ${node.count}` : "");
    const width = Math.max(18, widthOf(text, 11, 700) + 10);
    const mark = make(group, "g", { class: "af-badge", transform: `translate(${(box.width - width) / 2 + 4} ${-box.height / 2})` });
    make(mark, "rect", { x: -width / 2, y: -9, width, height: 18, rx: 9 });
    make(mark, "text", { y: 4 }, text);
  }

  // ---- edges ------------------------------------------------------------------------------------------------------

  function onOutline({ node, box }, point, other) {
    const [dx, dy] = [point.x - box.x, point.y - box.y];
    if (node.kind === "router") { // dagre takes it for a rectangle
      const most = box.width / 2 - (Math.min(16, box.height / 2) * Math.abs(dy)) / (box.height / 2);
      return { x: box.x + Math.sign(dx) * Math.min(Math.abs(dx), most), y: point.y };
    }
    if (!isJoin(node) && node.kind !== "end") return point;
    const [x, y] = [other.x - box.x, other.y - box.y];
    const ratio = (box.height / 2 + 1) / (Math.hypot(x, y) || 1);
    return { x: box.x + x * ratio, y: box.y + y * ratio };
  }

  const at = (...points) => points.map((p) => `${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join(" ");

  function sideways([first, ...points]) { // of an edge that leads back
    const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
    const bends = points.slice(0, -1).map((p, n) => `Q${at(p, n === points.length - 2 ? points[n + 1] : middle(p, points[n + 1]))}`);
    return `M${at(first)}${bends.join("") || `L${at(points[0])}`}`;
  }

  function downward([first, ...points]) {
    const bends = points.map((here, n) => {
      const before = n ? points[n - 1] : first, y = (before.y + here.y) / 2;
      return `C${at({ x: before.x, y }, { x: here.x, y }, here)}`;
    });
    return `M${at(first)}${bends.join("")}`;
  }

  // Where edges leave a node at its bottom and arrive at its top: next to each other, in the order of their other ends.
  function ports(picture, nodes, placed) {
    const found = picture.edges.map(() => ({}));
    for (const [end, side] of [["source", 1], ["target", -1]]) {
      const sharing = new Map();
      picture.edges.forEach((edge, n) => {
        if (!edge.loop) sharing.set(edge[end], [...(sharing.get(edge[end]) ?? []), n]);
      });
      for (const [id, members] of sharing) {
        const { node, box } = nodes.get(id);
        const next = (n) => placed[n].points.at(end === "source" ? 1 : -2).x;
        const step = isJoin(node) || node.kind === "end" ? 0 : Math.min(16, (0.5 * box.width) / members.length);
        members.sort((a, b) => next(a) - next(b)).forEach((n, place) => {
          const x = box.x + (place - (members.length - 1) / 2) * step;
          found[n][end] = { x, y: box.y + side * (box.height / 2 + (node.is_output ? 4 : 0) + (node.each && side > 0 ? 8 : 0)) };
        });
      }
    }
    picture.edges.forEach((edge, n) => { // a line that is almost straight becomes straight
      const { source, target } = found[n];
      if (edge.loop) return;
      const inner = isDirect(edge, placed[n]) ? [] : placed[n].points.slice(1, -1);
      const isFree = (end) => nodes.get(edge[end]).box.width > 60 && picture.edges.filter((e) => !e.loop && e[end] === edge[end]).length === 1;
      const [below, above] = [inner[0] ?? target, inner.at(-1) ?? source];
      if (isFree("source") && Math.abs(below.x - source.x) < 16) source.x = below.x;
      if (isFree("target") && Math.abs(above.x - target.x) < 16) target.x = above.x;
    });
    return found;
  }

  const isDirect = (edge, placed) => placed.points.length === 3 && !labelOf(edge);

  function labelOf(edge) {
    return [edge.label + (edge.maybe ? "?" : ""), edge.each ? "each" : ""].filter(Boolean).join(" · ");
  }

  function drawEdge(parent, labels, edge, placed, port, nodes, arrow) {
    const points = direction(edge)[0] === edge.source ? [...placed.points] : [...placed.points].reverse();
    if (edge.loop) {
      points[0] = onOutline(nodes.get(edge.source), points[0], points[1]);
      points.push(onOutline(nodes.get(edge.target), points.pop(), points.at(-1)));
    } else {
      points.splice(0, isDirect(edge, placed) ? 2 : 1, port.source);
      points.splice(-1, 1, port.target);
    }
    const marks = ["each", "loop", "maybe", "idle"].filter((mark) => edge[mark]);
    const kinds = [...marks, ...(nodes.get(edge.source).node.kind === "signal" ? ["signal"] : [])];
    const classes = ["af-edge", ...kinds.map((kind) => `af-edge-${kind}`)].join(" ");
    const d = edge.loop ? sideways(points) : downward(points);
    const line = make(parent, "path", { class: classes, d, "marker-end": `url(#${arrow})` });
    const text = labelOf(edge);
    if (!text) return [line];
    const width = widthOf(text, 11, 500) + 12;
    const group = make(labels, "g", { class: ["af-tag", ...marks.map((mark) => `af-tag-${mark}`)].join(" "), transform: `translate(${placed.x} ${placed.y})` });
    make(group, "rect", { x: -width / 2, y: -9, width, height: 18, rx: 9 });
    make(group, "text", { y: 4 }, text);
    return [line, group];
  }

  // ---- layout -----------------------------------------------------------------------------------------------------

  // An edge that leads back is turned, so that dagre need not decide where a cycle is cut.
  const direction = (edge) => (edge.loop ? [edge.target, edge.source] : [edge.source, edge.target]);

  function layout(picture) {
    const graph = new dagre.graphlib.Graph({ multigraph: true });
    graph.setGraph({ rankdir: "TB", nodesep: 34, ranksep: picture.nodes.length > 40 ? 46 : 34, edgesep: 18, marginx: 22, marginy: 22 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const node of picture.nodes) {
      const extra = node.each ? 8 : node.is_output ? 4 : 0;
      const box = measured(node);
      graph.setNode(node.id, { ...box, width: box.width + extra, height: box.height + extra });
    }
    picture.edges.forEach((edge, n) => {
      const text = labelOf(edge);
      const box = text ? { width: widthOf(text, 11, 500) + 14, height: 20, labelpos: "c" } : {};
      graph.setEdge(...direction(edge), box, `e${n}`);
    });
    dagre.layout(graph);
    return graph;
  }

  // ---- what is said of a node -------------------------------------------------------------------------------------

  function facts(node) {
    const kind = [WORDS[kindOf(node)], ...(node.begins && node.kind === "router" ? ["start"] : [])].join(" and ");
    const times = node.count === 1 ? "once" : `${node.count} times`;
    return [
      ["kind", kind],
      ["waits for", node.condition],
      ["labels", node.kind === "router" ? (node.labels ?? ["not declared"]).join(", ") : ""],
      ["options", [...node.notes, ...(node.keeps_open ? ["keeps the run open"] : [])].join(", ")],
      ["output", node.is_output ? "its result is the output of the flow" : ""],
      [node.kind === "signal" ? "payload" : "about", node.about],
      ["status", node.status ? `${node.status}${node.count ? `, completed ${times}` : ""}` : ""],
      ["last duration", node.took],
    ].filter(([, value]) => value);
  }

  function describe(details, node) {
    details.replaceChildren();
    make(details, "h2", {}, node.text);
    const list = make(details, "dl");
    for (const [name, value] of facts(node)) {
      make(list, "dt", {}, name);
      make(list, "dd", {}, value);
    }
  }

  function legend(parent, picture) {
    const list = make(parent, "ul", { class: "af-legend", "aria-label": "legend" });
    const entry = (word, width, classes) => {
      const icon = { viewBox: `${-width / 2} -11 ${width} 22`, width, height: 22, "aria-hidden": "true" };
      const item = make(list, "li");
      const group = make(make(item, "svg", icon), "g", { class: `af-node ${classes}` });
      item.append(word);
      return group;
    };
    const kinds = new Set(picture.nodes.map(kindOf));
    for (const kind of Object.keys(WORDS).filter((each) => kinds.has(each))) {
      const [w, h] = kind === "and" || kind === "or" ? [16, 16] : kind === "each" ? [16, 10] : [22, 14];
      const icon = make(entry(WORDS[kind], 28, `af-${kind}`), "g", kind === "each" ? { transform: "translate(-4 -4)" } : {});
      shape(icon, { kind, each: kind === "each" }, w, h);
    }
    const statuses = new Set(picture.nodes.map((node) => node.status));
    for (const status of Object.keys(SIGNS).filter((each) => statuses.has(each))) {
      const mark = make(entry(status, 18, `af-is-${status.replace(" ", "-")}`), "g", { class: "af-badge" });
      make(mark, "circle", { r: 8 });
      make(mark, "text", { y: 4 }, SIGNS[status]);
    }
  }

  // ---- zoom, selection and keys -----------------------------------------------------------------------------------

  function zoomable(view, bar, scroll, svg, width, height) {
    const set = (zoom, x = scroll.clientWidth / 2, y = scroll.clientHeight / 2) => {
      const before = view.zoom;
      view.zoom = Math.min(3, Math.max(0.1, zoom));
      svg.setAttribute("width", width * view.zoom);
      svg.setAttribute("height", height * view.zoom);
      const ratio = view.zoom / (before || view.zoom);
      scroll.scrollLeft = (scroll.scrollLeft + x) * ratio - x;
      scroll.scrollTop = (scroll.scrollTop + y) * ratio - y;
    };
    const fit = (least) => {
      const [across, down] = [(scroll.clientWidth - 2) / width, (scroll.clientHeight - 2) / height];
      const whole = down > 0.2 ? Math.min(across, down) : across;
      const zoom = least > 0.1 ? Math.max(whole, Math.min(across, 0.65)) : whole; // all of it, if one can still read it
      set(scroll.clientWidth ? Math.min(1.2, Math.max(least, zoom)) : 1);
    };
    const keys = { "+": () => set(view.zoom * 1.2), "-": () => set(view.zoom / 1.2), 0: () => fit(0.1) };
    for (const [key, sign, title] of [["-", "−", "zoom out"], ["+", "+", "zoom in"], ["0", "⤢", "show all"]]) {
      const button = make(bar, "button", { type: "button", title: `${title} (${key})`, "aria-label": title }, sign);
      button.addEventListener("click", keys[key]);
    }
    scroll.addEventListener("keydown", (event) => {
      if (!event.ctrlKey && !event.metaKey && !event.altKey) keys[event.key === "=" ? "+" : event.key]?.();
    });
    scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const frame = scroll.getBoundingClientRect();
      set(view.zoom * Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
    }, { passive: false });
    scroll.addEventListener("pointermove", (event) => { // a mouse drags; fingers scroll
      if (event.pointerType === "mouse" && event.buttons === 1) scroll.scrollBy(-event.movementX, -event.movementY);
    });
    if (view.zoom) set(view.zoom);
    else fit(0.5);
  }

  function neighbor(picture, nodes, id, key) {
    const here = nodes.get(id).box;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const side = key === "ArrowRight" ? 1 : -1, distance = ([, { box }]) => side * (box.x - here.x);
      const sameRow = [...nodes].filter((n) => isFocusable(n[1].node) && Math.abs(n[1].box.y - here.y) < 40 && distance(n) > 0);
      return sameRow.sort((a, b) => distance(a) - distance(b))[0]?.[0];
    }
    const [from, to] = key === "ArrowDown" ? ["source", "target"] : ["target", "source"];
    const reached = new Set([id]);
    for (const current of reached) { // across joins: a set also yields what is added meanwhile
      for (const edge of picture.edges.filter((each) => each[from] === current && !each.loop)) {
        if (isFocusable(nodes.get(edge[to]).node)) return edge[to];
        reached.add(edge[to]);
      }
    }
    return undefined;
  }

  function selectable(container, view, svg, details, picture, nodes, lines) {
    const select = (id) => {
      view.selected = id;
      svg.classList.toggle("af-has-selection", Boolean(id));
      for (const [other, { group }] of nodes) group.classList.toggle("af-selected", other === id);
      picture.edges.forEach((edge, n) => {
        for (const line of lines[n]) line.classList.toggle("af-lit", edge.source === id || edge.target === id);
      });
      details.hidden = !id;
      if (id) describe(details, nodes.get(id).node);
      container.dispatchEvent(new CustomEvent("picture:select", { detail: id ?? "", bubbles: true }));
    };
    for (const [id, { group, node }] of nodes) {
      if (!isFocusable(node)) continue;
      group.addEventListener("focus", () => {
        if (view.selected === id) return;
        select(id);
        group.scrollIntoView({ block: "nearest", inline: "nearest" }); // the details may cover it
      });
      group.addEventListener("click", () => group.focus());
      group.addEventListener("keydown", (event) => {
        const next = event.key.startsWith("Arrow") ? neighbor(picture, nodes, id, event.key) : undefined;
        if (next) { nodes.get(next).group.focus(); event.preventDefault(); }
        if (event.key === "Escape") { group.blur(); select(undefined); }
      });
    }
    svg.addEventListener("click", (event) => { if (!event.target.closest("[tabindex]")) select(undefined); });
    const kept = nodes.has(view.selected) ? view.selected : undefined;
    select(kept);
    if (kept && view.hadFocus) nodes.get(kept).group.focus({ preventScroll: true });
  }

  let drawn = 0;

  function draw(container, picture) {
    const view = views.get(container) ?? { zoom: 0, left: 0, top: 0 };
    const before = container.querySelector(":scope > .af-picture > .af-scroll");
    if (before) Object.assign(view, { left: before.scrollLeft, top: before.scrollTop, hadFocus: before.contains(document.activeElement) });
    views.set(container, view);
    const graph = layout(picture);
    const { width, height } = graph.graph();
    const root = document.createElement("div");
    root.className = picture.status ? "af-picture af-run" : "af-picture";
    container.replaceChildren(root);
    const bar = make(root, "div", { class: "af-bar", role: "toolbar", "aria-label": "zoom" }), scroll = make(root, "div", { class: "af-scroll" });
    const name = picture.status ? `flow ${picture.name}, run ${picture.run_id}: ${picture.status}` : `flow ${picture.name}`;
    const svg = make(scroll, "svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": name });
    const arrow = `af-arrow-${++drawn}`;
    const marker = { id: arrow, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" };
    make(make(make(svg, "defs"), "marker", { ...marker, markerUnits: "userSpaceOnUse" }), "path", { class: "af-head", d: "M0 0L10 5 0 10 2.5 5Z" });
    const [edgeLayer, nodeLayer, labelLayer] = [make(svg, "g"), make(svg, "g"), make(svg, "g")];
    const nodes = new Map();
    for (const node of picture.nodes) {
      const placed = graph.node(node.id), own = measured(node);
      nodes.set(node.id, { node, box: { ...own, x: placed.x - (placed.width - own.width) / 2, y: placed.y - (placed.height - own.height) / 2 } });
    }
    const placed = picture.edges.map((edge, n) => graph.edge(...direction(edge), `e${n}`));
    const port = ports(picture, nodes, placed);
    const lines = picture.edges.map((edge, n) => drawEdge(edgeLayer, labelLayer, edge, placed[n], port[n], nodes, arrow));
    const order = [...nodes.values()].sort((a, b) => a.box.y - b.box.y || a.box.x - b.box.x); // the order of the tabulator key
    for (const each of order) each.group = drawNode(nodeLayer, each.node, each.box);
    legend(root, picture);
    const details = make(root, "aside", { class: "af-details", "aria-live": "polite" });
    zoomable(view, bar, scroll, svg, width, height);
    selectable(container, view, svg, details, picture, nodes, lines);
    const first = order.find((each) => each.node.begins) ?? order[0];
    scroll.scrollTo(before ? view.left : first.box.x * view.zoom - scroll.clientWidth / 2, before ? view.top : 0);
  }

  globalThis.asyncflow = { ...globalThis.asyncflow, draw };
})();
