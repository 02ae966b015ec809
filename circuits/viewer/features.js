// What a feature is about: the tokens that it promotes, and the prompts on which it is most active, darker where it is more so.
function featureFacts(side, facts) {
  for (const [title, words] of [["Promotes (decoder and unembedding)", facts.promotes], ["Suppresses", facts.suppresses]]) {
    side.append(html("h3", "", title));
    const line = html("p", "words");
    for (const word of words) line.append(html("span", "token", visible(word)));
    side.append(line);
  }
  const n = facts.active;
  side.append(html("h3", "", n ? `Active on ${n} clean prompt${n === 1 ? "" : "s"}${n > facts.examples.length ? ", most on" : ""}` : "Active on no clean prompt"));
  const most = Math.max(...facts.examples.flatMap((one) => one.activations), 1e-12);
  for (const { pair, tokens, activations } of facts.examples) {
    const line = html("p", "example");
    line.append(html("span", "value", `pair ${pair}, up to ${digits(Math.max(...activations))}`));
    tokens.forEach((token, i) => {
      const chip = html("span", "token", visible(token), { title: `${activations[i]}` });
      const strength = Math.max(0, activations[i]) / most;
      chip.style.background = shade(strength);
      if (strength > 0.6) chip.style.color = "#fff";
      line.append(chip);
    });
    side.append(line);
  }
}
