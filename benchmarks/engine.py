"""What the engine costs, as ratios to a plain forward pass of the same batch.

    python benchmarks/engine.py

Circuits of all edges and of 1% of them, a sweep over all heads and MLPs, and the memory of EAP in units of one copy of all
writers' outputs; 16 pairs × 16 tokens without a common prefix.
"""

import time
from functools import partial

import torch
from measuring import LENGTH, PAIRS, THREADS, medians, models, peak_bytes, random_pairs

import circuits
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.question import Question


def main() -> None:
    torch.set_num_threads(THREADS)
    for name, model in models().items():
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
                return ablated_logits(model.bridge, model.architecture, batch.suffix, replacement, mask, edit)

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
        unit = model.graph.n_writers * PAIRS * LENGTH * int(model.bridge.cfg.d_model) * 4
        for size in (PAIRS, 6):
            peak = peak_bytes(partial(circuits.edge_attribution, model, pairs, gradient="clean", batch_size=size))
            share = f"{peak / unit:.2f} × writers × tokens × d_model × 4 bytes ({unit / 2**20:.0f} MiB)"
            print(f"  EAP, {size} pairs at once: peak memory {share}")
        peaks = [
            peak_bytes(
                lambda n=n, model=model: circuits.edge_attribution(model, random_pairs(model, n, 8), gradient="clean")
            )
            for n in ((100, 1000) if model.graph.n_layers < 20 else (32, 64))
        ]
        print(f"  EAP: peak memory of ten (SmolLM2: two) times the pairs: {peaks[1] / max(peaks[0], 1):.2f} times")


if __name__ == "__main__":
    main()
