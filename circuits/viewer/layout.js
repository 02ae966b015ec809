// Where boxes and lines go: rows by layer, boxes near those that they are wired to, lines past the boxes.
const BOX = 20, PORT = 13, GAP = 12, LABELS = 66, MARGIN = 10;
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "12px system-ui, sans-serif";
const boxWidth = (box) => Math.max(52, Math.ceil(ruler.measureText(caption(box)).width) + 16);

// Boxes and summed lines of what is shown: groups as one box, if asked for.
function shownBoxes(circuit) {
  const shown = circuit.edges.filter((edge) => (state.pinnedOnly ? names.pins.has(edge.source) && names.pins.has(edge.target) : edge.rank < state.count));
  const boxOf = (node) => { const home = state.merged ? homeOf(node) : null; return home === null ? node : GROUP + home; };
  const homes = new Map(data.nodes.map(([node]) => [node, boxOf(node)]));
  const boxes = new Set(overTokens()
    ? circuit.edges.flatMap((edge) => [[edge.source, edge.from], [edge.target, edge.to]]).filter(([node]) => names.pins.has(node)).map(([node, span]) => atSpan(homes.get(node), span))
    : [...names.pins].filter((node) => homes.has(node)).map((node) => homes.get(node)));
  const lines = new Map();
  for (const edge of shown) {
    const source = atSpan(homes.get(edge.source), edge.from), target = atSpan(homes.get(edge.target), edge.to);
    boxes.add(source).add(target);
    if (source === target) continue;
    const grouped = nodeOf(source) !== edge.source || nodeOf(target) !== edge.target;
    const key = grouped ? `${source}\n${target}\n${edge.part}` : lines.size;
    const old = lines.get(key);
    if (!old) lines.set(key, { ...edge, source, target, members: 1, name: grouped ? `${spoken(source)} → ${spoken(target)}` : edge.name, within: new Set([edge.name]) });
    else if (!old.within.has(edge.name)) { old.within.add(edge.name); old.members += 1; old.score = (old.score ?? 0) + (edge.score ?? 0); old.stderr = null; old.shared &&= edge.shared; }
  }
  return { boxes, lines: [...lines.values()].sort((a, b) => Math.abs(b.score ?? 0) - Math.abs(a.score ?? 0)) };
}
function heightOf(box) { // groups: the middle of their nodes
  const rows = membersOf(box).filter((node) => rowOf.has(node)).map((node) => rowOf.get(node)).sort((a, b) => a - b);
  return rows[Math.floor((rows.length - 1) / 2)];
}
function rowLabel(row) {
  if (data.rows) return data.rows[row] ?? "";
  const last = Math.max(...rowOf.values());
  if (row === 0) return rowOf.get("input") === 0 ? "input" : "";
  return row === last && rowOf.has("logits") ? "logits" : row % 2 ? `heads ${(row - 1) / 2}` : `MLP ${row / 2 - 1}`;
}

// Places of all boxes for a panel of this size; the same for all panels, so that they can be compared.
function placed(boxes, lines, width, height) {
  const room = (width - LABELS - 2 * MARGIN) * Math.max(1, state.zoom), gap = GAP * state.zoom;
  const byRow = new Map();
  for (const box of boxes) { const row = heightOf(box); byRow.set(row, [...(byRow.get(row) ?? []), box]); }
  const widths = new Map([...boxes].map((box) => [box, boxWidth(box)]));
  const neighbours = new Map([...boxes].map((box) => [box, []]));
  for (const { source, target } of lines) { neighbours.get(source).push(target); neighbours.get(target).push(source); }
  const rows = [...byRow.keys()].sort((a, b) => a - b).flatMap((row) => split(byRow.get(row), widths, gap, room).map((list, i) => ({ row, list, first: i === 0 })));
  const x = sweep(rows, neighbours, widths, gap, room);
  const ported = new Set(lines.filter((line) => PARTS[line.part]).map((line) => line.target));
  const needed = rows.reduce((sum, { list }) => sum + BOX + (list.some((box) => ported.has(box)) ? PORT : 0), 0);
  const between = Math.min(64, Math.max(20, (height - needed - 2 * MARGIN) / Math.max(1, rows.length - 1))) * state.zoom;
  let y = MARGIN;
  const places = new Map(), bands = [];
  for (const { row, list, first } of [...rows].reverse()) {
    const depth = BOX + (list.some((box) => ported.has(box)) ? PORT : 0);
    for (const box of list) places.set(box, { x: LABELS + MARGIN + room / 2 + x.get(box), y: y + BOX / 2, width: widths.get(box), band: bands.length });
    bands.push({ row, first, y: y + BOX / 2, top: y, bottom: y + depth, boxes: list.map((box) => ({ left: places.get(box).x - widths.get(box) / 2, right: places.get(box).x + widths.get(box) / 2 })).sort((a, b) => a.left - b.left), lanes: new Map() });
    y += depth + between;
  }
  return { places, bands, ported, width: LABELS + 2 * MARGIN + room, height: Math.max(y - between + MARGIN, 40) };
}
function split(list, widths, gap, room) { // heads of one layer are not wired to each other: what is too wide for one row takes several
  const total = list.reduce((sum, box) => sum + widths.get(box) + gap, -gap), n = Math.max(1, Math.ceil(total / room));
  return Array.from({ length: n }, (_, i) => list.filter((_, j) => j % n === i));
}
function sweep(rows, neighbours, widths, gap, room) {
  const x = new Map();
  for (const { list } of rows) spread(list, new Map(list.map((box) => [box, 0])), x, widths, gap, room);
  const mean = (box) => { const near = neighbours.get(box); return near.length ? near.reduce((sum, other) => sum + x.get(other), 0) / near.length : x.get(box); };
  for (let i = 0; i < 8; i++) {
    for (const { list } of i % 2 ? [...rows].reverse() : rows) {
      const wish = new Map(list.map((box) => [box, mean(box)]));
      list.sort((a, b) => wish.get(a) - wish.get(b) || (a < b ? -1 : 1));
      spread(list, wish, x, widths, gap, room);
    }
  }
  rows.forEach(({ list }, i) => { // rows of one box step aside in turn, so that chains of them do not hide one another
    if (list.length === 1 && i > 0 && i < rows.length - 1) x.set(list[0], bounded(x.get(list[0]) + [0.2, -0.2, 0.08, -0.08][i % 4] * room, widths.get(list[0]), room));
  });
  const boxes = [...x.keys()], left = Math.min(...boxes.map((box) => x.get(box) - widths.get(box) / 2)), right = Math.max(...boxes.map((box) => x.get(box) + widths.get(box) / 2));
  const wider = Math.max(1, Math.min(1.8, room / (right - left + 1))); // the whole in the middle, and as wide as there is room
  for (const box of boxes) x.set(box, bounded((x.get(box) - (left + right) / 2) * wider, widths.get(box), room));
  return x;
}
const bounded = (x, width, room) => Math.max((width - room) / 2, Math.min((room - width) / 2, x));
function spread(list, wish, x, widths, gap, room) {
  const total = list.reduce((sum, box) => sum + widths.get(box), 0);
  const apart = Math.min(90 * state.zoom, Math.max(gap, (0.8 * room - total) / (list.length + 1)));
  list.forEach((box, i) => x.set(box, i ? Math.max(wish.get(box), x.get(list[i - 1]) + (widths.get(list[i - 1]) + widths.get(box)) / 2 + apart) : wish.get(box)));
  const shift = list.reduce((sum, box) => sum + wish.get(box) - x.get(box), 0) / Math.max(1, list.length);
  let most = room / 2;
  for (let i = list.length - 1; i >= 0; i--) { // within the panel, from the right and then from the left
    const box = list[i], half = widths.get(box) / 2;
    x.set(box, Math.min(x.get(box) + shift, most - half));
    most = x.get(box) - half - gap;
  }
  let least = -room / 2;
  for (const box of list) {
    const half = widths.get(box) / 2;
    x.set(box, Math.max(x.get(box), least + half));
    least = x.get(box) + half + gap;
  }
}

// A line upward from one box to another's port, around the boxes between.
function curve(line, layout) {
  const from = layout.places.get(line.source), to = layout.places.get(line.target);
  const port = { q: -0.32, k: 0, v: 0.32 }[line.part] ?? 0;
  const start = { x: from.x, y: from.y - BOX / 2, band: from.band }, end = { x: to.x + port * Math.min(to.width, 60), y: to.y + BOX / 2 + (layout.ported.has(line.target) && PARTS[line.part] ? PORT : 0) + 1, band: to.band };
  if (end.band >= start.band) return beside(start, end, layout);
  const points = detours(start, end, layout.bands, 0);
  let path = `M${start.x.toFixed(1)} ${start.y.toFixed(1)}`;
  for (let i = 1; i < points.length; i++) {
    const a = points[i - 1], b = points[i], middle = (a.y + b.y) / 2;
    path += `C${a.x.toFixed(1)} ${middle.toFixed(1)} ${b.x.toFixed(1)} ${middle.toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`;
    if (b.through !== undefined) { path += `V${b.through.toFixed(1)}`; points[i] = { ...b, y: b.through }; }
  }
  return path;
}
function beside(start, end, layout) { // merged groups may be wired downward
  const side = Math.min(layout.width - 6, Math.max(start.x, end.x) + 60);
  return `M${start.x} ${start.y}C${start.x} ${start.y - 30} ${side} ${start.y - 30} ${side} ${(start.y + end.y) / 2}S${end.x} ${end.y + 30} ${end.x} ${end.y}`;
}
function detours(a, b, bands, depth) {
  const from = a.through ?? a.y;
  let worst = null;
  for (let i = a.band - 1; i > b.band && depth < 12; i--) {
    const t = (from - bands[i].y) / (from - b.y), x = a.x + (b.x - a.x) * t * t * (3 - 2 * t);
    const hit = bands[i].boxes.findIndex((box) => x > box.left - 5 && x < box.right + 5);
    if (hit < 0) continue;
    const depth = Math.min(x - bands[i].boxes[hit].left, bands[i].boxes[hit].right - x);
    if (worst === null || depth > worst.depth) worst = { i, x, hit, depth };
  }
  if (worst === null) return [a, b];
  const band = bands[worst.i], at = gapNear(band, worst.x, worst.hit);
  const point = { x: at, y: band.bottom + 2, through: band.top - 2, band: worst.i };
  return [...detours(a, point, bands, depth + 1).slice(0, -1), ...detours(point, b, bands, depth + 1)];
}
function gapNear(band, x, hit) { // the nearest place beside boxes; several lines through one gap lie side by side
  const { boxes, lanes } = band;
  let best = null;
  for (let i = 0; i <= boxes.length; i++) {
    const left = i ? boxes[i - 1].right : -Infinity, right = i < boxes.length ? boxes[i].left : Infinity;
    if (right - left < 9) continue;
    const inset = Math.min(7, (right - left) / 2), near = Math.max(left + inset, Math.min(right - inset, x));
    if (best === null || Math.abs(near - x) < Math.abs(best.x - x)) best = { x: near, i, left: left + 4, right: right - 4, to: near < x ? -1 : 1 };
  }
  if (best === null) return x;
  const used = lanes.get(best.i) ?? 0;
  lanes.set(best.i, used + 1);
  const room = Math.max(1, Math.min(40, best.right - best.left));
  return Math.max(best.left, Math.min(best.right, best.x + best.to * ((used * 4) % room)));
}
