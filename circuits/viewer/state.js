"use strict";
// What all parts of the page share. The data comes from circuits/viewer/data.py; all names are shown by textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito (2008), as in the figures; what colour says, dashes say too.
const COLOURS = { helps: "#0072B2", hurts: "#D55E00", size: "#009E73", none: "#5f6b7a", q: "#D55E00", k: "#009E73", v: "#0072B2", in: "#5f6b7a", shared: "#5f6b7a", own: "#AA3377" };
const DASHES = { helps: "", hurts: "7 4", size: "", none: "", q: "", k: "7 4", v: "2 3", in: "", shared: "", own: "7 4" };
const PARTS = { q: "query", k: "key", v: "value" };
const state = { chosen: null, colour: "sign", count: 1, zoom: 1, prompt: 0, query: null, pinnedOnly: false, merged: true, changed: false, mode: "graph" };
const rowOf = new Map(data.nodes);
// What the reader calls nodes: read and written by naming.js.
const names = { labels: new Map(Object.entries(data.naming.labels)), groups: new Map(Object.entries(data.naming.groups)), pins: new Set(data.naming.pinned ?? []) };
function ranked(rows) { // edges as objects, strongest first
  const edges = rows.map(([source, target, part, score, stderr, name, shared, from, to]) => ({ source, target, part, score, stderr, name, shared, from, to }));
  edges.sort((a, b) => Math.abs(b.score ?? 0) - Math.abs(a.score ?? 0)); // stable: strongest first
  const ranks = new Map(); // an edge into a shared key or value head is a line to each of its query heads
  for (const edge of edges) { if (!ranks.has(edge.name)) ranks.set(edge.name, ranks.size); edge.rank = ranks.get(edge.name); }
  return { edges, size: ranks.size, largest: Math.abs(edges[0]?.score ?? 0) || 1, scored: edges.some((edge) => edge.score !== null) };
}
const circuits = data.circuits.map((circuit) => {
  const sets = { graph: ranked(circuit.edges), tokens: circuit.placed && ranked(circuit.placed) };
  return { ...circuit, ...sets.graph, sets };
});
const largestSize = () => Math.max(...circuits.map((circuit) => circuit.size), 1);
const el = (id) => document.getElementById(id);

function make(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}
function html(tag, className = "", text = null, more = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(more)) element.setAttribute(name, value);
  return element;
}
function button(text, act, more = {}) {
  const element = html("button", "", text, { type: "button", ...more });
  element.addEventListener("click", act);
  return element;
}
const digits = (value) => Math.abs(value).toPrecision(3);
const signed = (value, quantity) => (value < 0 ? "−" : quantity.signed ? "+" : "") + digits(value);
function edgeText(edge, quantity) {
  const into = PARTS[edge.part] ? `\ninto the ${PARTS[edge.part]} of ${edge.target}` : "";
  if (edge.score === null) return edge.name + into;
  let text = `${edge.name}${into}\n${quantity.name} ${signed(edge.score, quantity)}${quantity.unit ? ` ${quantity.unit}` : ""}`;
  if (edge.stderr !== null) text += ` ± ${edge.stderr.toPrecision(2)} (95%: ${signed(edge.score - 1.96 * edge.stderr, quantity)} to ${signed(edge.score + 1.96 * edge.stderr, quantity)})`;
  if (edge.members > 1) text += `\nsum of ${edge.members} edges`;
  return text;
}
function kindOf(edge, circuit) {
  if (state.colour === "part") return edge.part;
  if (state.colour === "shared") return edge.shared ? "shared" : "own";
  if (edge.score === null) return "none";
  return !circuit.quantity.signed ? "size" : edge.score >= 0 ? "helps" : "hurts";
}
const widthOf = (score, largest) => (score === null ? 1.5 : 0.8 + 5 * Math.sqrt(Math.min(1, Math.abs(score) / largest)));
const PLACES = { m: "the MLP's write", a: "attention's write", z: "the heads' mixed values", resid_pre: "the stream before the block", resid_mid: "the stream in the block", resid_post: "the stream after the block" };
function partOf(node) { // a part of a dictionary: f:m3.17, e:m3
  const found = /^([fes]):([a-z_]+?)(\d+)(?:\.(\d+))?$/.exec(node);
  return found && { kind: { f: "feature", e: "error", s: "skip" }[found[1]], place: PLACES[found[2]] ?? found[2], layer: found[3], number: found[4] };
}
const fullName = (box) => {
  const node = nodeOf(box), part = partOf(node);
  if (part) return `${part.number === undefined ? part.kind : `${part.kind} ${part.number}`} of the dictionary of ${part.place}, layer ${part.layer}`;
  if (/\.kv\d+$/.test(node)) return `shared key or value ${node.split(".kv")[1]} of layer ${node.slice(1).split(".")[0]}`;
  const [layer, head] = node.slice(1).split(".h");
  return rowOf.has(node) && node !== "input" && node !== "logits" ? (head === undefined ? `MLP of layer ${layer}` : `head ${head} of layer ${layer}`) : "";
};
const homeOf = (node) => [...names.groups].find(([, members]) => members.includes(node))?.[0] ?? null;
const GROUP = "group "; // keeps the names of groups apart from those of nodes
const membersOf = (box) => (box.startsWith(GROUP) ? names.groups.get(nodeOf(box).slice(GROUP.length)) ?? [] : [nodeOf(box)]);
function caption(place) {
  const box = nodeOf(place);
  const text = box.startsWith(GROUP) ? `${box.slice(GROUP.length)} (${membersOf(box).filter((node) => rowOf.has(node)).length})` : names.labels.has(box) ? `${box} ${names.labels.get(box)}` : data.features?.[box]?.promotes.length ? `${box} “${data.features[box].promotes[0].trim()}”` : box;
  return text.length > 30 ? text.slice(0, 29) + "…" : text;
}
const pinned = (box) => membersOf(box).some((node) => names.pins.has(node));

const tip = el("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.style.display = "block";
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)) + "px";
}
const hideTip = () => { tip.style.display = "none"; };
