// The prompts, one at a time, and the attention of heads on them.
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const SHADES = 12;
const patternOf = (head) => data.prompts[state.prompt]?.patterns[head] ?? null;
const weight = (packed, i, j) => { const at = i * (i + 1) + 2 * j; return (64 * DIGITS.indexOf(packed[at]) + DIGITS.indexOf(packed[at + 1])) / 4095; };
const shade = (w) => `rgb(${Math.round(255 - 255 * w)},${Math.round(255 - 141 * w)},${Math.round(255 - 77 * w)})`; // white to #0072B2
const visible = (token) => token.replace(/\n/g, "⏎").replace(/\t/g, "⇥");

function showPrompt(number) {
  state.prompt = number;
  const prompt = data.prompts[number], place = el("prompts");
  place.replaceChildren();
  if (!prompt) { place.hidden = true; return; }
  if (state.query !== null && state.query >= prompt.clean.length) state.query = null;
  const picker = html("div", "picker"), list = html("select", "", null, { "aria-label": "prompt" });
  data.prompts.forEach((other, i) => list.append(html("option", "", `pair ${other.number}`, { value: i })));
  list.value = number;
  list.addEventListener("change", () => turn(Number(list.value)));
  picker.append(button("‹", () => turn(number - 1), { "aria-label": "previous prompt" }), list, button("›", () => turn(number + 1), { "aria-label": "next prompt" }));
  const table = html("div", "tokens");
  const rows = [["clean", prompt.clean, prompt.answers, "answer"], ["corrupted", prompt.corrupted, prompt.distractors, "distractor"]];
  for (const [name, tokens, ends, end] of rows) {
    if (!tokens.length && !ends.length) continue;
    const line = html("p", "prompt");
    line.append(html("b", "", name));
    tokens.forEach((token, i) => line.append(chip(prompt, name, token, i)));
    if (ends.length) line.append(html("span", "end", `→ ${end}${ends.length > 1 ? "s" : ""}`), ...ends.map((token) => html("span", `token ${end}`, visible(token))));
    table.append(line);
  }
  place.append(picker, table);
}
function turn(number) {
  showPrompt((number + data.prompts.length) % data.prompts.length);
  if (overTokens()) redraw();
  describe();
}
function chip(prompt, name, token, i) {
  const differs = prompt.differs ? prompt.differs[name].includes(i) : prompt.corrupted.length && prompt.clean[i] !== prompt.corrupted[i];
  const roles = Object.entries(prompt.roles).filter(([, at]) => (Array.isArray(at) ? at[0] <= i && i < at[1] : at === i)).map(([role]) => role);
  const packed = name === "clean" && state.chosen !== null ? patternOf(nodeOf(state.chosen)) : null;
  const query = queryOf(prompt);
  const element = packed === null ? html("span", "token", visible(token)) : button(visible(token), () => { state.query = i; showPrompt(state.prompt); describe(); }, { "aria-pressed": i === query });
  element.className = "token" + (differs ? " differs" : "") + (packed !== null && i === query ? " query" : "");
  if (packed !== null && i <= query) element.style.background = shade(0.6 * weight(packed, query, i));
  const attended = packed !== null && i <= query ? `\n${prompt.clean[query]} attends to it with ${weight(packed, query, i).toFixed(2)}` : "";
  element.addEventListener("pointermove", (event) => showTip(event, `token ${i}${roles.length ? `: ${roles.join(", ")}` : ""}${differs ? "\ndiffers between clean and corrupted" : ""}${attended}`));
  element.addEventListener("pointerleave", hideTip);
  return element;
}

function attention(side, head) {
  const prompt = data.prompts[state.prompt], packed = patternOf(head);
  if (!prompt) return;
  side.append(html("h3", "", `attention on the clean prompt of pair ${prompt.number}`));
  if (packed === null) {
    const some = data.prompts.some((other) => Object.keys(other.patterns).length);
    side.append(html("p", "", some ? "Left out to keep the page small; circuits view RUN --pair N writes a page that begins with another pair." : "This page has no attention patterns; circuits view RUN adds them."));
    return;
  }
  const tokens = prompt.clean.map(visible), query = queryOf(prompt);
  const strongest = tokens.slice(0, query + 1).map((token, j) => [weight(packed, query, j), token]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  side.append(html("p", "", `“${tokens[query].trim()}” (token ${query}) attends to ${strongest.map(([w, token]) => `“${token.trim()}” ${w.toFixed(2)}`).join(", ")}.`));
  const frame = html("div", "heat", null, { tabindex: 0, role: "img", "aria-label": `attention of ${head}: queries down, keys across` });
  side.append(frame, colourBar());
  frame.append(heatMap(tokens, packed, query, frame.clientWidth));
}
function heatMap(tokens, packed, query, width) {
  const n = tokens.length, longest = Math.min(width < 300 ? 68 : 110, Math.max(...tokens.map((token) => ruler.measureText(token).width)) + 8), left = longest + 14, top = longest + 16;
  const cell = n <= 80 ? Math.max(11, Math.min(18, Math.floor((width - left - 3) / n))) : Math.max(4, Math.floor(900 / n)), every = Math.ceil(11 / cell);
  const svg = make("svg", { width: left + n * cell + 2, height: top + n * cell + 2 });
  const clipped = (token) => { while (ruler.measureText(token).width > longest - 4) token = token.slice(0, -2) + "…"; return token; };
  svg.append(make("text", { x: left + n * cell / 2, y: 11, class: "axis", "text-anchor": "middle" }, "key"), make("text", { x: 11, y: top + n * cell / 2, class: "axis", "text-anchor": "middle", transform: `rotate(-90 11 ${top + n * cell / 2})` }, "query"));
  svg.append(make("rect", { x: left, y: top, width: n * cell, height: n * cell, class: "frame" }));
  for (let i = 0; i < n; i++) {
    if (i % every === 0 || i === n - 1) {
      svg.append(make("text", { x: left - 4, y: top + (i + 0.5) * cell, class: "tick" + (i === query ? " here" : ""), "text-anchor": "end" }, clipped(tokens[i])));
      const x = left + (i + 0.5) * cell;
      svg.append(make("text", { x, y: top - 4, class: "tick", transform: `rotate(-90 ${x} ${top - 4})` }, clipped(tokens[i])));
    }
    for (let j = 0; j <= i; j++) {
      const w = weight(packed, i, j);
      if (w >= 0.01) svg.append(make("rect", { x: left + j * cell, y: top + i * cell, width: cell, height: cell, fill: shade(w) }));
    }
  }
  svg.append(make("rect", { x: left, y: top + query * cell, width: n * cell, height: cell, class: "query-row" }));
  const at = (event) => { const area = svg.getBoundingClientRect(); return [Math.floor((event.clientY - area.top - top) / cell), Math.floor((event.clientX - area.left - left) / cell)]; };
  svg.addEventListener("pointermove", (event) => {
    const [i, j] = at(event);
    if (i >= 0 && i < n && j >= 0 && j < n) showTip(event, `“${tokens[i]}” → “${tokens[j]}”\n${(j <= i ? weight(packed, i, j) : 0).toFixed(2)}`); else hideTip();
  });
  svg.addEventListener("pointerleave", hideTip);
  svg.addEventListener("click", (event) => { const [i] = at(event); if (i >= 0 && i < n) { state.query = i; showPrompt(state.prompt); describe(); } });
  return svg;
}
function colourBar() {
  const svg = make("svg", { class: "bar", width: 230, height: 34, "aria-label": "colours: attention weight from 0 to 1", role: "img" });
  for (let i = 0; i < SHADES; i++) svg.append(make("rect", { x: 8 + i * 200 / SHADES, y: 2, width: 200 / SHADES + 0.5, height: 12, fill: shade(i / (SHADES - 1)) }));
  svg.append(make("rect", { x: 8, y: 2, width: 200, height: 12, class: "frame" }));
  for (const [x, text, anchor] of [[8, "0", "start"], [108, "attention weight", "middle"], [208, "1", "end"]]) svg.append(make("text", { x, y: 24, class: "tick", "text-anchor": anchor }, text));
  return svg;
}
