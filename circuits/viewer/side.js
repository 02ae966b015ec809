// The panel at the side: the circuit, or what was chosen, with its label, group, attention and edges.
function describe() {
  const side = document.querySelector("aside"), top = side.scrollTop;
  side.replaceChildren();
  if (state.chosen === null) overview(side); else details(side, state.chosen);
  side.scrollTop = top;
}
function overview(side) {
  side.append(html("h2", "", "Strongest edges"));
  for (const circuit of circuits) {
    if (circuits.length > 1) side.append(html("h3", "", circuit.name));
    list(side, null, circuit.edges.filter((edge, i, all) => edge.rank < 8 && (i === 0 || all[i - 1].rank !== edge.rank)), (edge) => edge.name.replace("->", " → "), (edge) => atSpan(boxFor(edge.source), edge.from), circuit.quantity);
  }
  side.append(html("h2", "", "Labels and groups"));
  const named = [...names.groups].map(([name, members]) => [GROUP + name, `${name}: ${members.join(", ")}`]).concat([...names.labels].map(([node, text]) => [node, `${node}: ${text}`]));
  if (!named.length) side.append(html("p", "", "Choose a node to give it a label, put it into a group, or pin it."));
  for (const [box, text] of named) { const line = html("p", "named"); line.append(button(text, () => choose(firstAt(box)))); side.append(line); }
  if (names.pins.size) side.append(html("p", "", `Pinned: ${[...names.pins].join(", ")}.`));
  files(side);
  side.append(html("h2", "", "How to use this page"));
  const keys = [["click, Enter", "choose a node: its edges, label, group and attention"], ["arrows", "go from node to node"], ["p", "pin the node: it stays when fewer edges are shown"], ["+ − 0", "further apart, closer together, fit"], ["drag, Ctrl+wheel", "move, zoom"], ["[ ]", "previous and next prompt"], ["Escape", "nothing chosen"]];
  const table = html("table", "keys");
  for (const [key, does] of keys) { const row = html("tr"); row.append(html("td", "", key), html("td", "", does)); table.append(row); }
  side.append(table, html("p", "", "a5.h2 is head 2 of layer 5, m5 the MLP of layer 5; layers are counted from 0." + (data.features ? " f:m3.17 is feature 17 of the dictionary at m3, e:m3 what its features miss." : "")));
}
function details(side, box) {
  const node = nodeOf(box), isGroup = box.startsWith(GROUP), name = isGroup ? node.slice(GROUP.length) : node, span = spanOf(box);
  const head = html("div", "title");
  head.append(html("h2", "", span === null ? name : `${name} at ${data.spans[span]}`), button("×", () => choose(null), { "aria-label": "nothing chosen" }));
  side.append(head);
  if (fullName(box)) side.append(html("p", "", fullName(box)));
  side.append(isGroup ? groupForm(name) : nodeForm(node));
  if (rowOf.has(node) && node[0] === "a") attention(side, node);
  if (data.features?.[node]) featureFacts(side, data.features[node]);
  for (const panel of panels) {
    if (panels.length > 1) side.append(html("h3", "circuit", panel.circuit.name));
    const count = (n, way) => `${n} edge${n === 1 ? "" : "s"} ${way}`;
    for (const [way, here, other] of [["in", "target", "source"], ["out", "source", "target"]]) {
      const edges = panel.lines.filter((line) => line[here] === box);
      list(side, count(edges.length, way), edges, (edge) => spoken(edge[other]) + (PARTS[edge.part] ? ` (${edge.part}${way === "out" ? "" : ""})` : ""), (edge) => edge[other], panel.circuit.quantity);
    }
  }
}
function field(text, value, act, more = {}) {
  const line = html("label", "field"), input = html("input", "", null, { type: "text", maxlength: 200, ...more });
  input.value = value;
  input.addEventListener("change", () => act(input.value));
  line.append(html("span", "", text), input);
  return line;
}
function nodeForm(node) {
  const form = html("div", "form"), known = html("datalist", "", null, { id: "groups" });
  for (const name of names.groups.keys()) known.append(html("option", "", null, { value: name }));
  form.append(field("label", names.labels.get(node) ?? "", (text) => label(node, text), { id: "label" }), field("group", homeOf(node) ?? "", (name) => group(node, name), { id: "group", list: "groups" }), known, pinBox(node));
  return form;
}
function groupForm(name) {
  const form = html("div", "form");
  form.append(field("name", name, (text) => regroup(name, text), { id: "group" }), pinBox(GROUP + name));
  for (const node of names.groups.get(name) ?? []) {
    const line = html("p", "named");
    line.append(html("span", "", names.labels.has(node) ? `${node} ${names.labels.get(node)}` : node), button("take out", () => { group(node, ""); }));
    form.append(line);
  }
  form.append(button("take the group apart", () => regroup(name, "")));
  return form;
}
function pinBox(box) {
  const line = html("label", "field"), input = html("input", "", null, { type: "checkbox", id: "pin" });
  input.checked = pinned(box);
  input.addEventListener("change", () => pin(box));
  line.append(html("span", "", "pinned"), input);
  return line;
}
function list(side, title, edges, text, goal, quantity) {
  if (title) side.append(html("h3", "", title));
  const table = html("table");
  for (const edge of edges) {
    const row = html("tr"), cell = html("td");
    cell.append(button(text(edge), () => choose(goal(edge))));
    row.append(cell, html("td", "number", edge.score === null ? "" : signed(edge.score, quantity)), html("td", "number", edge.stderr === null ? "" : `± ${edge.stderr.toPrecision(2)}`));
    table.append(row);
  }
  side.append(table);
}
const boxFor = (node) => { const home = state.merged && !node.startsWith(GROUP) ? homeOf(node) : null; return home === null ? node : GROUP + home; };
const firstAt = (base) => (overTokens() ? panels.flatMap((panel) => [...panel.layout.places.keys()]).find((box) => nodeOf(box) === base) ?? null : base);
