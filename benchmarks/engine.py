"""What the engine costs, as ratios to a plain forward pass of the same batch.

    python benchmarks/engine.py

Circuits of all edges and of 1% of them, a sweep over all heads and MLPs (16 pairs × 16 tokens without a common prefix), and
how EAP's memory grows with the pairs.
"""

import time
from functools import partial

import torch
from measuring import MODELS, PAIRS, THREADS, in_new_process, medians, peak_bytes, random_pairs

import circuits
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.question.question import Question


def main() -> None:
    torch.set_num_threads(THREADS)
    for name, load in MODELS.items():
        model = load()
        pairs = random_pairs(model)
        question = Question.ask(model, pairs, batch_size=PAIRS)
        with inference_state(model.bridge), torch.no_grad():
            batch = next(iter(question.batches()))
            _, clean = question.clean_run(batch.suffix)
            replacement = question.replacement(batch.suffix, clean)
            generator = torch.Generator().manual_seed(0)
            half = model.graph.edge_mask & (torch.rand(model.graph.edge_mask.shape, generator=generator) < 0.5)
            few = circuits.random_circuit(model.graph, model.graph.n_edges // 100, generator)

            def run(mask: torch.Tensor, edit: str = "live", model=model, batch=batch, replacement=replacement):
                tokens = batch.tokens  # as in `circuit_metric`: the logits that the metric reads
                return ablated_logits(model.architecture, batch.suffix, replacement, mask, edit, tokens)

            seconds = medians(
                {
                    "plain forward": lambda model=model, batch=batch: model.bridge(batch.suffix.clean),
                    "all edges kept, every reader recomputed": lambda model=model, run=run: run(
                        model.graph.edge_mask, "all"
                    ),
                    "a random half of the edges": lambda half=half, run=run: run(half),
                    "1% of the edges": lambda few=few, run=run: run(few.mask),
                }
            )
        plain = seconds.pop("plain forward")
        print(f"{name}: plain forward {plain:.3f} s")
        for what, median in seconds.items():
            print(f"  {what}: {median / plain:.2f} forwards")
        start = time.perf_counter()
        scores = circuits.activation_patching(model, pairs, batch_size=PAIRS)
        took = time.perf_counter() - start
        print(f"  sweep over {len(scores)} nodes: {took / (len(scores) * plain):.2f} × nodes × forward")
    growth = in_new_process(memory_growth, "GPT-2 small's shape")
    print(f"EAP over GPT-2 small's shape: 1,000 pairs take {growth:.2f} times the memory of 100")


def memory_growth(name: str) -> float:
    """EAP's peak memory with 1,000 pairs of 8 tokens over that with 100."""
    torch.set_num_threads(THREADS)
    model = MODELS[name]()

    def peak(n: int) -> int:
        return peak_bytes(partial(circuits.edge_attribution, model, random_pairs(model, n, 8), gradient="clean"))

    peak(PAIRS)
    few = peak(100)
    return peak(1000) / few


if __name__ == "__main__":
    main()
