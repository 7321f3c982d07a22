// The web UI of viz: asks /api every few seconds and draws what it says. No framework, nothing from elsewhere.
// What a number's absence means is kept: "–" is not known, 0 is zero.
"use strict";

const REFRESH_MS = 3000;
const TAP_ROWS = 200;
const $ = (id) => document.getElementById(id);
const state = { view: "topology", paused: false, picked: null, graph: null, tap: null, timer: 0, asked: 0 };

// ---- text ----------------------------------------------------------------------------------------------------------

const known = (value) => value !== null && value !== undefined;
const percent = (v) => (known(v) ? (v * 100).toFixed(v > 0.9995 && v < 1 ? 3 : 2) + " %" : "–");
const brief = (v) => (!known(v) ? "–" : v === 1 ? "100 %" : (v * 100).toFixed(v > 0.999 ? 2 : 1) + " %");
const rate = (v) => (known(v) ? (v >= 100 ? v.toFixed(0) : v.toFixed(1)) : "–");
const millis = (v) => (known(v) ? (v >= 10 ? v.toFixed(0) : v.toFixed(1)) + " ms" : "–");
const whole = (v) => (known(v) ? String(Math.round(v)) : "–");
const health = (v) => (!known(v) ? "none" : v >= 0.99 ? "good" : v >= 0.95 ? "fair" : "bad");

function span(seconds) {
  if (!known(seconds)) return "–";
  const s = Math.abs(seconds);
  const text = s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min`
    : s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} days`;
  return seconds < 0 ? `${text} ago` : `in ${text}`;
}

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const successCell = (v) => el("td", { class: "n" }, el("span", { class: `health ${health(v)}` }, percent(v)));
const cell = (text, kind = "") => el("td", { class: kind }, text);
const named = (namespace, name) => [namespace ? el("span", { class: "ns" }, namespace + " / ") : null, name];

function fill(tableId, rows, nothing) {
  const body = $(tableId).tBodies[0];
  const columns = $(tableId).tHead.rows[0].cells.length;
  body.replaceChildren(...(rows.length ? rows : [el("tr", {}, el("td", { class: "empty", colSpan: columns }, nothing))]));
}

// ---- asking --------------------------------------------------------------------------------------------------------

async function ask(question, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== ""));
  const response = await fetch(`api/${question}?${query}`, { cache: "no-store" });
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(said.error || `the answer was ${response.status}`);
  return said;
}

const scope = () => ({ namespace: $("namespace").value, window: $("window").value });

function tellBasis(answer) {
  const { missing, proxies, observed_seconds: seen, window_seconds: wanted } = answer.basis;
  const silent = missing.filter((m) => m.reason || m.last_ok_seconds === null);
  const box = $("basis");
  const open = box.querySelector("details")?.open;
  box.hidden = !silent.length && seen >= wanted * 0.9;
  box.replaceChildren();
  if (silent.length) {
    const list = silent.slice(0, 50).map((m) => el("li", {}, `${m.namespace}/${m.pod}: ${m.reason || "never scraped"}` +
      (known(m.last_ok_seconds) ? `, last heard of ${Math.round(m.last_ok_seconds)} s ago` : "")));
    const summary = `${silent.length} of ${proxies} proxies cannot be scraped; their numbers are missing, not zero`;
    box.append(el("details", { open: Boolean(open) }, el("summary", {}, summary), el("ul", {}, ...list)));
  }
  if (seen < wanted * 0.9) box.append(el("div", {}, `Watched for ${Math.round(seen)} s of the window so far.`));
}

const VIEWS = { topology: showTopology, workloads: showWorkloads, tap: showTap, certificates: showCertificates };

async function refresh() {
  clearTimeout(state.timer);
  const turn = ++state.asked;
  if (!state.paused && !document.hidden) {
    try {
      await VIEWS[state.view](() => turn === state.asked);
      if (turn === state.asked) $("state").textContent = "";
    } catch (error) {
      if (turn === state.asked) $("state").textContent = `No fresh numbers: ${error.message}`;
    }
  }
  if (turn === state.asked) state.timer = setTimeout(refresh, REFRESH_MS);
}

function offerNamespaces(names) {
  const select = $("namespace");
  const had = [...select.options].map((option) => option.value).slice(1);
  const wanted = [...new Set([...names, select.value])].filter(Boolean).sort();
  if (had.join() === wanted.join()) return;
  const value = select.value;
  select.replaceChildren(new Option("all namespaces", ""), ...wanted.map((name) => new Option(name, name)));
  select.value = value;
}

// ---- topology ------------------------------------------------------------------------------------------------------

async function showTopology(current) {
  const [graph, stat] = await Promise.all([ask("topology", scope()), ask("stat", { ...scope(), resource: "workload" })]);
  if (!current()) return;
  tellBasis(graph);
  if (!$("namespace").value) offerNamespaces(graph.nodes.map((node) => node.namespace));
  const numbers = new Map(stat.rows.map((row) => [`${row.namespace}/${row.kind}/${row.name}`, row]));
  state.graph = { nodes: graph.nodes.map((node) => ({ ...node, stat: numbers.get(node.id) })), links: graph.links };
  drawGraph();
  const label = new Map(state.graph.nodes.map((node) => [node.id, named(node.namespace, node.name)]));
  const clone = (id) => (label.get(id) || [id]).map((part) => (part?.cloneNode ? part.cloneNode(true) : part));
  fill("links", graph.links.map((link) => el("tr", {},
    el("td", {}, ...clone(link.source).filter(known)), el("td", {}, ...clone(link.target).filter(known)),
    successCell(link.success), cell(rate(link.rps), "n"), cell(millis(link.latency_p50_ms), "n"),
    cell(millis(link.latency_p95_ms), "n"), cell(millis(link.latency_p99_ms), "n"), cell(whole(link.own), "n"),
    el("td", {}, link.secured ? el("span", { class: "badge good" }, "mutual TLS") : el("span", { class: "badge" }, link.reason || "no")))),
  "No traffic in the window.");
}

// Layers by longest path from where requests come in (cycles cut where a walk meets itself), ordered within a layer by
// the mean place of their callers, twice down and once up: good enough for the dozens of nodes that people look at.
function layout(nodes, links) {
  const out = new Map(nodes.map((node) => [node.id, []]));
  const callers = new Map(nodes.map((node) => [node.id, []]));
  for (const link of links) {
    if (link.source === link.target || !out.has(link.source) || !out.has(link.target)) continue;
    out.get(link.source).push(link.target);
    callers.get(link.target).push(link.source);
  }
  const depth = new Map();
  const walking = new Set();
  const order = [...nodes].sort((a, b) => callers.get(a.id).length - callers.get(b.id).length || a.id.localeCompare(b.id));
  const descend = (id, level) => {
    if (walking.has(id) || (depth.get(id) ?? -1) >= level) return;
    walking.add(id);
    depth.set(id, level);
    for (const next of out.get(id)) descend(next, level + 1);
    walking.delete(id);
  };
  for (const node of order) if (!callers.get(node.id).length) descend(node.id, 0);
  for (const node of order) if (!depth.has(node.id)) descend(node.id, 0);
  const layers = [];
  for (const node of order) (layers[depth.get(node.id)] ||= []).push(node);
  const full = layers.filter(Boolean);
  const place = new Map();
  const settle = (layer) => layer.forEach((node, index) => place.set(node.id, index - (layer.length - 1) / 2));
  full.forEach(settle);
  const mean = (ids, fallback) => (ids.length ? ids.reduce((sum, id) => sum + place.get(id), 0) / ids.length : fallback);
  const sweep = (list, from) => list.forEach((layer) => {
    layer.sort((a, b) => mean(from.get(a.id), place.get(a.id)) - mean(from.get(b.id), place.get(b.id)) || a.id.localeCompare(b.id));
    settle(layer);
  });
  sweep(full.slice(1), callers);
  sweep([...full].reverse().slice(1), out);
  sweep(full.slice(1), callers);
  return full;
}

const NODE = { width: 176, height: 74, gapX: 148, gapY: 34, pad: 20 };

function drawGraph() {
  const { nodes, links } = state.graph;
  const box = $("graph");
  const busy = new Set(links.flatMap((link) => [link.source, link.target]));
  const idle = nodes.filter((node) => !busy.has(node.id) && node.meshed).slice(0, 60);
  const shown = nodes.filter((node) => busy.has(node.id));
  const hidden = nodes.length - shown.length - idle.length;
  $("unshown").textContent = hidden ? `Without traffic or proxy, and in the list of workloads only: ${hidden}.` : "";
  if (!shown.length && !idle.length) {
    box.replaceChildren(el("p", { class: "empty" }, "No workloads here yet. Inject a namespace, and send it a request."));
    $("chosen").hidden = true;
    return;
  }
  const narrow = box.clientWidth < 640;
  const layers = layout(shown, links);
  const across = Math.max(0, ...layers.map((layer) => layer.length));
  const at = new Map();
  const stepAcross = narrow ? NODE.width + 20 : NODE.height + NODE.gapY;
  const stepAlong = narrow ? NODE.height + 62 : NODE.width + NODE.gapX;
  layers.forEach((layer, level) => layer.forEach((node, index) => {
    const aside = NODE.pad + (index + (across - layer.length) / 2) * stepAcross;
    const along = NODE.pad + level * stepAlong;
    at.set(node.id, narrow ? { x: aside, y: along } : { x: along, y: aside });
  }));
  // Those that nobody calls and that call nobody: in rows below the others.
  const below = at.size ? Math.max(...[...at.values()].map((p) => p.y)) + NODE.height + NODE.gapY : NODE.pad;
  const perRow = Math.max(1, Math.floor((box.clientWidth - NODE.pad) / (NODE.width + 20)));
  idle.forEach((node, index) => at.set(node.id, { x: NODE.pad + (index % perRow) * (NODE.width + 20), y: below + Math.floor(index / perRow) * (NODE.height + 16) }));
  const width = Math.max(...[...at.values()].map((p) => p.x)) + NODE.width + NODE.pad + (narrow ? 0 : 8);
  const height = Math.max(...[...at.values()].map((p) => p.y)) + NODE.height + NODE.pad;
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "false" });
  const markers = ["good", "fair", "bad", "none"].map((kind) => svg("marker", { id: `tip-${kind}`, class: kind, viewBox: "0 0 8 8",
    refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, svg("path", { d: "M0 0 8 4 0 8z" })));
  drawing.append(svg("defs", {}, ...markers));
  const near = state.picked ? new Set([state.picked, ...links.filter((l) => l.source === state.picked || l.target === state.picked)
    .flatMap((l) => [l.source, l.target])]) : null;
  const plates = svg("g");
  for (const link of links) {
    const from = at.get(link.source), to = at.get(link.target);
    if (!from || !to || link.source === link.target) continue;
    const dim = near && link.source !== state.picked && link.target !== state.picked;
    const { path, middle } = narrow ? curveDown(from, to) : curveRight(from, to);
    const kind = health(link.success);
    const group = svg("g", { class: `link ${kind} ${link.secured ? "" : "open"} ${dim ? "dim" : ""}` });
    group.append(svg("path", { d: path, "marker-end": `url(#tip-${kind})` }));
    drawing.append(group);
    const text = link.protocol === "tcp" ? "TCP" : `${brief(link.success)} · ${rate(link.rps)}/s`;
    const second = link.protocol === "tcp" ? "" : `p95 ${millis(link.latency_p95_ms)}`;
    const plate = svg("g", { class: `link ${dim ? "dim" : ""}`, transform: `translate(${middle.x} ${middle.y})` });
    const half = Math.max(text.length, second.length) * 3.1 + 5;
    plate.append(svg("rect", { class: "plate", x: -half, y: -16, width: half * 2, height: second ? 32 : 18, rx: 4 }));
    const lines = svg("text", {}, svg("tspan", { x: 0, y: -3 }, text), svg("tspan", { x: 0, y: 11 }, second));
    plate.append(lines);
    plates.append(plate);
  }
  drawing.append(plates);
  for (const node of [...shown, ...idle]) drawing.append(drawNode(node, at.get(node.id), near && !near.has(node.id)));
  const scroll = { left: box.scrollLeft, top: box.scrollTop };
  const focused = document.activeElement?.dataset?.id;
  box.replaceChildren(drawing);
  box.scrollTo(scroll.left, scroll.top);
  if (focused) [...box.querySelectorAll(".node")].find((one) => one.dataset.id === focused)?.focus({ preventScroll: true });
  drawChosen();
}

function curveRight(from, to) {
  const y1 = from.y + NODE.height / 2, y2 = to.y + NODE.height / 2;
  if (to.x > from.x) {
    const x1 = from.x + NODE.width, x2 = to.x - 3, bend = Math.max(36, (x2 - x1) / 2);
    const t = x2 - x1 > NODE.gapX + 20 ? 1 - (NODE.gapX / 2) / (x2 - x1) : 0.5;
    return { path: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, middle: bezier(x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2, t) };
  }
  const x1 = from.x + NODE.width / 2, x2 = to.x + NODE.width / 2; // back, or aside: below the nodes
  const low = Math.max(from.y, to.y) + NODE.height + 26;
  return { path: `M${x1} ${from.y + NODE.height}C${x1} ${low + 20} ${x2} ${low + 20} ${x2} ${to.y + NODE.height + 3}`, middle: { x: (x1 + x2) / 2, y: low + 4 } };
}

function curveDown(from, to) {
  const x1 = from.x + NODE.width / 2, x2 = to.x + NODE.width / 2;
  if (to.y > from.y) {
    const y1 = from.y + NODE.height, y2 = to.y - 3, bend = Math.max(24, (y2 - y1) / 2);
    return { path: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`, middle: bezier(x1, y1, x1, y1 + bend, x2, y2 - bend, x2, y2, 0.5) };
  }
  const right = Math.max(from.x, to.x) + NODE.width;
  const y1 = from.y + NODE.height / 2, y2 = to.y + NODE.height / 2;
  return { path: `M${from.x + NODE.width} ${y1}C${right + 30} ${y1} ${right + 30} ${y2} ${to.x + NODE.width + 3} ${y2}`, middle: { x: right + 4, y: (y1 + y2) / 2 } };
}

function bezier(x0, y0, x1, y1, x2, y2, x3, y3, t) {
  const u = 1 - t;
  const mix = (a, b, c, d) => u * u * u * a + 3 * u * u * t * b + 3 * u * t * t * c + t * t * t * d;
  return { x: mix(x0, x1, x2, x3), y: mix(y0, y1, y2, y3) };
}

const short = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

function drawNode(node, at, dim) {
  const numbers = node.stat;
  const outside = node.kind === "unmeshed";
  const kind = health(numbers?.success);
  const group = svg("g", { class: `node ${kind} ${node.meshed ? "" : "unmeshed"} ${dim ? "dim" : ""} ${state.picked === node.id ? "picked" : ""}`,
    transform: `translate(${at.x} ${at.y})`, tabindex: 0, role: "button", "aria-pressed": String(state.picked === node.id) });
  group.dataset.id = node.id;
  const sub = outside ? "seen by servers only" : node.kind === "Service" ? `${node.namespace}, nobody answered`
    : node.meshed ? `${node.kind.toLowerCase()} in ${node.namespace}` : `${node.namespace}, not meshed`;
  const line = !numbers || !node.meshed ? "" : !numbers.seen ? "not scraped" : !numbers.requests ? "nothing arrived"
    : `${brief(numbers.success)} · ${rate(numbers.rps)}/s · ${millis(numbers.latency_p95_ms)}`;
  group.append(
    svg("title", {}, `${node.name}, ${sub}${line ? ": success " + line : ""}`),
    svg("rect", { class: "box", width: NODE.width, height: NODE.height, rx: 8 }),
    svg("rect", { class: "edge-of", width: 5, height: NODE.height - 16, x: 0, y: 8, rx: 2.5 }),
    svg("text", { class: "name", x: 15, y: 24 }, short(outside ? "unmeshed clients" : node.name, 22)),
    svg("text", { class: "sub", x: 15, y: 41 }, short(sub, 26)),
    svg("text", { class: "num", x: 15, y: 60 }, line));
  const pick = () => { state.picked = state.picked === node.id ? null : node.id; drawGraph(); };
  group.addEventListener("click", pick);
  group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(); } });
  return group;
}

function drawChosen() {
  const node = state.graph.nodes.find((one) => one.id === state.picked);
  $("chosen").hidden = !node;
  if (!node) return;
  const row = node.stat;
  const tap = row?.meshed ? el("a", { href: `#/tap?${new URLSearchParams({ resource: `${node.kind.toLowerCase()}/${node.name}`, namespace: node.namespace })}` }, "Tap it") : "";
  const parts = row ? `${row.meshed}/${row.pods} pods meshed · success ${percent(row.success)} · ${rate(row.rps)} requests/s · p50 ${millis(row.latency_p50_ms)} · p95 ${millis(row.latency_p95_ms)} · p99 ${millis(row.latency_p99_ms)} · ${whole(row.tcp_conn)} connections` : "Nothing is known of it but who calls it.";
  $("chosen").replaceChildren(el("p", {}, el("strong", {}, node.name), ` ${node.namespace}`), el("p", {}, parts), el("p", {}, tap));
}

// ---- workloads -----------------------------------------------------------------------------------------------------

async function showWorkloads(current) {
  const [spaces, rows] = await Promise.all([ask("stat", { window: scope().window, resource: "ns" }), ask("stat", { ...scope(), resource: "workload" })]);
  if (!current()) return;
  tellBasis(rows);
  offerNamespaces(spaces.rows.map((row) => row.name));
  const numbers = (row) => [successCell(row.success), cell(rate(row.rps), "n"), cell(millis(row.latency_p50_ms), "n"),
    cell(millis(row.latency_p95_ms), "n"), cell(millis(row.latency_p99_ms), "n")];
  const meshed = (row) => el("td", { class: "n" }, row.unseen.length ? el("span", { class: "badge bad", title: row.unseen.join(", ") }, `${row.unseen.length} unseen`) : null, ` ${row.meshed}/${row.pods}`);
  fill("namespaces", spaces.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.name), meshed(row), ...numbers(row))), "No namespaces with pods.");
  fill("workloads", rows.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, ...named(row.namespace, row.name).filter(known)),
    cell(row.kind, "roomy"), meshed(row), ...numbers(row), cell(whole(row.tcp_conn), "n"))), "No workloads in this namespace.");
}

// ---- certificates --------------------------------------------------------------------------------------------------

async function showCertificates(current) {
  const answer = await ask("certificates", { namespace: $("namespace").value, resource: "workload" });
  if (!current()) return;
  tellBasis(answer);
  if (!$("namespace").value) offerNamespaces(answer.rows.map((row) => row.namespace));
  const left = (row) => (row.expires_at ? row.expires_at - answer.at : null);
  const life = (row) => (row.expires_at && row.refreshed_at ? row.expires_at - row.refreshed_at : null);
  const kind = (row) => { const l = left(row); return l === null ? "none" : l <= 0 ? "bad" : l < (life(row) || 86400) * 0.2 ? "fair" : "good"; };
  const over = answer.rows.filter((row) => left(row) !== null && left(row) <= 0).length;
  const soon = answer.rows.filter((row) => left(row) > 0 && kind(row) === "fair").length;
  const unknown = answer.rows.filter((row) => left(row) === null).length;
  const anchors = answer.rows.map((row) => row.anchors_expire_at).filter(known);
  $("certificates-summary").textContent = `${answer.rows.length} proxies` + (over ? ` · ${over} with an expired leaf` : "") +
    (soon ? ` · ${soon} past their renewal` : "") + (unknown ? ` · ${unknown} not known` : "") +
    (anchors.length ? ` · first trust anchor expires ${span(Math.min(...anchors) - answer.at)}` : "");
  const bar = (row) => {
    const share = Math.max(0, Math.min(1, left(row) / (life(row) || 86400)));
    const drawing = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: kind(row), width: share * 100, height: 10 }));
    return el("td", {}, left(row) === null ? "–" : el("span", { class: "life", title: `${Math.round(share * 100)} % of its life is left` }, drawing));
  };
  const when = (at) => (known(at) ? el("span", { title: new Date(at * 1000).toISOString() }, span(at - answer.at)) : "–");
  fill("certificates", answer.rows.map((row) => el("tr", {},
    el("th", { scope: "row", title: row.identity }, ...named(row.namespace, row.pod).filter(known)), cell(row.workload),
    el("td", {}, el("span", { class: `badge ${kind(row)}` }, known(row.expires_at) ? when(row.expires_at) : "not known")), bar(row),
    el("td", {}, when(row.anchors_expire_at)), cell(whole(row.renewals), "n"),
    el("td", { class: "n" }, row.renewal_errors ? el("span", { class: "badge bad" }, whole(row.renewal_errors)) : "0"))), "No meshed pods here.");
}

// ---- tap -----------------------------------------------------------------------------------------------------------

async function showTap(current) {
  if (state.tap) return;
  const answer = await ask("stat", { ...scope(), resource: "workload" });
  if (!current()) return;
  tellBasis(answer);
  const names = answer.rows.map((row) => `${row.kind.toLowerCase()}/${row.name}`);
  $("resources").replaceChildren(...[...new Set(names)].map((name) => el("option", { value: name })));
  if (!$("namespace").value) offerNamespaces(answer.rows.map((row) => row.namespace));
}

function note(text, kind = "") {
  $("tap-notes").append(el("li", { class: kind }, text));
  while ($("tap-notes").children.length > 8) $("tap-notes").firstChild.remove();
}

async function startTap(event) {
  event.preventDefault();
  if (state.tap) { state.tap.abort(); return; }
  const fields = Object.fromEntries(new FormData($("tap-form")));
  const namespace = $("namespace").value;
  const query = new URLSearchParams(Object.entries({ ...fields, namespace }).filter(([, value]) => value !== ""));
  const button = $("tap-form").querySelector("[type=submit]");
  state.tap = new AbortController();
  button.textContent = "Stop";
  $("tap-notes").replaceChildren();
  const rows = new Map();
  let tapping = 0;
  try {
    const response = await fetch(`api/tap?${query}`, { signal: state.tap.signal });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error || `the answer was ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const text of lines) {
        if (!text) continue;
        const said = JSON.parse(text);
        if (said.event !== "note") tapRow(said, rows);
        else if (said.text === "tapping") $("tap-rows").caption.textContent = `Requests of ${++tapping} ${tapping === 1 ? "pod" : "pods"}, the newest first`;
        else note((said.pod ? `${said.namespace}/${said.pod}: ` : "") + said.text, "bad");
      }
    }
    note("The tap ended.");
  } catch (error) {
    if (error.name !== "AbortError") note(error.message, "bad");
  }
  state.tap = null;
  button.textContent = "Start";
}

function tapRow(said, rows) {
  const key = `${said.namespace}/${said.pod}/${said.id}`;
  const body = $("tap-rows").tBodies[0];
  const end = (one, otherwise) => one?.workload || one?.pod || one?.authority || otherwise || `${one?.ip}:${one?.port}`;
  const secured = (tls) => (known(tls) ? el("span", { class: tls ? "badge good" : "badge" }, tls ? "yes" : "no") : "…");
  if (said.event === "requestInit") {
    const row = el("tr", {}, cell(new Date().toLocaleTimeString()), cell(said.proxyDirection === "inbound" ? "in" : "out"), cell(end(said.source)),
      cell(end(said.destination, said.proxyDirection === "outbound" ? said.authority : "")), cell(said.method), el("td", { class: "path", title: said.authority }, said.path), cell("…", "n"), cell("", "n"),
      el("td", {}, secured(said.tls)));
    rows.set(key, row);
    if (body.querySelector(".empty")) body.replaceChildren();
    body.prepend(row);
    while (body.rows.length > TAP_ROWS) body.lastChild.remove();
    if (rows.size > TAP_ROWS * 5) rows.delete(rows.keys().next().value);
    return;
  }
  const row = rows.get(key);
  if (!row) return;
  if (said.destination?.workload || said.destination?.pod) row.cells[3].textContent = end(said.destination);
  row.cells[8].replaceChildren(secured(said.tls));
  const failed = !said.httpStatus || said.httpStatus >= 500 || [2, 4, 7, 13, 14, 15].includes(said.grpcStatus);
  const text = said.httpStatus ? String(said.httpStatus) + (known(said.grpcStatus) ? ` / ${said.grpcStatus}` : "") : said.error || "none";
  row.cells[6].replaceChildren(el("span", { class: `health ${failed ? "bad" : "good"}` }, text));
  row.cells[7].textContent = millis(said.sinceRequestInitUs / 1000);
  if (said.event === "responseEnd") rows.delete(key);
}

// ---- moving about --------------------------------------------------------------------------------------------------

function go() {
  const [name, query] = location.hash.replace(/^#\//, "").split("?");
  state.view = name in VIEWS ? name : "topology";
  for (const view of Object.keys(VIEWS)) $(`view-${view}`).hidden = view !== state.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${state.view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${$(`h-${state.view}`).textContent} – Mesh`;
  const given = new URLSearchParams(query || "");
  if (given.has("namespace")) { offerNamespaces([...[...$("namespace").options].map((o) => o.value), given.get("namespace")]); $("namespace").value = given.get("namespace"); }
  if (given.has("window")) $("window").value = given.get("window");
  for (const [field, value] of given) if (state.view === "tap" && $("tap-form").elements[field]) $("tap-form").elements[field].value = value;
  if (state.view === "tap" && given.has("start")) $("tap-form").requestSubmit();
  if (state.view !== "tap" && state.tap) state.tap.abort();
  refresh();
}

fill("tap-rows", [], "Choose a resource and start; its requests appear here as they pass.");
$("tap-form").addEventListener("submit", startTap);
$("tap-clear").addEventListener("click", () => fill("tap-rows", [], "Cleared."));
$("namespace").addEventListener("change", () => { state.picked = null; refresh(); });
$("window").addEventListener("change", refresh);
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  $("pause").textContent = state.paused ? "Resume" : "Pause";
  refresh();
});
document.addEventListener("visibilitychange", refresh);
let resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => state.graph && drawGraph(), 150); });
addEventListener("hashchange", go);
go();
