"""What AtP* costs, as ratios to a forward and a backward pass of the same batch.

    python benchmarks/atp_star.py

In seconds of CPU, so that a busy machine does not matter; 16 pairs × 16 tokens without a common prefix; each position for itself. Peak memory in units of AtP's.
"""

import time

import torch
from measuring import PAIRS, THREADS, medians, models, peak_bytes, random_pairs

import circuits
from circuits.engine.hooks import inference_state
from circuits.engine.live import live_run
from circuits.question import Question


def main() -> None:
    torch.set_num_threads(THREADS)
    for name, model in models().items():
        pairs = random_pairs(model)
        question = Question.ask(model, pairs, batch_size=PAIRS)
        layers = model.graph.n_layers

        with inference_state(model.bridge):
            batch = next(iter(question.batches()))

        def clean_run(model=model, batch=batch, question=question):
            suffix = batch.suffix
            return live_run(
                model.bridge, model.architecture, suffix.clean, suffix.position,
                lambda logits: question.metric(logits, batch.targets), [],
            )  # fmt: skip

        def forward(model=model, clean_run=clean_run):
            with inference_state(model.bridge):
                clean_run()

        def both(model=model, clean_run=clean_run):
            with inference_state(model.bridge):
                clean_run().gradients([])

        def star(qk_fix: bool, grad_drop: bool, model=model, pairs=pairs):
            return lambda: circuits.atp_star(model, pairs, qk_fix=qk_fix, grad_drop=grad_drop, batch_size=PAIRS)

        works = {"forward": forward, "both": both, "AtP": star(False, False), "QK fix": star(True, False),
                 "GradDrop": star(False, True), "AtP*": star(True, True)}  # fmt: skip
        seconds = medians(works, runs=3, clock=time.process_time)
        one, back = seconds["forward"], seconds["both"] - seconds["forward"]
        print(f"{name}, {layers} layers: forward {one:.3f} s, backward {back:.3f} s, AtP {seconds['AtP']:.3f} s")
        print(f"  QK fix: {(seconds['QK fix'] - seconds['AtP']) / one:.2f} forwards more than AtP")
        print(f"  GradDrop: {(seconds['GradDrop'] - seconds['AtP']) / back:.1f} backwards more ({layers} layers)")
        print(f"  AtP*: {seconds['AtP*'] / back:.1f} backwards in all; 0.7·layers + 3 = {0.7 * layers + 3:.0f}")
        print(f"  AtP*: {peak_bytes(works['AtP*']) / peak_bytes(works['AtP']):.2f} × AtP's peak memory")


if __name__ == "__main__":
    main()
