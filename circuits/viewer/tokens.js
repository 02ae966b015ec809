// Over tokens: a column for each span of tokens, layers upward, a box for each node at each span. A box is `a5.h2\n3`: a5.h2 at span 3.
const AT = "\n"; // no name of a node or group contains it
const nodeOf = (box) => box.split(AT)[0];
const spanOf = (box) => (box !== null && box.includes(AT) ? Number(box.split(AT)[1]) : null);
const overTokens = () => state.mode === "tokens";
const atSpan = (base, span) => (span === null || span === undefined ? base : base + AT + span);
const spoken = (box) => caption(box) + (spanOf(box) === null ? "" : ` at ${data.spans[spanOf(box)]}`);
const IN_A_ROW = 4, INSET = 7, AXIS = 40, WORDS = 48;

function rangeOf(prompt, span) { // the tokens of a span in a prompt: [first, behind the last], or null
  const name = data.spans[span], whole = prompt?.spans[name];
  if (whole) return whole;
  return prompt && /^\d+$/.test(name) && Number(name) < prompt.clean.length ? [Number(name), Number(name) + 1] : null;
}
function queryOf(prompt) { // the token whose attention is shown: the one clicked, the last of the chosen box's span, or the last
  const range = spanOf(state.chosen) === null ? null : rangeOf(prompt, spanOf(state.chosen));
  return state.query ?? (range ? range[1] - 1 : prompt.clean.length - 1);
}
function wordsOf(span, prompt = data.prompts[state.prompt]) {
  const range = rangeOf(prompt, span);
  return range ? visible(prompt.clean.slice(...range).join("")).trim() : "";
}
function wordsWidth(span) { // the room that the words of a span want, in any prompt
  ruler.font = "11px system-ui, sans-serif";
  const widest = Math.max(0, ...data.prompts.map((prompt) => ruler.measureText(wordsOf(span, prompt)).width));
  ruler.font = "12px system-ui, sans-serif";
  return Math.min(WORDS, widest) + 5;
}
function clipped(text, width, font) {
  ruler.font = font;
  if (ruler.measureText(text).width > width) { while (text && ruler.measureText(text + "…").width > width) text = text.slice(0, -1); text += "…"; }
  ruler.font = "12px system-ui, sans-serif";
  return text;
}

// Places of all boxes, as `placed` gives them, and the columns. Cells with many boxes take several lines, more if there is little room.
function placedOver(boxes, lines, width, height) {
  const room = (width - LABELS - 2 * MARGIN) * Math.max(1, state.zoom), gap = 9 * state.zoom;
  const widths = new Map([...boxes].map((box) => [box, boxWidth(box)]));
  const ported = new Set(lines.filter((line) => PARTS[line.part]).map((line) => line.target));
  let rows, needed;
  for (let most = IN_A_ROW; most >= 0; most--) { // at last, labels are cut to an equal share of the room
    const cap = Math.max(46, room / data.spans.length - 2 * INSET - 0.5), aside = most > 1 ? 14 : 0;
    rows = linesOf(boxes, Math.max(1, most));
    if (!most) for (const [box, one] of widths) widths.set(box, Math.min(one, cap));
    needed = data.spans.map((name) => Math.min(most ? 90 : cap, ruler.measureText(name).width) + 2 * INSET);
    for (const { list } of rows) for (const [span, cell] of cellsOf(list)) needed[span] = Math.max(needed[span], cell.reduce((sum, box) => sum + widths.get(box) + gap, -gap) + 2 * INSET + aside);
    if (needed.reduce((sum, one) => sum + one, 0) <= room) break;
  }
  const columns = columnsOf(needed, rows, room), x = sweepCells(rows, lines, widths, columns, gap);
  const band = (list) => BOX + (list.some((box) => ported.has(box)) ? PORT : 0);
  const total = rows.reduce((sum, { list }) => sum + band(list), 0);
  const between = Math.min(64, Math.max(15, (height - total - 2 * MARGIN) / Math.max(1, rows.length - 1))) * state.zoom;
  const places = new Map(), bands = [];
  let y = MARGIN;
  for (const { row, list, first } of [...rows].reverse()) {
    for (const box of list) places.set(box, { x: x.get(box), y: y + BOX / 2, width: widths.get(box), band: bands.length });
    bands.push({ row, first, y: y + BOX / 2, top: y, bottom: y + band(list), boxes: list.map((box) => ({ left: x.get(box) - widths.get(box) / 2, right: x.get(box) + widths.get(box) / 2 })).sort((a, b) => a.left - b.left), lanes: new Map() });
    y += band(list) + between;
  }
  return { places, bands, ported, columns, width: columns.at(-1).right + MARGIN, height: Math.max(y - between + MARGIN, 40) };
}
function linesOf(boxes, most) { // from below; the heads of one layer are not wired to each other, so a cell may take several lines
  const byRow = new Map();
  for (const box of boxes) { const row = heightOf(box); byRow.set(row, [...(byRow.get(row) ?? []), box]); }
  return [...byRow.keys()].sort((a, b) => a - b).flatMap((row) => {
    const cells = [...cellsOf(byRow.get(row)).values()], n = Math.max(...cells.map((cell) => Math.ceil(cell.length / most)));
    return Array.from({ length: n }, (_, i) => ({ row, first: i === 0, list: cells.flatMap((cell) => cell.filter((_, j) => j % n === i)) }));
  });
}
function cellsOf(list) {
  const cells = new Map();
  for (const box of list) cells.set(spanOf(box), [...(cells.get(spanOf(box)) ?? []), box]);
  return cells;
}
function columnsOf(least, rows, room) { // what is left goes to the words below, then to the columns that have boxes
  const sum = (all) => all.reduce((total, one) => total + one, 0), wanted = least.map((one, span) => Math.max(0, wordsWidth(span) - one));
  const share = Math.min(1, Math.max(0, room - sum(least)) / (sum(wanted) || 1)), needed = least.map((one, span) => one + share * wanted[span]);
  const used = new Set(rows.flatMap(({ list }) => list.map(spanOf))), left = Math.max(0, room - sum(needed));
  const weight = needed.reduce((sum, one, i) => sum + (used.has(i) ? one : 0.6 * one), 0) || 1;
  let at = LABELS + MARGIN;
  return needed.map((one, i) => { const right = at + one + left * (used.has(i) ? one : 0.6 * one) / weight, column = { span: i, left: at, right }; at = right; return column; });
}
function sweepCells(rows, lines, widths, columns, gap) { // near those that they are wired to, as far as their columns allow
  const x = new Map(rows.flatMap(({ list }) => list.map((box) => [box, (columns[spanOf(box)].left + columns[spanOf(box)].right) / 2])));
  const near = new Map([...x.keys()].map((box) => [box, []]));
  for (const { source, target } of lines) { near.get(source).push(target); near.get(target).push(source); }
  for (let i = 0; i < 7; i++) {
    for (const { list } of i % 2 ? [...rows].reverse() : rows) {
      for (const cell of cellsOf(list).values()) {
        const wish = new Map(cell.map((box) => [box, near.get(box).reduce((sum, other) => sum + x.get(other), 0) / near.get(box).length || x.get(box)]));
        cell.sort((a, b) => wish.get(a) - wish.get(b) || (a < b ? -1 : 1));
        inCell(cell, wish, x, widths, columns[spanOf(cell[0])], gap);
      }
    }
  }
  for (const { span, left, right } of columns) { // the boxes of a column in its middle
    const boxes = [...x.keys()].filter((box) => spanOf(box) === span);
    const shift = (left + right - Math.min(...boxes.map((box) => x.get(box) - widths.get(box) / 2)) - Math.max(...boxes.map((box) => x.get(box) + widths.get(box) / 2))) / 2;
    for (const box of boxes) x.set(box, x.get(box) + shift);
  }
  const turns = new Map(); // single boxes of a column step aside in turn, so that a chain of them does not hide its lines
  for (const { list } of rows) for (const [span, cell] of cellsOf(list)) {
    if (cell.length > 1 || ["input", "logits"].includes(nodeOf(cell[0]))) continue;
    const turn = turns.get(span) ?? 0, column = columns[span], room = Math.min(120, column.right - column.left - widths.get(cell[0]) - 2 * INSET);
    turns.set(span, turn + 1);
    inCell(cell, new Map([[cell[0], x.get(cell[0]) + [0.45, -0.45, 0.2, -0.2][turn % 4] * room]]), x, widths, column, gap);
  }
  return x;
}
function inCell(cell, wish, x, widths, column, gap) {
  const free = (column.right - column.left - 2 * INSET - cell.reduce((sum, box) => sum + widths.get(box), 0)) / (cell.length + 1);
  const apart = Math.max(gap, Math.min(70, free));
  let low = column.left + INSET, high = column.right - INSET;
  for (const box of cell) { x.set(box, Math.max(wish.get(box), low + widths.get(box) / 2)); low = x.get(box) + widths.get(box) / 2 + apart; }
  for (const box of [...cell].reverse()) { x.set(box, Math.min(x.get(box), high - widths.get(box) / 2)); high = x.get(box) - widths.get(box) / 2 - apart; }
}

// The names of the spans and the words of the prompt below a panel; it does not scroll away.
function drawAxis(panel, layout) {
  panel.axis.hidden = !layout.columns;
  if (!layout.columns) return;
  const svg = make("svg", { width: layout.width, height: AXIS, role: "group", "aria-label": "spans of tokens" });
  svg.append(make("line", { x1: 0, x2: layout.width, y1: 0.5, y2: 0.5, class: "edge-of-column" }));
  for (const { span, left, right } of layout.columns) {
    const middle = (left + right) / 2, words = wordsOf(span), group = make("g");
    const here = spanOf(state.chosen) === span, widest = right - left - 4;
    group.append(make("rect", { x: left, y: 0, width: right - left, height: AXIS, class: here ? "here" : span % 2 ? "" : "odd" }));
    group.append(make("text", { x: middle, y: 12, class: "span-name" }, clipped(data.spans[span], widest, "600 12px system-ui, sans-serif")));
    if (words) group.append(make("text", { x: middle, y: 28, class: "span-words" }, clipped(words, widest, "11px system-ui, sans-serif")));
    group.addEventListener("pointermove", (event) => showTip(event, `${data.spans[span]}${words ? `: ${words}` : ""}`));
    group.addEventListener("pointerleave", hideTip);
    svg.append(group);
  }
  panel.axis.replaceChildren(svg);
}
const columnLines = (layout) => (layout.columns ?? []).map(({ span, left, right }) => make("rect", { x: left, y: 0, width: right - left, height: Math.max(layout.height, 5000), class: span % 2 ? "column" : "column odd" }));

function setMode(mode) { // the two pictures keep the node that was chosen, at the first span where it is
  const chosen = state.chosen === null ? null : nodeOf(state.chosen);
  state.mode = mode;
  state.chosen = null;
  state.query = null;
  for (const circuit of circuits) Object.assign(circuit, circuit.sets[mode]);
  slider.max = largestSize();
  state.count = Math.min(largestSize(), data.start);
  slider.value = state.count;
  redraw();
  if (chosen !== null) choose(panels.flatMap((panel) => [...panel.layout.places.keys()]).find((box) => nodeOf(box) === chosen) ?? null);
  showPrompt(state.prompt);
  describe();
}
