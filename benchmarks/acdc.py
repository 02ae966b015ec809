"""ACDC's cost: seconds a test, against one full ablated forward pass (`engine/ablate.py`) for 50 of the same tests.

    python benchmarks/acdc.py                     all of them
    python benchmarks/acdc.py small gpt2          some of them: small, gpt2, smollm2, smollm2-kl
    THREADS=1 python benchmarks/acdc.py           on another number of threads

`small`: 4 layers of 4 heads, KL. `gpt2`: GPT-2 small's shape with random weights, 8 pairs × 16 tokens, logit difference.
`smollm2`: SmolLM2-135M on IOI, 16 pairs, logit difference; `smollm2-kl`: the same with the exact KL, last layers only.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import THREADS, peak_bytes, random_pairs

import circuits
import tasks
from circuits.engine.ablate import ablated_logits
from circuits.engine.hooks import inference_state
from circuits.methods.acdc_record import STEPS_FILE, Step, read_steps
from circuits.question import Question

COMPARED = 50


@dataclass
class Case:
    """One search.

    Attributes:
        title: what it is.
        model, pairs: its question.
        threshold, metric, options: see `circuits.acdc`.
    """

    title: str
    model: circuits.Model
    pairs: circuits.PromptPairs
    threshold: float
    metric: str
    options: dict[str, Any] = field(default_factory=dict)


def random_gpt2(**config: int) -> circuits.Model:
    torch.manual_seed(0)
    return circuits.load_model(transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).eval())


def small() -> Case:
    model = random_gpt2(n_layer=4, n_head=4, n_embd=64, vocab_size=500, n_positions=64)
    return Case("4 layers of 4 heads, KL", model, random_pairs(model, 8, 16), 2e-6, "kl_divergence")


def gpt2() -> Case:
    model = random_gpt2()
    return Case("GPT-2 small's shape, logit difference", model, random_pairs(model, 8, 16), 0.004, "logit_difference")


def smollm2() -> Case:
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("ioi").pairs(model, n=16, seed=0)
    return Case("SmolLM2-135M, IOI, logit difference", model, pairs, 0.045, "logit_difference")


def smollm2_kl() -> Case:
    case = smollm2()
    title = "SmolLM2-135M, IOI, exact KL, readers of layers 27 to 29 and logits"
    return Case(title, case.model, case.pairs, 0.01, "kl_divergence", {"start_layer": 27})


CASES = {"small": small, "gpt2": gpt2, "smollm2": smollm2, "smollm2-kl": smollm2_kl}


def masks(case: Case, steps: list[Step]) -> Iterator[torch.Tensor]:
    """The circuit that each test was of: what was there, without the tested edges."""
    graph = case.model.graph
    mask = graph.edge_mask.clone()
    for step in steps:
        tried, r = mask.clone(), graph.reader_index(step.reader)
        tried[slice(None) if step.writer is None else graph.writer_index(step.writer), r] = False
        yield tried
        mask = mask if step.kept else tried


def full_passes(case: Case, steps: list[Step]) -> float:
    """Seconds of one full ablated forward pass a test, on some tests spread over the search."""
    question = Question.ask(case.model, case.pairs, case.metric)
    chosen = set(range(0, len(steps), max(1, len(steps) // COMPARED)))
    spent, made = 0.0, 0
    with inference_state(case.model.bridge), torch.no_grad():
        batches = list(question.batches())
        replacements = [question.replacement(b.suffix, question.clean_run(b.suffix)[1]) for b in batches]
        for number, mask in enumerate(masks(case, steps)):
            if number not in chosen:
                continue
            start = time.perf_counter()
            for batch, replacement in zip(batches, replacements, strict=True):
                logits = ablated_logits(case.model.bridge, case.model.architecture, batch.suffix, replacement, mask)
                float(question.metric(logits, batch.targets).sum())
            spent += time.perf_counter() - start
            made += 1
    return spent / made


def measure(case: Case) -> None:
    found: list[circuits.Circuit] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:

        def search() -> None:
            start = time.perf_counter()
            found.append(
                circuits.acdc(
                    case.model, case.pairs, case.threshold, metric=case.metric, store=Path(folder) / "s", **case.options
                )
            )
            seconds.append(time.perf_counter() - start)

        peak = peak_bytes(search)
        steps = list(read_steps(Path(folder) / "s" / STEPS_FILE))
    numbers = found[0].provenance["search"]
    one, full = seconds[0] / len(steps), full_passes(case, steps)
    print(f"{case.title}, threshold {case.threshold}")
    print(f"  tests: {len(steps)}, edges kept: {numbers['edges_kept']}, seconds: {seconds[0]:.1f}")
    print(f"  seconds a test: {one:.4f}; a full ablated forward pass: {full:.4f}; ratio: {full / one:.1f}")
    print(f"  peak memory over the model: {peak / 2**20:.0f} MiB; closest to the threshold: {numbers['closest']:.1e}")


def main() -> None:
    torch.set_num_threads(THREADS)
    for name in sys.argv[1:] or CASES:
        measure(CASES[name]())


if __name__ == "__main__":
    main()
