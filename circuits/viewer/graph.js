// The circuits as pictures: one panel each, redrawn when what is shown changes, restyled when something is chosen.
const panels = [];
const HITS = 600; // with more lines than this, only the drawn line itself can be pointed at

class Panel {
  constructor(circuit) {
    this.circuit = circuit;
    const box = html("section", "panel", null, { "aria-label": `circuit ${circuit.name}` });
    if (circuits.length > 1) box.append(html("h2", "", circuit.name));
    this.view = html("div", "view", null, { tabindex: -1 });
    this.svg = make("svg", { role: "group", "aria-label": `${circuit.name}: layers upward` });
    this.view.append(this.svg);
    if (circuits.length > 1 || !data.about.length) box.append(html("p", "facts", circuit.facts));
    this.axis = html("div", "axis");
    box.append(this.view, this.axis);
    el("panels").append(box);
    this.drag();
  }
  drag() {
    let last = null;
    this.view.addEventListener("pointerdown", (event) => { if (event.target === this.svg || event.target.closest(".row")) last = [event.clientX, event.clientY]; });
    addEventListener("pointerup", () => { last = null; });
    this.view.addEventListener("pointermove", (event) => {
      if (last === null) return;
      this.view.scrollBy(last[0] - event.clientX, last[1] - event.clientY);
      last = [event.clientX, event.clientY];
    });
    this.view.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(-event.deltaY * 0.002)); } }, { passive: false });
    this.svg.addEventListener("click", () => choose(null));
    this.view.addEventListener("scroll", () => { for (const { view, axis } of panels) { view.scrollTo(this.view.scrollLeft, this.view.scrollTop); axis.scrollLeft = this.view.scrollLeft; } }); // two circuits stay place by place
  }
  draw(layout, { lines, boxes }) {
    this.lines = lines;
    this.layout = layout;
    for (const band of layout.bands) band.lanes.clear();
    const height = Math.max(layout.height, this.view.clientHeight - 4);
    this.svg.replaceChildren(arrows(), ...this.rows(layout), ...columnLines(layout));
    this.svg.setAttribute("width", layout.width);
    this.svg.setAttribute("height", height);
    const edges = make("g");
    for (const line of [...lines].reverse()) edges.append(this.edge(line, layout, lines.length <= HITS)); // strong ones on top
    this.boxes = new Map([...layout.places].map(([box, place]) => [box, this.box(box, place, boxes.has(box))]));
    this.svg.append(edges, this.ports(lines, layout), ...[...this.boxes.values()].reverse());
    if (!lines.length) this.svg.append(make("text", { x: LABELS + 20, y: 30, class: "none" }, "no edges to show"));
    drawAxis(this, layout);
    this.paint();
    this.mark();
  }
  rows(layout) {
    return layout.bands.map((band, i) => {
      const group = make("g", { class: "row" }), even = band.row % 4 < 2;
      const top = i ? (layout.bands[i - 1].bottom + band.top) / 2 : 0, bottom = i + 1 < layout.bands.length ? (band.bottom + layout.bands[i + 1].top) / 2 : layout.height;
      group.append(make("rect", { x: 0, y: top, width: layout.width, height: bottom - top, class: even ? "stripe" : "" }));
      if (band.first) group.append(make("text", { x: 8, y: band.y, class: "row-label" }, rowLabel(band.row)));
      return group;
    });
  }
  edge(line, layout, wide) {
    const d = curve(line, layout);
    line.group = make("g", { class: "edge" });
    line.path = make("path", { d, class: "line", "stroke-width": widthOf(line.score, this.circuit.largest).toFixed(2), opacity: line.score === null ? 0.7 : (0.45 + 0.5 * Math.sqrt(Math.min(1, Math.abs(line.score) / this.circuit.largest))).toFixed(2) });
    if (wide) line.group.append(make("path", { d, class: "hit" }));
    line.group.append(line.path);
    line.group.addEventListener("pointermove", (event) => showTip(event, edgeText(line, this.circuit.quantity)));
    line.group.addEventListener("pointerleave", hideTip);
    return line.group;
  }
  ports(lines, layout) { // where an edge enters a head: its query, key or value
    const group = make("g"), seen = new Set();
    for (const { target, part } of lines) {
      if (!PARTS[part] || seen.has(target + part)) continue;
      seen.add(target + part);
      const place = layout.places.get(target);
      group.append(make("text", { class: "port", x: place.x + { q: -0.32, k: 0, v: 0.32 }[part] * Math.min(place.width, 60), y: place.y + BOX / 2 + PORT / 2 }, part));
    }
    return group;
  }
  box(box, place, here) {
    const kind = box.startsWith(GROUP) ? "group" : ["input", "logits"].includes(nodeOf(box)) ? "end" : partOf(nodeOf(box)) ? (box[0] === "f" ? "feature" : "error") : box[0] === "m" ? "mlp" : "head";
    const group = make("g", { class: `node ${kind}${here ? "" : " off"}`, transform: `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`, tabindex: -1, role: "button", "data-node": spanOf(box) === null ? box : `${nodeOf(box)}@${data.spans[spanOf(box)]}`, "aria-label": `${spoken(box)} ${fullName(box)}` });
    group.append(make("rect", { x: -place.width / 2, y: -BOX / 2, width: place.width, height: BOX, rx: 3 }), make("text", {}, overTokens() ? clipped(caption(box), place.width - 4, "12px system-ui, sans-serif") : caption(box)));
    if (pinned(box)) group.append(make("circle", { cx: place.width / 2, cy: -BOX / 2, r: 4, class: "pin" }));
    group.addEventListener("click", (event) => { event.stopPropagation(); choose(box === state.chosen ? null : box); });
    group.addEventListener("keydown", (event) => this.key(event, box));
    group.addEventListener("pointermove", (event) => showTip(event, this.about(box)));
    group.addEventListener("pointerleave", hideTip);
    group.addEventListener("focus", () => { for (const other of this.boxes.values()) other.setAttribute("tabindex", other === group ? 0 : -1); });
    return group;
  }
  about(box) {
    const full = membersOf(box).length > 1 ? membersOf(box).join(", ") : fullName(box);
    return [spoken(box), full, `${this.lines.filter((line) => line.target === box).length} edges in, ${this.lines.filter((line) => line.source === box).length} out`].filter(Boolean).join("\n");
  }
  key(event, box) { // arrows go from box to box; Enter chooses, p pins
    const here = this.layout.places.get(box), others = [...this.layout.places];
    const nearest = (list, far) => list.sort((a, b) => far(a[1]) - far(b[1]))[0]?.[0];
    const side = (sign) => nearest(others.filter(([, p]) => p.band === here.band && sign * (p.x - here.x) > 0), (p) => Math.abs(p.x - here.x));
    const along = (sign) => nearest(others.filter(([, p]) => sign * (p.band - here.band) > 0), (p) => 1e4 * Math.abs(p.band - here.band) + Math.abs(p.x - here.x));
    const next = { ArrowLeft: () => side(-1), ArrowRight: () => side(1), ArrowUp: () => along(-1), ArrowDown: () => along(1) }[event.key];
    if (next) this.boxes.get(next())?.focus();
    else if (event.key === "Enter" || event.key === " ") choose(box === state.chosen ? null : box);
    else if (event.key === "p") pin(box);
    else return;
    event.preventDefault();
  }
  paint() {
    for (const line of this.lines) {
      const kind = kindOf(line, this.circuit);
      line.path.setAttribute("stroke", COLOURS[kind]);
      line.path.setAttribute("stroke-dasharray", DASHES[kind]);
      line.path.setAttribute("marker-end", `url(#arrow-${kind})`);
    }
  }
  mark() { // what is chosen, and what is not wired to it
    const near = new Set([state.chosen]);
    for (const line of this.lines) {
      const on = line.source === state.chosen || line.target === state.chosen;
      line.group.classList.toggle("dim", state.chosen !== null && !on);
      if (on) near.add(line.source).add(line.target);
    }
    for (const [box, group] of this.boxes) {
      group.classList.toggle("chosen", box === state.chosen);
      group.classList.toggle("far", state.chosen !== null && !near.has(box));
      group.setAttribute("aria-pressed", box === state.chosen);
    }
    const first = this.boxes.get(state.chosen) ?? this.boxes.values().next().value;
    for (const group of this.boxes.values()) group.setAttribute("tabindex", group === first ? 0 : -1);
  }
}
function arrows() {
  const defs = make("defs");
  for (const [kind, colour] of Object.entries(COLOURS)) {
    const marker = make("marker", { id: `arrow-${kind}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" });
    marker.append(make("path", { d: "M0 0.5L8 4L0 7.5Z", fill: colour }));
    defs.append(marker);
  }
  return defs;
}

function redraw() { // everything anew: another number of edges, another size, other groups
  const shown = circuits.map(shownBoxes), all = new Set(shown.flatMap(({ boxes }) => [...boxes]));
  const spans = overTokens() ? data.spans.map((_, i) => i) : [null];
  const order = data.nodes.map(([node]) => node).concat([...names.groups.keys()].map((name) => GROUP + name)).flatMap((base) => spans.map((span) => atSpan(base, span))).filter((box) => all.has(box));
  if (state.chosen !== null && !all.has(state.chosen)) state.chosen = null;
  for (const { axis } of panels) { axis.hidden = !overTokens(); axis.style.height = `${AXIS}px`; } // before the room is measured
  const views = panels.map((panel) => panel.view), height = Math.min(...views.map((view) => view.clientHeight)) - 4;
  const layout = (overTokens() ? placedOver : placed)(new Set(order), shown.flatMap(({ lines }) => lines), Math.min(...views.map((view) => view.clientWidth)) - 1, height);
  panels.forEach((panel, i) => panel.draw(layout, shown[i]));
  const drawn = shown.map(({ lines }) => lines.length), most = largestSize();
  el("count").textContent = state.pinnedOnly ? `${Math.max(...drawn)} edges between pinned nodes` : `${Math.min(state.count, most)} of ${most} edges${overTokens() ? " at places" : ""}`;
  legend();
}
function recolour() {
  for (const panel of panels) panel.paint();
  legend();
}
function zoom(factor) {
  state.zoom = factor === null ? 1 : Math.min(4, Math.max(0.5, state.zoom * factor));
  redraw();
}

function signs() { // an entry for each kind of line and each meaning that it has in one of the panels
  const kinds = new Map();
  for (const { quantity, scored } of circuits) {
    const here = quantity.signed ? [["helps", quantity.helps], ["hurts", quantity.hurts]] : [["size", `${quantity.name} (no sign)`]];
    for (const entry of scored ? here : [["none", "no scores"]]) kinds.set(entry.join(), entry);
  }
  return [...kinds.values()];
}
function sample(colour, dashes, width, arrow) {
  const line = make("svg", { width: 30, height: 10, viewBox: "0 0 30 10", "aria-hidden": "true" });
  line.append(make("line", { x1: 0, x2: arrow ? 24 : 30, y1: 5, y2: 5, "stroke-width": width, stroke: colour, "stroke-dasharray": dashes }));
  if (arrow) line.append(make("path", { d: "M22 1.5L30 5L22 8.5Z", fill: colour }));
  return line;
}
function legend() {
  const place = el("legend"), entry = (line, text) => { const key = html("span", "key"); key.append(...(line ? [line] : []), html("span", "", text)); place.append(key); };
  const kinds = state.colour === "part" ? [["q", "into a query"], ["k", "into a key"], ["v", "into a value"], ["in", "into MLPs and logits"]]
    : state.colour === "shared" ? [["shared", "in both"], ["own", "in this one only"]] : signs();
  place.replaceChildren();
  for (const [kind, text] of kinds) entry(sample(COLOURS[kind], DASHES[kind], 3, false), text);
  entry(sample("#1a1f26", "", 1.5, true), "from writer to reader, upward");
  if (overTokens()) entry(null, "across: read at one span, for the query at another");
  entry(null, "q k v: enters a head's query, key or value");
  for (const { name, quantity, largest, scored } of circuits) {
    if (!scored) continue;
    const key = html("span", "key");
    key.append(html("span", "", `width${circuits.length > 1 ? ` (${name})` : ""}: size of the ${quantity.name}`));
    for (const share of [1, 0.25, 0.05]) key.append(sample("#1a1f26", "", widthOf(share * largest, largest), false), html("span", "number", String(Number((share * largest).toPrecision(2)))));
    if (quantity.unit) key.append(html("span", "", quantity.unit));
    place.append(key);
  }
}
