"""Path patching, step by step, into the circuit for indirect object identification of SmolLM2-135M.

python docs/path_patching_ioi.py

Follows section 3 of Wang et al. 2022 (2211.00593) backwards from the logits: the heads that write the answer, the heads that
determine where these attend, and the heads that inform those. The output is in docs/path_patching_ioi.md.
"""

from collections.abc import Sequence

import torch

import circuits
import tasks
from circuits import Metric, Model, NodeScores, PromptPairs

N = 4
"""Number of pairs; all have one length, so a sweep is one batch."""
SHOWN = 5


def pairs_of_one_length(model: Model, n: int) -> PromptPairs:
    """Pairs with the corruption of the paper: all three names are replaced."""
    drawn = tasks.load("ioi", counterfactual="abc").pairs(model, n=8 * n, seed=0)
    lengths = [len(prompt) for prompt in drawn.clean]
    commonest = max(sorted(set(lengths)), key=lengths.count)
    kept = [drawn.pair(i) for i, length in enumerate(lengths) if length == commonest][:n]
    return PromptPairs.from_pairs(kept, source=drawn.source, seed=drawn.seed, metric=drawn.metric)


def heads_before(model: Model, layer: int) -> list[str]:
    return [w.name for w in model.graph.writer_nodes if w.kind == "head" and w.layer < layer]


def readers_of(model: Model, heads: Sequence[str], part: str) -> list[str]:
    """The queries, keys or values of heads; keys and values belong to groups of heads."""
    graph = model.graph
    chosen = [r.name for r in graph.reader_nodes if r.part == part and set(graph.nodes_fed_by(r)) & set(heads)]
    return list(dict.fromkeys(chosen))


def layer_of(head: str) -> int:
    return int(head[1:].split(".")[0])


def all_into(model: Model, pairs: PromptPairs, heads: Sequence[str]) -> None:
    """How much of the behaviour enters these heads through their queries, keys and values."""
    for part in "qkv":
        receivers = readers_of(model, heads, part)
        total = circuits.path_patching(model, pairs, receivers, senders="heads+mlps+input", together=True)
        print(f"| everything into {', '.join(f'`{r}`' for r in receivers)} | {spread(total, 0)} |")


def spread(scores: NodeScores, i: int) -> str:
    return f"{float(scores.values[i]):+.2f} ± {float(scores.stderr[i]):.2f}"


def positive(scores: NodeScores, n: int) -> list[str]:
    """The n heads with the largest positive effect."""
    order = torch.argsort(scores.values, descending=True)[:n].tolist()
    return [scores.nodes[i] for i in order]


def attention(model: Model, pairs: PromptPairs, head: str, place: str) -> str:
    """The roles that a head attends to from a role on the clean prompts, with the mean weight."""
    layer, index = layer_of(head), int(head.split(".h")[1])
    name = f"blocks.{layer}.attn.hook_pattern"
    tokens = torch.tensor(pairs.clean, device=model.device)
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(tokens, names_filter=[name])
    rows = [cache[name][i, index, roles[place]] for i, roles in enumerate(pairs.roles)]
    weights = {
        role: sum(float(row[roles[role]]) for row, roles in zip(rows, pairs.roles, strict=True)) / len(rows)
        for role in pairs.roles[0]
    }
    weights["first token"] = sum(float(row[0]) for row in rows) / len(rows)
    best = sorted(weights, key=lambda role: -weights[role])[:2]
    return ", ".join(f"{role} {weights[role]:.2f}" for role in best)


def table(model: Model, pairs: PromptPairs, scores: NodeScores, place: str, n: int = SHOWN) -> None:
    """The strongest senders, and what they attend to from a role."""
    print(f"\n| head | effect | from {place} it looks at |\n|---|---|---|")
    for node, _, _ in scores.strongest(n):
        i = scores.nodes.index(node)
        print(f"| `{node}` | {spread(scores, i)} | {attention(model, pairs, node, place)} |")


def on_single_logits(model: Model, pairs: PromptPairs, heads: Sequence[str]) -> None:
    """The direct effect split into the logit of IO and the logit of S."""
    io = Metric("logit of IO", lambda logits, targets: logits.gather(1, targets.answers)[:, 0], unit="logits")
    s = Metric("logit of S", lambda logits, targets: logits.gather(1, targets.distractors)[:, 0], unit="logits")
    ours = [circuits.path_patching(model, pairs, ["logits"], senders=heads, mlps="live", metric=m) for m in (io, s)]
    print("\n| head | on the logit of IO | on the logit of S |\n|---|---|---|")
    for head in heads:
        i = ours[0].nodes.index(head)
        print(f"| `{head}` | {spread(ours[0], i)} | {spread(ours[1], i)} |")


def story(model: Model, pairs: PromptPairs) -> None:
    """From the logits back to the second subject, three steps of path patching."""
    direct = circuits.path_patching(model, pairs, ["logits"], senders="heads", mlps="live")
    assert direct.clean is not None
    assert direct.corrupted is not None
    print(
        f"{len(pairs)} pairs; logit difference {direct.clean.mean():.2f} clean, {direct.corrupted.mean():.2f} corrupted"
    )
    print("\n## 1. Which heads write the answer?")
    table(model, pairs, direct, "end")
    on_single_logits(model, pairs, [node for node, _, _ in direct.strongest(SHOWN)])

    last = max(layer_of(head) for head in positive(direct, 1))
    writers = [head for head in positive(direct, 3) if layer_of(head) == last]
    print(f"\n## 2. Which heads determine where {' and '.join(writers)} attend?\n\n| paths | effect |\n|---|---|")
    all_into(model, pairs, writers)
    queries = readers_of(model, writers, "q")
    senders = circuits.path_patching(model, pairs, queries, senders=heads_before(model, last))
    print(f"\nHeads into {', '.join(queries)}:")
    table(model, pairs, senders, "end")

    pointers = positive(senders, 1)
    print(f"\n## 3. Which heads inform {pointers[0]}?\n\n| paths | effect |\n|---|---|")
    all_into(model, pairs, pointers)
    values = readers_of(model, pointers, "v")
    sent = circuits.path_patching(model, pairs, values, senders=heads_before(model, layer_of(pointers[0])))
    print(f"\nHeads into {', '.join(values)}:")
    table(model, pairs, sent, "S2")


if __name__ == "__main__":
    smollm2 = circuits.load_model("smollm2-135m")
    story(smollm2, pairs_of_one_length(smollm2, N))
