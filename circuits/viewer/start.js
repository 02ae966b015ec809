// What the controls do; and the first picture.
function choose(box) {
  const other = box !== state.chosen;
  state.chosen = box;
  if (other && overTokens()) state.query = null;
  if (box !== null && !panels.some((panel) => panel.layout.places.has(box))) { state.count = largestSize(); slider.value = state.count; redraw(); }
  for (const panel of panels) drawAxis(panel, panel.layout);
  for (const panel of panels) panel.mark();
  if (other) { document.querySelector("aside").scrollTop = 0; showPrompt(state.prompt); }
  describe();
}
const slider = el("slider");
if (data.spans) { state.mode = "tokens"; for (const circuit of circuits) Object.assign(circuit, circuit.sets.tokens); }
const most = largestSize();
circuits.forEach((circuit) => panels.push(new Panel(circuit)));
state.count = Math.min(most, data.start);
slider.max = most;
slider.value = state.count;
slider.addEventListener("input", () => { state.count = Number(slider.value); redraw(); describe(); });
el("show").hidden = !data.spans;
el("mode").value = state.mode;
el("mode").addEventListener("change", () => setMode(el("mode").value));
el("colour").addEventListener("change", () => { state.colour = el("colour").value; recolour(); });
el("pins").addEventListener("change", () => { state.pinnedOnly = el("pins").checked; redraw(); describe(); });
el("merge").addEventListener("change", () => { state.merged = el("merge").checked; state.chosen = null; redraw(); describe(); });
el("smaller").addEventListener("click", () => zoom(1 / 1.25));
el("larger").addEventListener("click", () => zoom(1.25));
el("fit").addEventListener("click", () => zoom(null));
el("about").textContent = data.about.join(" ");
addEventListener("keydown", (event) => {
  if (event.key === "Escape") { choose(null); return; }
  if (event.target.closest?.("input[type=text], select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { "+": () => zoom(1.25), "-": () => zoom(1 / 1.25), 0: () => zoom(null), "[": () => data.prompts.length && turn(state.prompt - 1), "]": () => data.prompts.length && turn(state.prompt + 1) }[event.key];
  if (act) { act(); event.preventDefault(); }
});
let waiting = null;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 60); });
showPrompt(0);
redraw();
describe();
document.body.dataset.ready = "yes";
