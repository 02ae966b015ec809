"""What attribution costs: its time against two forwards and one backward of the same Hugging Face model, and peak memory.

    python benchmarks/attribution.py [--runs 3]

SmolLM2-135M, 16 pairs of 16 tokens without a common prefix; medians of alternating runs in one process.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from measuring import MODELS, PAIRS, THREADS, in_new_process, medians, peak_bytes, random_pairs
from transformers import AutoModelForCausalLM

import circuits
from circuits import Model, PromptPairs, zoo

Work = Callable[[], object]


def plain_passes(pairs: PromptPairs) -> tuple[Work, Work, Work]:
    """The Hugging Face model alone: two forwards and one backward; a forward; a forward and its backward."""
    clean, corrupted = torch.tensor(pairs.clean), torch.tensor(pairs.corrupted)
    plain = AutoModelForCausalLM.from_pretrained(
        zoo.fetch("smollm2-135m"), attn_implementation="eager", dtype=torch.float32
    )
    plain = plain.eval().requires_grad_(False)

    def forward() -> None:
        with torch.no_grad():
            plain(corrupted)

    def connected() -> tuple[torch.Tensor, torch.Tensor]:
        embedding = plain.model.embed_tokens(clean).requires_grad_()
        logits = plain(inputs_embeds=embedding).logits[:, -1]
        return embedding, (logits[:, 5] - logits[:, 9]).sum()

    def backward() -> None:
        embedding, metric = connected()
        torch.autograd.grad(metric, embedding)

    def both() -> None:
        forward()
        backward()

    return both, forward, backward


def methods(model: Model, pairs: PromptPairs) -> dict[str, Work]:
    """What is measured."""
    edges = partial(circuits.edge_attribution, model, pairs, batch_size=PAIRS)
    nodes = partial(circuits.atp_star, model, pairs, positions="each", batch_size=PAIRS)
    attribution = partial(circuits.attribution_patching, model, pairs, positions="each", batch_size=PAIRS)
    eap = edges(gradient="clean", check_sign=False)
    return {
        "EAP": partial(edges, gradient="clean"),
        "EAP, check_sign=False": partial(edges, gradient="clean", check_sign=False),
        "RelP": partial(edges, gradient="relp"),
        "GIM": partial(edges, gradient="gim"),
        "IG, 5 steps": partial(edges, gradient="ig", steps=5),
        "conductance, 5 steps": partial(edges, gradient="conductance", steps=5),
        "200 edges refined (node)": partial(circuits.refine, model, pairs, eap, top=200, batch_size=PAIRS),
        "information flow": partial(circuits.information_flow, model, pairs, batch_size=PAIRS),
        "AtP, heads, MLPs, q, k, v, each position": partial(attribution, nodes="heads+mlps+q+k+v"),
        "AtP, those and neurons, each position": partial(attribution, nodes="heads+mlps+q+k+v+neurons"),
        "AtP*, neither fix": partial(nodes, qk_fix=False, grad_drop=False),
        "AtP*, QK fix": partial(nodes, grad_drop=False),
        "AtP*": nodes,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    model = circuits.load_model("smollm2-135m")
    pairs = random_pairs(model)
    both, forward, backward = plain_passes(pairs)
    works = methods(model, pairs)
    seconds = medians({"unit": both, "forward": forward, "backward": backward} | works, asked.runs)
    unit, one = seconds["unit"], seconds["forward"]
    back = seconds["backward"] - one
    print(f"two forwards and one backward of the Hugging Face model: {unit:.2f} s ({one:.2f} s a forward)")
    for name in works:
        print(f"  {name}: {seconds[name] / unit:.2f} of them ({seconds[name]:.2f} s)")
    print(f"information flow: {seconds['information flow'] / one:.2f} forwards")
    fix = seconds["AtP*, QK fix"] - seconds["AtP*, neither fix"]
    layers = model.graph.n_layers
    print(f"QK fix: {fix / one:.2f} forwards more")
    print(f"AtP*: {seconds['AtP*'] / back:.1f} backwards; 0.55·layers + 3 = {0.55 * layers + 3:.1f}")
    for name in MODELS:
        ratio = in_new_process(memory_ratio, name)
        print(f"EAP's peak memory over {name}, default batch size: {ratio:.2f} of a copy of all writers")


def memory_ratio(name: str) -> float:
    """EAP's peak memory in units of writers × tokens × d_model × 4 bytes."""
    torch.set_num_threads(THREADS)
    model = MODELS[name]()
    pairs = random_pairs(model)
    work = partial(circuits.edge_attribution, model, pairs, gradient="clean")
    work()
    tokens = sum(map(len, pairs.clean))
    return peak_bytes(work) / (model.graph.n_writers * tokens * int(model.bridge.cfg.d_model) * 4)


if __name__ == "__main__":
    main()
