"""How well each estimate of edge effects agrees with exact effects, and how good the circuits are that it chooses.

    python benchmarks/estimators.py [--edges 500] [--pairs 16] [--heldout 16] [--tasks ioi …] [--steps 2]

Two random models (all edges) and SmolLM2-135M (edges drawn from all ranks of strength); prints the tables of
docs/estimators.md.

error: Σ (estimate - exact)² / Σ exact² over the measured edges; rank: Spearman's correlation of signed effects over them;
CPR: ∫ f with edges by signed score, CMD: ∫ |1 - f| with edges by absolute score, f = (m(C) - m(∅)) / (m(all) - m(∅)) on
the means of held-out pairs, over the shares of edges p (MIB: Mueller et al. 2025, 2504.13151).
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
import transformers
from measuring import random_pairs
from scipy.stats import spearmanr

import circuits
import tasks
from circuits import Circuit, EdgeScores, Model, PromptPairs

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STRATA = (50, 500, 5000)
Estimate = Callable[[Model, PromptPairs], EdgeScores]


def estimates(steps: int) -> dict[str, Estimate]:
    """Every estimate by name. `steps` are those of IG over activations, the dearest."""
    eap = partial(circuits.edge_attribution, gradient="clean", check_sign=False)
    ig = partial(circuits.edge_attribution, gradient="ig")
    return {
        "EAP": eap,
        "clean-corrupted": partial(circuits.edge_attribution, gradient="clean-corrupted"),
        "IG, 5 steps, left": partial(ig, steps=5, quadrature="left"),
        "IG, 5 steps, midpoint": partial(ig, steps=5),
        "IG, 20 steps, midpoint": partial(ig, steps=20),
        "RelP, attention live": partial(circuits.edge_attribution, gradient="relp"),
        "RelP, attention detached": partial(circuits.edge_attribution, gradient="relp", attention="detached"),
        "GIM": partial(circuits.edge_attribution, gradient="gim"),
        f"IG over activations, {steps} steps": partial(
            circuits.edge_attribution, gradient="ig-activations", steps=steps
        ),
        "conductance, 5 steps": partial(circuits.edge_attribution, gradient="conductance", steps=5),
        "EAP, 200 refined (node)": lambda m, p: circuits.refine(m, p, eap(m, p), top=200),
        "IG, 5 steps, 200 refined (node)": lambda m, p: circuits.refine(m, p, ig(m, p, steps=5), top=200),
        "EAP, 200 refined (exact)": lambda m, p: circuits.refine(m, p, eap(m, p), top=200, how="exact"),
        "information flow": circuits.information_flow,
    }


def random_hf_models() -> dict[str, transformers.PreTrainedModel]:
    """Random weights, large enough that attention and gates do something."""
    sizes = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=48, n_layer=4, n_head=4, n_positions=32, **sizes)
    )
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, **sizes
    ))  # fmt: skip
    for model in (gpt2, llama):
        with torch.no_grad():
            for parameter in model.eval().parameters():
                if parameter.ndim > 1:
                    parameter.mul_(6)
    return {"random GPT-2, 4 layers": gpt2, "random Llama, 4 layers": llama}


def random_models() -> dict[str, Model]:
    return {name: circuits.load_model(model) for name, model in random_hf_models().items()}


def drawn_edges(scores: Mapping[str, EdgeScores], n: int) -> tuple[str, ...]:
    """The 50 strongest edges, and as many of each next stratum of ranks as make n; an edge is as strong as the largest of
    its scores by EAP, IG and RelP, so that no estimate chooses what it is tested on."""
    three = [scores[name] for name in ("EAP", "IG, 5 steps, midpoint", "RelP, attention live")]
    graph = three[0].graph
    strength = torch.stack([s.values.abs() for s in three]).amax(0)[graph.edge_mask]
    order = strength.argsort(descending=True)
    generator = torch.Generator().manual_seed(0)
    bounds = [min(bound, graph.n_edges) for bound in (0, *STRATA, graph.n_edges)]
    chosen = [order[: bounds[1]]]
    for low, high in pairwise(bounds[1:]):
        share = min(high - low, (n - bounds[1]) // len(STRATA))
        chosen.append(order[low + torch.randperm(high - low, generator=generator)[:share]])
    return tuple(graph.edges[i] for i in torch.cat(chosen).sort().values.tolist())


def agreement(scores: EdgeScores, exact: Mapping[str, float]) -> tuple[float, float]:
    """Normalised squared error, and rank correlation."""
    got, wanted = torch.tensor([scores[edge] for edge in exact]), torch.tensor(list(exact.values()))
    return float((got - wanted).square().sum() / wanted.square().sum()), float(spearmanr(got, wanted).statistic)


def curves(model: Model, pairs: PromptPairs, scores: Mapping[str, EdgeScores]) -> dict[str, tuple[float, float]]:
    """(CPR, CMD) of each."""
    graph = model.graph
    asked = [Circuit.full(graph), Circuit.empty(graph)]
    for s in scores.values():
        asked += [s.top(int(p * graph.n_edges), by=by) for by in ("signed", "abs") for p in SHARES[:-1]]
    full, empty, *rest = circuits.circuit_metrics(model, pairs, asked).mean(1).tolist()
    faithfulness = (torch.tensor(rest) - empty) / (full - empty)
    shares = torch.tensor(SHARES)
    result = {}
    for name, (signed, absolute) in zip(scores, faithfulness.reshape(-1, 2, len(SHARES) - 1), strict=True):
        signed, absolute = torch.cat([signed, torch.ones(1)]), torch.cat([absolute, torch.ones(1)])
        result[name] = float(torch.trapezoid(signed, shares)), float(torch.trapezoid((1 - absolute).abs(), shares))
    return result


def report(title: str, model: Model, pairs: PromptPairs, edges: int | None, heldout: PromptPairs | None, steps: int):
    """Prints one table."""
    scores, seconds = {}, {}
    for name, estimate in estimates(steps).items():
        start = time.perf_counter()
        scores[name] = estimate(model, pairs)
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    names = None if edges is None else drawn_edges(scores, edges)
    exact = circuits.exact_edge_effects(model, pairs, names).to_dict()
    took = time.perf_counter() - start
    areas = {} if heldout is None else curves(model, heldout, scores)
    print(
        f"\n### {title}\n\n{len(exact)} of {model.graph.n_edges} edges measured exactly ({took:.0f} s), {len(pairs)} pairs.\n"
    )
    print("| estimate | error | rank | " + ("CPR | CMD | " if areas else "") + "seconds |")
    print("|---|" + "---|" * (5 if areas else 3))
    for name, s in scores.items():
        error, rank = agreement(s, exact)
        cells = [f"{error:.3g}" if name != "information flow" else "–", f"{rank:.2f}"]
        cells += [f"{area:.3f}" for area in areas.get(name, ())]
        print(f"| {name} | " + " | ".join(cells) + f" | {seconds[name]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edges", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--heldout", type=int, default=16)
    parser.add_argument("--tasks", nargs="*", default=["ioi", "greater-than", "subject-verb-agreement"])
    parser.add_argument("--steps", type=int, default=2, help="of IG over activations")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name, model in random_models().items():
        report(name, model, random_pairs(model, 16, 8), None, None, 5)
    if not asked.tasks:
        return
    model = circuits.load_model("smollm2-135m")
    for task in asked.tasks:
        pairs, heldout = (
            tasks.load(task).pairs(model, n=n, seed=seed) for n, seed in ((asked.pairs, 0), (asked.heldout, 1))
        )
        report(f"SmolLM2-135M, {task}", model, pairs, asked.edges, heldout, asked.steps)


if __name__ == "__main__":
    main()
