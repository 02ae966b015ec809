"""ACDC's cost: processor seconds a test, against one full ablated forward pass (`engine/ablate.py`) a test. Full passes are
made for a few of the tests, in between, so that both see the same machine.

    python benchmarks/acdc.py                     all of them
    python benchmarks/acdc.py small gpt2          some of them: small, small-spans, small-destinations, gpt2, smollm2, smollm2-last,
                                                  smollm2-last-destinations, smollm2-kl, gemma3, gemma2
    THREADS=1 python benchmarks/acdc.py           on another number of threads

`small`: 4 layers of 4 heads, KL; `small-spans`: the same, tests at four spans; `small-destinations`: also by the
span of the query. `gpt2`: GPT-2 small's shape with random weights, 8 pairs × 16 tokens, logit difference.
`smollm2`: SmolLM2-135M on IOI, 16 pairs, logit difference; `smollm2-last`: the same, last layers only, `smollm2-last-destinations`: at the task's
spans and destinations; `smollm2-kl`: those
with the exact KL. `gemma3`: Gemma 3 270M's shape with random weights, 8 pairs × 16 tokens, logit difference; `gemma2`: Gemma 2 2B's, cut
to 8 layers; `gemma3-sparse`: a threshold at which fewer edges stay. Full passes compute the logits that the search needs;
`ALL_LOGITS=1`: of the whole vocabulary. `COUNT=1` counts floating-point operations of matrix products instead of seconds.
`VOCABULARY=5000` cuts the vocabulary of the Gemma shapes, of which these tests read two tokens, to spare memory.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import THREADS, peak_bytes, random_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import circuits
import tasks
from circuits.measure.circuit_logits import circuit_logits, resolved
from circuits.methods.acdc.record import STEPS_FILE, Step
from circuits.methods.acdc.search import Tally
from circuits.question.places import SpanTable
from circuits.question.question import Question

ALL_LOGITS, COUNT = bool(os.environ.get("ALL_LOGITS")), bool(os.environ.get("COUNT"))
VOCABULARY = int(os.environ.get("VOCABULARY", "0"))


class Counter(TorchDispatchMode):
    """Counts the operations of matrix products, without hooks on modules, which torch's own counter needs."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


COUNTER = Counter()


def cost() -> float:
    """Processor seconds so far, or 10⁹ operations with `COUNT`."""
    return COUNTER.total / 1e9 if COUNT else time.process_time()


@dataclass
class Case:
    """One search.

    Attributes:
        title: what it is.
        model, pairs: its question.
        threshold, metric, options: see `circuits.acdc`.
        every: how many tests pass between two full passes.
    """

    title: str
    model: circuits.Model
    pairs: circuits.PromptPairs
    threshold: float
    metric: str
    every: int
    options: dict[str, Any] = field(default_factory=dict)


def random_gpt2(**config: int) -> circuits.Model:
    torch.manual_seed(0)
    return circuits.load_model(transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).eval())


def small() -> Case:
    model = random_gpt2(n_layer=4, n_head=4, n_embd=64, vocab_size=500, n_positions=64)
    return Case("4 layers of 4 heads, KL", model, random_pairs(model, 8, 16), 2e-6, "kl_divergence", 20)


def small_spans() -> Case:
    case = small()
    spans = {"start": (0, 5), "S": (5, 8), "S+": (8, 15), "end": (15, 16)}
    p = case.pairs
    pairs = circuits.PromptPairs.from_tokens(p.clean, p.corrupted, p.answers, p.distractors, roles=[spans] * len(p))
    title = "4 layers of 4 heads, KL, at four spans"
    return Case(title, case.model, pairs, case.threshold, case.metric, case.every, {"positions": "spans"})


def small_destinations() -> Case:
    case = small_spans()
    title = "4 layers of 4 heads, KL, at four spans with destinations"
    return replace(case, title=title, options=case.options | {"destinations": True})


def gpt2() -> Case:
    model = random_gpt2()
    return Case(
        "GPT-2 small's shape, logit difference",
        model,
        random_pairs(model, 8, 16),
        0.00365,
        "logit_difference",
        140,
    )


def gemma3() -> Case:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1, head_dim=256, hidden_size=640,
        intermediate_size=2048, vocab_size=VOCABULARY or 262_144, sliding_window=512,
    )  # fmt: skip
    model = circuits.load_model(transformers.Gemma3ForCausalLM(config).eval())
    return Case(
        "Gemma 3 270M's shape, logit difference", model, random_pairs(model, 8, 16), GEMMA3, "logit_difference", 150
    )


def gemma2() -> Case:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=256, hidden_size=2304,
        intermediate_size=9216, vocab_size=VOCABULARY or 256_000,
    )  # fmt: skip
    model = circuits.load_model(transformers.Gemma2ForCausalLM(config).eval())
    title = "Gemma 2 2B's shape, cut to 8 layers, logit difference"
    return Case(title, model, random_pairs(model, 8, 16), GEMMA2, "logit_difference", 150)


def gemma3_sparse() -> Case:
    case = gemma3()
    case.threshold = GEMMA3_SPARSE
    return case


GEMMA3, GEMMA3_SPARSE, GEMMA2 = 0.01, 0.015, 0.02
"""Gemma 3: thresholds at which 6% of the edges stay, and fewer."""


def smollm2() -> Case:
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("ioi").pairs(model, n=16, seed=0)
    return Case("SmolLM2-135M, IOI, logit difference", model, pairs, 0.042, "logit_difference", 250)


def smollm2_last() -> Case:
    case = smollm2()
    case.title += ", readers of layers 27 to 29 and logits"
    case.options["start_layer"] = 27
    return case


def smollm2_last_destinations() -> Case:
    case = smollm2_last()
    case.title += ", at eight spans with destinations"
    case.every = 600
    case.options |= {"positions": "spans", "destinations": True}
    return case


def smollm2_kl() -> Case:
    case = smollm2()
    title = "SmolLM2-135M, IOI, exact KL, readers of layers 27 to 29 and logits"
    return Case(title, case.model, case.pairs, 0.01, "kl_divergence", 50, {"start_layer": 27})


CASES = {
    "small": small,
    "small-spans": small_spans,
    "small-destinations": small_destinations,
    "gpt2": gpt2,
    "smollm2": smollm2,
    "smollm2-last": smollm2_last,
    "smollm2-last-destinations": smollm2_last_destinations,
    "smollm2-kl": smollm2_kl,
    "gemma3": gemma3,
    "gemma3-sparse": gemma3_sparse,
    "gemma2": gemma2,
}


class FullPasses:
    """Follows a search by its record, and times full passes of some of its tests.

    Attributes:
        made: how many so far.
        wall, processor: seconds and `cost` spent here, the question's preparation not counted.
        passes: `cost` of the passes alone.
    """

    def __init__(self, case: Case, store: Path) -> None:
        self.case, self.steps = case, store / STEPS_FILE
        everything = circuits.Circuit.full(case.model.graph)
        if case.options.get("positions"):
            everything = everything.over(SpanTable(case.pairs).places(case.options.get("destinations", False)))
        self.graph, self.spans = everything.graph, resolved(everything, case.pairs)[1]
        self.question = Question.ask(case.model, case.pairs, case.metric)
        with torch.no_grad():
            self.batches = list(self.question.batches())
            self.replacements = [
                self.question.replacement(b.suffix, self.question.clean_run(b.suffix)[1]) for b in self.batches
            ]
        self.mask, self.place = self.graph.edge_mask.clone(), 0
        self.made, self.wall, self.processor, self.passes = 0, 0.0, 0.0, 0.0

    def __call__(self, tally: Tally) -> None:
        if tally.tests < (self.made + 1) * self.case.every:
            return
        wall, processor = time.perf_counter(), cost()
        tried = self._follow()
        start = cost()
        for batch, replacement in zip(self.batches, self.replacements, strict=True):
            tokens = None if ALL_LOGITS else batch.tokens
            circuit = circuits.Circuit(self.graph, tried)
            logits = circuit_logits(self.question, batch, replacement, circuit, self.spans, tokens)
            float(self.question.metric(logits, batch.targets if tokens is None else batch.targets_read).sum())
        self.passes += cost() - start
        self.made += 1
        self.wall += time.perf_counter() - wall
        self.processor += cost() - processor

    def _follow(self) -> torch.Tensor:
        """Reads the new tests; the circuit that the last of them was of."""
        with self.steps.open() as file:
            file.seek(self.place)
            tried = self.mask
            while line := file.readline():
                step = Step(**json.loads(line))
                tried, r = self.mask.clone(), self.graph.reader_index(step.reader)
                tried[slice(None) if step.writer is None else self.graph.writer_index(step.writer), r] = False
                self.mask = self.mask if step.kept else tried
            self.place = file.tell()
        return tried


def measure(case: Case) -> None:
    result: list[circuits.Circuit] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        full = FullPasses(case, store)

        def search() -> None:
            result.append(
                circuits.acdc(
                    case.model,
                    case.pairs,
                    case.threshold,
                    metric=case.metric,
                    store=store,
                    progress=full,
                    **case.options,
                )
            )

        start, processor = time.perf_counter(), cost()
        with COUNTER if COUNT else nullcontext():
            peak = peak_bytes(search)
        wall, processor = time.perf_counter() - start - full.wall, cost() - processor - full.processor
    numbers = result[0].provenance["search"]
    one, naive = processor / numbers["tests"], full.passes / full.made
    print(f"{case.title}, threshold {case.threshold}")
    print(
        f"  tests: {numbers['tests']}, edges kept: {numbers['edges_kept']} of {case.model.graph.n_edges}, seconds: {wall:.1f}"
    )
    unit = "10⁹ operations" if COUNT else "processor seconds"
    print(f"  {unit} a test: {one:.4f}; a full ablated forward pass: {naive:.4f}; ratio: {naive / one:.1f}")
    print(f"  peak memory over the model: {peak / 2**20:.0f} MiB; closest to the threshold: {numbers['closest']:.1e}")


def main() -> None:
    torch.set_num_threads(THREADS)
    for name in sys.argv[1:] or CASES:
        measure(CASES[name]())


if __name__ == "__main__":
    main()
