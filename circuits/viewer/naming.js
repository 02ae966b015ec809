// Labels, groups and pins: edited here, saved as a file that `circuits export --labels` and `circuits view --labels` read, and loaded again.
function renamed() {
  state.changed = true;
  redraw();
  describe();
}
function label(node, text) {
  text = text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, " ").replace(/\s+/g, " ").trim().slice(0, 200);
  if (text) names.labels.set(node, text); else names.labels.delete(node);
  renamed();
}
function group(node, name) {
  name = name.replace(/\s+/g, " ").trim().slice(0, 200);
  for (const [other, members] of [...names.groups]) {
    const left = members.filter((member) => member !== node);
    if (left.length) names.groups.set(other, left); else names.groups.delete(other);
  }
  if (name) names.groups.set(name, [...(names.groups.get(name) ?? []), node]);
  state.chosen = atSpan(name && state.merged ? GROUP + name : node, spanOf(state.chosen));
  renamed();
}
function regroup(old, name) { // another name, or none: the group is taken apart
  const members = names.groups.get(old) ?? [];
  names.groups.delete(old);
  name = name.replace(/\s+/g, " ").trim().slice(0, 200);
  if (name) names.groups.set(name, [...(names.groups.get(name) ?? []), ...members]);
  state.chosen = name ? atSpan(GROUP + name, spanOf(state.chosen)) : null;
  renamed();
}
function pin(box) {
  const on = !pinned(box);
  for (const node of membersOf(box)) if (on) names.pins.add(node); else names.pins.delete(node);
  renamed();
}
function saved() {
  return JSON.stringify({ labels: Object.fromEntries(names.labels), groups: Object.fromEntries(names.groups), pinned: [...names.pins] }, null, 1) + "\n";
}
function save() {
  const link = html("a", "", null, { download: "labels.json" });
  link.href = URL.createObjectURL(new Blob([saved()], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  state.changed = false;
}
function load(text) { // what does not fit is named and nothing is changed
  try {
    const file = JSON.parse(text), { labels = {}, groups = {}, pinned: pins = [] } = file;
    const isText = (value) => typeof value === "string", known = (node) => rowOf.has(node);
    if (!Object.keys(file).length || Object.keys(file).some((key) => !["labels", "groups", "pinned"].includes(key))) throw Error("it must hold labels, groups or pinned");
    if (!Object.values(labels).every(isText) || !Object.values(groups).every((nodes) => Array.isArray(nodes) && nodes.every(isText)) || !Array.isArray(pins) || !pins.every(isText)) throw Error("labels must be text, groups and pinned lists of nodes");
    const grouped = Object.values(groups).flat();
    if (new Set(grouped).size < grouped.length) throw Error("a node is in two groups");
    names.labels = new Map(Object.entries(labels));
    names.groups = new Map(Object.entries(groups));
    names.pins = new Set(pins);
    const strange = [...Object.keys(labels), ...grouped, ...pins].filter((node) => !known(node));
    renamed();
    state.changed = false;
    return strange.length ? `Loaded. Not in this circuit: ${[...new Set(strange)].join(", ")}.` : "Loaded.";
  } catch (problem) {
    return `This is not a file of labels: ${problem.message}.`;
  }
}
function files(side) {
  const line = html("p", "buttons"), answer = html("span", "answer", "", { role: "status" });
  const input = html("input", "", null, { type: "file", accept: ".json", id: "file", hidden: "" });
  input.addEventListener("change", async () => { if (input.files[0]) { document.querySelector(".answer").textContent = load(await input.files[0].text()); } });
  line.append(button("Save labels…", save), button("Load labels…", () => input.click()), input);
  side.append(line, answer);
}
addEventListener("beforeunload", (event) => { if (state.changed) event.preventDefault(); });
