"use strict";
// The data is written by circuits/viewer/__init__.py; all names are shown by textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = { helps: "#0072B2", hurts: "#D55E00", size: "#009E73", none: "#5f6b7a", q: "#0072B2", k: "#E69F00", v: "#009E73", in: "#5f6b7a", shared: "#5f6b7a", own: "#CC79A7" };
const DASHES = { helps: "", hurts: "7 4", size: "", none: "", q: "", k: "7 4", v: "2 3", in: "", shared: "", own: "" };
const ROW = 34, HEIGHT = 20;
// As wide as the window is high, so that tall circuits are not drawn small.
const spans = data.nodes.map((node) => Math.abs(node[2]));
const room = (innerWidth - 340) / data.circuits.length / Math.max(300, innerHeight - 150) * data.rows.length * ROW;
const CELL = Math.min(190, Math.max(88, room / (2 * Math.max(...spans, 1) + 2)));
const state = { chosen: null, colour: "sign", view: null };
const nodes = new Map(data.nodes.map(([id, kind, x, y]) => [id, { id, kind, x: x * CELL, y: -y * ROW }]));
const panels = [];

function make(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}
function html(tag, className = "", text = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}
const signed = (value, quantity) => (quantity.signed && value >= 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toPrecision(3);
function told(edge, method, quantity = { signed: true }) {
  const by = method ? `\nby ${method}` : "";
  if (edge.score === null) return edge.name + by;
  let text = `${edge.name}\n${signed(edge.score, quantity)}`;
  if (edge.stderr !== null) text += ` ± ${edge.stderr.toPrecision(2)} (95%: ${signed(edge.score - 1.96 * edge.stderr, quantity)} to ${signed(edge.score + 1.96 * edge.stderr, quantity)})`;
  return text + by;
}
function kindOf(edge, quantity) {
  if (state.colour === "part") return edge.part;
  if (state.colour === "shared") return edge.shared ? "shared" : "own";
  if (edge.score === null) return "none";
  return !quantity.signed ? "size" : edge.score >= 0 ? "helps" : "hurts";
}
function curve(a, b) {
  const y0 = a.y - HEIGHT / 2, y1 = b.y + HEIGHT / 2, rise = (y0 - y1) / 2;
  const swing = 0.12 * Math.max(0, y0 - y1 - ROW) * (a.x + b.x >= 0 ? 1 : -1) * 1.4;
  return `M${a.x} ${y0}C${a.x + swing} ${y0 - rise} ${b.x + swing} ${y1 + rise} ${b.x} ${y1}`;
}

const tip = document.getElementById("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
}
const hideTip = () => { tip.style.display = "none"; };

class Panel {
  constructor(circuit, index) {
    this.circuit = circuit;
    this.edges = circuit.edges.map(([source, target, part, score, stderr, name, shared]) => ({ source, target, part, score, stderr, name, shared }));
    this.edges.sort((a, b) => Math.abs(b.score ?? 0) - Math.abs(a.score ?? 0)); // stable: strongest first
    const ranks = new Map(); // an edge into a shared key or value head is a line to each of its query heads
    for (const edge of this.edges) { if (!ranks.has(edge.name)) ranks.set(edge.name, ranks.size); edge.rank = ranks.get(edge.name); }
    this.size = ranks.size;
    const largest = Math.max(...this.edges.map((e) => Math.abs(e.score ?? 0)), 0) || 1;
    const box = html("section", "panel");
    box.append(html("h2", "", circuit.name), html("p", "", circuit.facts));
    this.svg = make("svg", { role: "img", "aria-label": `circuit ${circuit.name}` });
    this.stage = make("g");
    this.svg.append(this.stage);
    box.append(this.svg);
    document.querySelector("main").insertBefore(box, document.querySelector("aside"));
    const xs = [...nodes.values()].map((n) => n.x);
    const left = Math.min(...xs, 0) - CELL, right = Math.max(...xs, 0) + CELL;
    for (const [label, y] of data.rows) {
      this.stage.append(make("line", { class: "row-line", x1: left, x2: right, y1: -y * ROW, y2: -y * ROW }));
      this.stage.append(make("text", { class: "row-label", x: left, y: -y * ROW - 4 }, label));
    }
    for (const edge of [...this.edges].reverse()) { // strong edges on top
      edge.width = edge.score === null ? 1.5 : 0.8 + 5 * Math.sqrt(Math.abs(edge.score) / largest);
      edge.strength = edge.score === null ? 0.7 : 0.35 + 0.6 * Math.sqrt(Math.abs(edge.score) / largest);
      edge.path = make("path", { class: "edge", d: curve(nodes.get(edge.source), nodes.get(edge.target)), "stroke-width": edge.width, opacity: edge.strength });
      edge.path.addEventListener("pointermove", (event) => showTip(event, told(edge, circuit.method, circuit.quantity)));
      edge.path.addEventListener("pointerleave", hideTip);
      this.stage.append(edge.path);
    }
    this.boxes = new Map();
    for (const node of nodes.values()) {
      const width = Math.max(44, 7 * node.id.length + 12);
      const kind = node.kind === "mlp" ? "mlp" : node.kind === "head" ? "head" : "end";
      const group = make("g", { class: `node ${kind}`, transform: `translate(${node.x} ${node.y})`, tabindex: 0, "data-node": node.id });
      group.append(make("rect", { x: -width / 2, y: -HEIGHT / 2, width, height: HEIGHT, rx: 3 }), make("text", {}, node.id));
      group.addEventListener("click", (event) => { event.stopPropagation(); choose(node.id === state.chosen ? null : node.id); });
      group.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(node.id); });
      group.addEventListener("pointermove", (event) => showTip(event, this.about(node.id)));
      group.addEventListener("pointerleave", hideTip);
      this.boxes.set(node.id, group);
      this.stage.append(group);
    }
    this.bounds = { left, right, top: Math.min(...[...nodes.values()].map((n) => n.y)) - ROW, bottom: ROW };
    this.listen(index);
  }
  about(id) {
    const shown = this.visible();
    return `${id}\n${shown.filter((e) => e.target === id).length} edges in, ${shown.filter((e) => e.source === id).length} out`;
  }
  visible() { return this.edges.filter((edge) => edge.rank < this.shown); }
  draw(count) {
    this.shown = Math.min(count, this.size);
    const used = new Set();
    for (const edge of this.edges) {
      const on = edge.rank < this.shown;
      const near = state.chosen === null || edge.source === state.chosen || edge.target === state.chosen;
      edge.path.setAttribute("class", "edge" + (on ? "" : " off") + (near ? "" : " dim"));
      if (on) used.add(edge.source).add(edge.target);
    }
    for (const [id, box] of this.boxes) {
      box.classList.toggle("off", !used.has(id));
      box.classList.toggle("chosen", id === state.chosen);
    }
  }
  paint() {
    for (const edge of this.edges) {
      const kind = kindOf(edge, this.circuit.quantity);
      edge.path.setAttribute("stroke", COLOURS[kind]);
      edge.path.setAttribute("stroke-dasharray", DASHES[kind]);
    }
  }
  fit() {
    const { left, right, top, bottom } = this.bounds, { width, height } = this.svg.getBoundingClientRect();
    const scale = Math.min(width / (right - left), height / (bottom - top), 1.6);
    return { scale, x: width / 2 - scale * (left + right) / 2, y: height / 2 - scale * (top + bottom) / 2 };
  }
  listen() {
    let last = null;
    this.svg.addEventListener("pointerdown", (event) => { last = [event.clientX, event.clientY]; });
    addEventListener("pointerup", () => { last = null; });
    this.svg.addEventListener("pointermove", (event) => {
      if (last === null) return;
      state.view.x += event.clientX - last[0];
      state.view.y += event.clientY - last[1];
      last = [event.clientX, event.clientY];
      move();
    });
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const area = this.svg.getBoundingClientRect(), factor = Math.exp(-event.deltaY * 0.0015);
      const x = event.clientX - area.left, y = event.clientY - area.top, view = state.view;
      const scale = Math.min(8, Math.max(0.05, view.scale * factor));
      view.x = x - (x - view.x) * scale / view.scale;
      view.y = y - (y - view.y) * scale / view.scale;
      view.scale = scale;
      move();
    }, { passive: false });
    this.svg.addEventListener("click", () => choose(null));
  }
}

function move() { // all panels move together, so that circuits can be compared place by place
  const { x, y, scale } = state.view;
  for (const panel of panels) panel.stage.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
}
function choose(id) {
  state.chosen = id;
  redraw();
  describe();
}
const slider = document.getElementById("slider");
function redraw() {
  const count = Number(slider.value);
  document.getElementById("count").textContent = `${count} edges`;
  for (const panel of panels) panel.draw(count);
}
function describe() {
  const side = document.querySelector("aside");
  side.replaceChildren();
  if (state.chosen === null) {
    side.append(html("h2", "", "Circuit"));
    for (const line of data.about) side.append(html("p", "", line));
    side.append(html("p", "", "Click a node for its edges" + (Object.keys(data.patterns).length ? " and, of a head, its attention." : ".") + " Wheel zooms, dragging moves."));
    return;
  }
  side.append(html("h2", "", state.chosen));
  for (const panel of panels) {
    if (panels.length > 1) side.append(html("h3", "", panel.circuit.name));
    const shown = panel.visible();
    list(side, "incoming", shown.filter((e) => e.target === state.chosen), (e) => e.source, panel.circuit.quantity);
    list(side, "outgoing", shown.filter((e) => e.source === state.chosen), (e) => e.target, panel.circuit.quantity);
  }
  if (data.patterns[state.chosen]) pattern(side, state.chosen);
}
function list(side, title, edges, other, quantity) {
  side.append(html("h3", "", `${edges.length} ${title}`));
  const table = html("table");
  for (const edge of edges) {
    const row = html("tr");
    row.append(html("td", "", other(edge) + (edge.part === "in" ? "" : ` (${edge.part})`)), html("td", "number", edge.score === null ? "" : signed(edge.score, quantity)), html("td", "number", edge.stderr === null ? "" : `± ${edge.stderr.toPrecision(2)}`));
    row.addEventListener("click", () => choose(other(edge)));
    table.append(row);
  }
  side.append(table);
}
function pattern(side, head) {
  const rows = data.patterns[head], n = rows.length, cell = Math.max(6, Math.min(22, Math.floor(300 / n)));
  side.append(html("h3", "", "attention on the example pair's clean prompt: queries down, keys across"));
  const canvas = html("canvas");
  canvas.width = canvas.height = n * cell;
  const context = canvas.getContext("2d");
  rows.forEach((row, i) => row.forEach((weight, j) => {
    const shade = Math.round(255 - 255 * weight);
    context.fillStyle = `rgb(${shade},${Math.round(255 - 141 * weight)},${Math.round(255 - 77 * weight)})`;
    context.fillRect(j * cell, i * cell, cell, cell);
  }));
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect();
    const i = Math.min(n - 1, Math.floor((event.clientY - area.top) / area.height * n)), j = Math.min(n - 1, Math.floor((event.clientX - area.left) / area.width * n));
    showTip(event, `${data.tokens[i]} → ${data.tokens[j]}\n${(rows[i][j] ?? 0).toFixed(2)}`);
  });
  canvas.addEventListener("pointerleave", hideTip);
  side.append(canvas);
  const last = rows[n - 1].map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  side.append(html("p", "", `the last token attends to ${last.map(([w, j]) => `“${data.tokens[j]}” ${w.toFixed(2)}`).join(", ")}`));
}
function signs() { // an entry for each kind of line and each meaning that it has in one of the panels
  const found = new Map();
  for (const panel of panels) {
    const quantity = panel.circuit.quantity;
    const there = quantity.signed ? [["helps", quantity.helps], ["hurts", quantity.hurts]] : [["size", `${quantity.name} (no sign)`]];
    for (const entry of panel.edges.some((edge) => edge.score !== null) ? there : [["none", "no scores"]]) found.set(entry.join(), entry);
  }
  return [...found.values()];
}
function legend() {
  const kinds = state.colour === "part" ? [["q", "into queries"], ["k", "into keys"], ["v", "into values"], ["in", "into MLPs and logits"]]
    : state.colour === "shared" ? [["shared", "in both"], ["own", "in this one only"]]
    : signs();
  const place = document.getElementById("legend");
  place.replaceChildren();
  for (const [kind, label] of kinds) {
    const key = html("span", "key"), line = make("svg", { viewBox: "0 0 26 8" });
    line.append(make("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 3, stroke: COLOURS[kind], "stroke-dasharray": DASHES[kind] }));
    key.append(line, html("span", "", label));
    place.append(key);
  }
}
function recolour() {
  for (const panel of panels) panel.paint();
  legend();
}
function reset() {
  state.view = panels[0].fit();
  move();
}

data.circuits.forEach((circuit, i) => panels.push(new Panel(circuit, i)));
const most = Math.max(...panels.map((panel) => panel.size), 1);
slider.max = most;
slider.value = Math.min(most, data.start);
slider.addEventListener("input", () => { redraw(); describe(); });
const colour = document.getElementById("colour");
colour.addEventListener("change", () => { state.colour = colour.value; recolour(); });
document.getElementById("reset").addEventListener("click", reset);
addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });
addEventListener("resize", reset);
recolour();
redraw();
reset();
describe();
document.body.dataset.ready = "yes";
